david_test(NAME test_noise LABEL unit SOURCES test_noise.c LIBS david_reference)
david_test(NAME test_operators LABEL unit SOURCES test_operators.c LIBS david_engine)
david_test(NAME test_tiles LABEL unit SOURCES test_tiles.c LIBS david_engine)
david_test(NAME test_restoration LABEL unit SOURCES test_restoration.c LIBS david_engine)
target_link_options(test_restoration PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free)
david_test(NAME test_davi_golden LABEL golden SOURCES test_davi_golden.c LIBS david_engine)
david_test(NAME test_davi_engine LABEL unit SOURCES test_davi_engine.c LIBS david_engine)
# Threads that spin while they wait would fight those of the other tests.
set_tests_properties(test_davi_golden test_davi_engine PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
