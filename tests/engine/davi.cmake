david_test(NAME test_davi LABEL unit SOURCES test_davi.c LIBS david_engine)
target_link_options(test_davi PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free)
david_test(NAME test_davi_golden LABEL golden SOURCES test_davi_golden.c LIBS david_engine)
david_test(NAME test_davi_engine LABEL unit SOURCES test_davi_engine.c LIBS david_engine)
