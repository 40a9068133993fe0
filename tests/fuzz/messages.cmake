david_fuzz(NAME fuzz_multipart SOURCES fuzz_multipart.c LIBS david_proto DICT multipart.dict CORPUS ${seeds}/multipart)
david_fuzz(NAME fuzz_query SOURCES fuzz_query.c ${CMAKE_SOURCE_DIR}/server/restore/parameters.c LIBS david_proto MAX_LEN 4096 DICT query.dict CORPUS ${seeds}/query)
david_fuzz(NAME fuzz_config SOURCES fuzz_config.c LIBS david_proto DICT config.dict CORPUS ${seeds}/config)
