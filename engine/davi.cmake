target_sources(david_engine PRIVATE arch.c engine.c model.c network.c threads.c
  davi/measurement.c davi/operators.c davi/image_pool.c davi/restoration.c davi/restoration_output.c
  davi/operators/blur.c davi/operators/gray.c davi/operators/identity.c davi/operators/jpeg.c
  davi/operators/mask.c davi/operators/pool.c
  davi/sampler.c davi/conditions.c davi/schedule.c davi/free_list.c davi/tiles.c)
# Rows of images are plain loops: let the compiler make vectors of them.
set_source_files_properties(davi/operators/blur.c davi/operators/gray.c davi/operators/mask.c
  davi/operators/pool.c davi/restoration.c PROPERTIES COMPILE_OPTIONS -O3)
