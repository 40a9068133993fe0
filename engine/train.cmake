target_sources(david_engine PRIVATE graph/arena.c graph/backward.c graph/backward_plan.c nets/patchgan.c
  train/davi.c train/denoising.c train/learner.c train/losses.c
  cpu/backward.c cpu/backward_conv.c)
# Loops of training, compiled once per instruction set like those of cpu.cmake.
foreach(isa sse avx2 avx512 amx)
  target_sources(david_cpu_${isa} PRIVATE cpu/backward_attention.c cpu/backward_gather.c cpu/backward_norm.c
    cpu/backward_walks.c cpu/backward_weights.c)
endforeach()
