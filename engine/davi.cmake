# An operator is a file of this folder and a row of davi/tasks.def.
file(GLOB operators CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/davi/operators/*.c)
target_sources(david_engine PRIVATE arch.c engine.c model.c network.c threads.c
  davi/measurement.c davi/operators.c davi/image_pool.c davi/restoration.c davi/restoration_device.c
  davi/restoration_output.c ${operators}
  davi/sampler.c davi/conditions.c davi/schedule.c davi/free_list.c davi/tiles.c)
# Rows of images are plain loops: let the compiler make vectors of them.
set_source_files_properties(${operators} PROPERTIES COMPILE_OPTIONS -O3)
