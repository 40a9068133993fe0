david_test(NAME test_multipart LABEL unit SOURCES test_multipart.c LIBS david_proto)
