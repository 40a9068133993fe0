david_test(NAME test_codec LABEL unit SOURCES test_codec.c images.c LIBS david_proto)
david_test(NAME test_codec_kinds LABEL unit SOURCES test_codec_kinds.c images.c LIBS david_proto)
david_test(NAME test_jpeg_rows LABEL unit SOURCES test_jpeg_rows.c images.c LIBS david_proto)
david_test(NAME test_orientation LABEL unit SOURCES test_orientation.c images.c LIBS david_proto)
# It counts what is allocated by standing in front of malloc, where a sanitizer already stands.
if(NOT DAVID_SANITIZE AND NOT DAVID_FUZZ)
  david_test(NAME test_codec_memory LABEL unit SOURCES test_codec_memory.c images.c LIBS david_proto)
endif()
