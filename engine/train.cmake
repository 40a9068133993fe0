target_sources(david_engine PRIVATE graph/arena.c graph/backward.c graph/backward_plan.c nets/patchgan.c
  train/bench.c train/checkpoint.c train/crops.c train/dataset.c train/davi.c train/denoising.c train/direct.c train/draws.c train/generator.c train/trainable.c train/loader.c
  train/losses.c train/nets.c train/output.c train/rows.c train/run.c train/sample.c train/sheets.c train/process_group.c train/trainer.c train/validation.c
  cpu/backward.c cpu/backward_conv.c cpu/losses.c cpu/losses_energy.c cpu/losses_hybrid.c)
# Loops of training, compiled once per instruction set like those of cpu.cmake.
foreach(isa sse avx2 avx512 amx)
  target_sources(david_cpu_${isa} PRIVATE cpu/backward_attention.c cpu/backward_im2col.c cpu/backward_norm.c cpu/backward_pack.c
    cpu/backward_elementwise.c cpu/backward_weights.c cpu/backward_winograd.c $<$<STREQUAL:${isa},amx>:cpu/backward_amx.c cpu/backward_im2col_amx.c>)
endforeach()
