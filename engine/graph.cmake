target_sources(david_engine PRIVATE graph/fusion.c graph/builder.c graph/backend/device.c graph/op_make.c graph/op_run.c graph/op_gradient.c graph/constant_folding.c graph/graph.c graph/params.c
  graph/plan.c graph/program.c graph/program_make.c nets/unet.c)
