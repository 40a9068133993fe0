# Gradients in double against finite differences of the passes that they belong to.
david_test(NAME gradients_reference LABEL unit SOURCES test_gradients.c LIBS david_reference)
# Whole networks, on each back end and dtype; the reference is too slow for those of a real size.
david_test(NAME gradients_golden_reference LABEL golden SOURCES test_gradients_golden.c LIBS david_reference)
set_tests_properties(gradients_golden_reference PROPERTIES ENVIRONMENT "DAVID_TEST_MAX_PARAMS=2000000")
david_test(NAME gradients_golden_cpu LABEL golden SOURCES test_gradients_golden.c LIBS david_engine)
target_compile_definitions(gradients_golden_cpu PRIVATE DAVID_TEST_CPU)
add_test(NAME gradients_golden_cpu_bf16 COMMAND gradients_golden_cpu)
set_tests_properties(gradients_golden_cpu_bf16 PROPERTIES LABELS golden TIMEOUT 300
  ENVIRONMENT "DAVID_TEST_DTYPE=BF16;OMP_WAIT_POLICY=PASSIVE" SKIP_RETURN_CODE 77)
# Every gradient against the one in double: one entry per instruction set (one that the machine lacks is skipped).
foreach(part cpu elementwise network)
  david_test(NAME gradients_${part} LABEL unit SOURCES test_gradients_${part}.c LIBS david_reference)
  foreach(isa sse avx2 avx512)
    add_test(NAME gradients_${part}_${isa} COMMAND gradients_${part})
    set_tests_properties(gradients_${part}_${isa} PROPERTIES LABELS unit TIMEOUT 300
      ENVIRONMENT "DAVID_CPU_ISA=${isa};OMP_WAIT_POLICY=PASSIVE" SKIP_RETURN_CODE 77)
  endforeach()
endforeach()
# Both steps of training from the golden weights.
david_test(NAME train_golden_reference LABEL golden SOURCES test_train_golden.c LIBS david_reference)
david_test(NAME train_golden_cpu LABEL golden SOURCES test_train_golden.c LIBS david_engine)
target_compile_definitions(train_golden_cpu PRIVATE DAVID_TEST_CPU)
# Threads that spin while they wait would fight those of the other tests.
set_tests_properties(gradients_golden_cpu train_golden_cpu gradients_cpu gradients_elementwise gradients_network
  PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
# The longest of their label: first.
set_tests_properties(gradients_golden_reference train_golden_reference PROPERTIES COST 100)
# Loss ops against those in double.
david_test(NAME test_losses LABEL unit SOURCES test_losses.c LIBS david_reference)
david_test(NAME test_train_losses LABEL unit SOURCES test_train_losses.c LIBS david_reference)
set_tests_properties(test_losses test_train_losses PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=PASSIVE SKIP_RETURN_CODE 77)
david_test(NAME test_scores LABEL unit SOURCES test_scores.c LIBS david_engine)
if(NOT DAVID_ENGINE_ONLY) # photographs are read by the codec
  david_test(NAME test_rows LABEL unit SOURCES test_rows.c LIBS david_engine)
endif()
