david_fuzz(NAME fuzz_safetensors SOURCES fuzz_safetensors.c LIBS david_proto MAX_LEN 8192
  DICT safetensors.dict CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/safetensors)
david_fuzz(NAME fuzz_pt SOURCES fuzz_pt.c LIBS david_proto MAX_LEN 8192
  DICT pt.dict CORPUS ${CMAKE_CURRENT_SOURCE_DIR}/corpus/pt)
