# Every op against the naive one in double: one ctest entry per instruction set (one that the machine lacks is skipped).
# PASSIVE: threads that spin while they wait would take the cores of the other tests, and of each other.
foreach(part ops sampler networks)
  david_test(NAME backend_${part} LABEL unit SOURCES test_backend_${part}.c LIBS david_reference)
  set_tests_properties(backend_${part} PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
  foreach(isa sse avx2 avx512 avx512bf16 amx)
    add_test(NAME backend_${part}_${isa} COMMAND backend_${part})
    set_tests_properties(backend_${part}_${isa} PROPERTIES LABELS unit TIMEOUT 120
      ENVIRONMENT "DAVID_CPU_ISA=${isa};OMP_WAIT_POLICY=PASSIVE" SKIP_RETURN_CODE 77)
  endforeach()
endforeach()
# A prologue is for sets with BF16 alone: the others are skipped.
david_test(NAME conv_prologue LABEL unit SOURCES test_conv_prologue.c LIBS david_reference)
set_tests_properties(conv_prologue PROPERTIES SKIP_RETURN_CODE 77)
foreach(isa avx512bf16 amx)
  add_test(NAME conv_prologue_${isa} COMMAND conv_prologue)
  set_tests_properties(conv_prologue_${isa} PROPERTIES LABELS unit TIMEOUT 120
    ENVIRONMENT "DAVID_CPU_ISA=${isa};OMP_WAIT_POLICY=PASSIVE" SKIP_RETURN_CODE 77)
endforeach()
