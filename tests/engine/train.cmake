# Gradients in double against finite differences of the passes that they belong to.
david_test(NAME gradients_reference LABEL unit SOURCES test_gradients.c LIBS david_reference)
# Whole networks, on each back end and dtype; the reference is too slow for those of a real size.
david_test(NAME gradients_golden_reference LABEL golden SOURCES test_gradients_golden.c LIBS david_reference)
set_tests_properties(gradients_golden_reference PROPERTIES ENVIRONMENT "DAVID_TEST_MAX_PARAMS=2000000")
