# cuda-fake: the plugin's own sources against a device that is not there (fake/fake.h). Needs no toolkit.
set(fake_folder ${CMAKE_CURRENT_BINARY_DIR}/fake)
set(cuda_sources backend conv cudnn_graph cudnn_offers cudnn_operations cudnn_parts device lanes nvml pass plans timer)
list(TRANSFORM cuda_sources REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/engine/cuda/\\1.c")

add_library(david_fake STATIC fake/descriptors.c fake/dnn_run.c fake/memory.c fake/runtime.c fake/streams.c)
target_include_directories(david_fake BEFORE PUBLIC fake/include)
target_link_libraries(david_fake PUBLIC david_engine)
add_library(david_cuda_on_fake STATIC ${cuda_sources})
target_link_libraries(david_cuda_on_fake PUBLIC david_fake ${CMAKE_DL_LIBS})
# Kernels on it: emulated, or the CPU's ops in their place for networks of a real size.
add_library(david_fake_kernels_emulated STATIC fake/kernels_emulated.c)
target_link_libraries(david_fake_kernels_emulated PUBLIC david_fake david_kernels_emulated)
add_library(david_fake_kernels_cpu STATIC fake/kernels_cpu.c)
target_link_libraries(david_fake_kernels_cpu PUBLIC david_fake)

# david_fake_plugin(KERNELS): a folder with a plugin on the fake device, and the program beside it.
function(david_fake_plugin kernels)
  set(folder ${fake_folder}/${kernels})
  add_library(david_fake_plugin_${kernels} MODULE ${CMAKE_SOURCE_DIR}/engine/cuda/plugin.c)
  target_link_libraries(david_fake_plugin_${kernels} PRIVATE david_cuda_on_fake david_build_id
    -Wl,--whole-archive david_fake_kernels_${kernels} -Wl,--no-whole-archive)
  target_link_options(david_fake_plugin_${kernels} PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,defs)
  set_target_properties(david_fake_plugin_${kernels} PROPERTIES OUTPUT_NAME david_cuda LINKER_LANGUAGE CXX
    C_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${folder})
  add_custom_target(david_fake_program_${kernels} ALL DEPENDS david david_fake_plugin_${kernels}
    COMMAND ${CMAKE_COMMAND} -E copy_if_different $<TARGET_FILE:david> ${folder}/david)
endfunction()
david_fake_plugin(emulated)
david_fake_plugin(cpu)
