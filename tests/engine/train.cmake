# Gradients in double against finite differences of the passes that they belong to.
david_test(NAME gradients_reference LABEL unit SOURCES test_gradients.c LIBS david_reference)
