david_test(NAME graph_plan LABEL unit SOURCES test_graph_plan.c LIBS david_engine)
david_test(NAME graph_program LABEL unit SOURCES test_graph_program.c LIBS david_reference)
david_test(NAME graph_fusion LABEL unit SOURCES test_graph_fusion.c LIBS david_reference)
# The same comparison on each back end and dtype; the reference is too slow for networks of a real size.
david_test(NAME unet_golden_reference LABEL golden SOURCES test_unet_golden.c LIBS david_reference)
target_compile_definitions(unet_golden_reference PRIVATE DAVID_TEST_REFERENCE)
set_tests_properties(unet_golden_reference PROPERTIES ENVIRONMENT "DAVID_TEST_MAX_PARAMS=2000000")
if(EXISTS ${CMAKE_SOURCE_DIR}/engine/cpu.cmake)
  david_test(NAME unet_golden_cpu LABEL golden SOURCES test_unet_golden.c LIBS david_engine)
  add_test(NAME unet_golden_cpu_bf16 COMMAND unet_golden_cpu)
  set_tests_properties(unet_golden_cpu_bf16 PROPERTIES LABELS golden TIMEOUT 120
    ENVIRONMENT "DAVID_TEST_DTYPE=BF16" SKIP_REGULAR_EXPRESSION "has no BF16 here")
endif()
