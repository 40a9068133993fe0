target_sources(david_engine PRIVATE cpu/backend.c cpu/conv.c cpu/amx_shape.c cpu/isa.c)
# One source, compiled once per instruction set; isa.c chooses at start.
set(DAVID_ISA_FLAGS_sse -march=x86-64-v2)
set(DAVID_ISA_FLAGS_avx2 -march=x86-64-v3)
set(DAVID_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(DAVID_ISA_FLAGS_amx ${DAVID_ISA_FLAGS_avx512} -mavx512bf16 -mamx-tile -mamx-bf16)
foreach(isa sse avx2 avx512 amx)
  add_library(david_cpu_${isa} OBJECT cpu/direct.c cpu/winograd.c cpu/attention.c cpu/norm.c cpu/pictures.c cpu/vectors.c
    $<$<STREQUAL:${isa},amx>:cpu/amx.c>)
  target_compile_definitions(david_cpu_${isa} PRIVATE ISA=${isa})
  target_compile_options(david_cpu_${isa} PRIVATE ${DAVID_ISA_FLAGS_${isa}} -O3 -ffp-contract=fast -fno-stack-protector)
  target_link_libraries(david_cpu_${isa} PRIVATE OpenMP::OpenMP_C)
  target_sources(david_engine PRIVATE $<TARGET_OBJECTS:david_cpu_${isa}>)
endforeach()
