target_sources(david_engine PRIVATE cpu/backend.c cpu/conv.c cpu/bf16_shape.c cpu/isa.c)
# One source, compiled once per instruction set; isa.c chooses at start.
set(DAVID_ISA_FLAGS_sse -march=x86-64-v2)
set(DAVID_ISA_FLAGS_avx2 -march=x86-64-v3)
set(DAVID_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(DAVID_ISA_FLAGS_avx512bf16 ${DAVID_ISA_FLAGS_avx512} -mavx512bf16)
set(DAVID_ISA_FLAGS_amx ${DAVID_ISA_FLAGS_avx512bf16} -mamx-tile -mamx-bf16)
set(isa_level -O3)
if(DAVID_SANITIZE)
  set(isa_level -O2) # compiles in half the time and is as fast
endif()
foreach(isa sse avx2 avx512 avx512bf16 amx)
  add_library(david_cpu_${isa} OBJECT cpu/direct.c cpu/winograd.c cpu/attention.c cpu/norm.c cpu/resample.c cpu/vectors.c
    $<$<IN_LIST:${isa},avx512bf16;amx>:cpu/bf16.c>)
  target_compile_definitions(david_cpu_${isa} PRIVATE ISA=${isa})
  target_compile_options(david_cpu_${isa} PRIVATE ${DAVID_ISA_FLAGS_${isa}} ${isa_level} -ffp-contract=fast -fno-stack-protector)
  target_link_libraries(david_cpu_${isa} PRIVATE OpenMP::OpenMP_C)
  target_sources(david_engine PRIVATE $<TARGET_OBJECTS:david_cpu_${isa}>)
endforeach()
