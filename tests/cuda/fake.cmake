# cuda-fake: the plugin's own sources on a fake device (fake/fake.h). Needs no toolkit.
set(fake_folder ${CMAKE_CURRENT_BINARY_DIR}/fake)
set(cuda_sources backend conv cudnn_graph cudnn_candidates cudnn_operations cudnn_parts device stream_slots nvml execution images plans timer)
list(TRANSFORM cuda_sources REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/engine/cuda/\\1.c")

add_library(david_fake STATIC fake/descriptors.c fake/dnn_run.c fake/memory.c fake/runtime.c fake/streams.c)
target_include_directories(david_fake BEFORE PUBLIC fake/include)
target_link_libraries(david_fake PUBLIC david_engine)
add_library(david_cuda_on_fake STATIC ${cuda_sources})
target_link_libraries(david_cuda_on_fake PUBLIC david_fake ${CMAKE_DL_LIBS})
# Its kernels: emulated, or the CPU's ops in their place for networks of a real size
add_library(david_fake_kernels_emulated STATIC fake/kernels_emulated.c)
target_link_libraries(david_fake_kernels_emulated PUBLIC david_fake david_kernels_emulated)
# (except the kernels on images, which are emulated there too: the host has the same arithmetic, not the same code).
add_library(david_fake_kernels_cpu STATIC fake/kernels_cpu.c fake/kernels_emulated.c)
target_link_libraries(david_fake_kernels_cpu PUBLIC david_fake david_image_kernels_emulated)

# david_fake_plugin(KERNELS): a folder with a plugin on the fake device, and with the program.
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

# david_fake_test(NAME name KERNELS kernels PROGRAM target [SETTINGS ...]): a test of the other back ends on the plugin in a folder.
function(david_fake_test)
  cmake_parse_arguments(T "" "NAME;KERNELS;PROGRAM" "SETTINGS" ${ARGN})
  add_test(NAME ${T_NAME} COMMAND ${T_PROGRAM})
  set_tests_properties(${T_NAME} PROPERTIES LABELS cuda-fake TIMEOUT 600 ENVIRONMENT
    "DAVID_TEST_BACKEND=cuda;DAVID_TEST_PLUGIN=$<TARGET_FILE:david_fake_plugin_${T_KERNELS}>;OMP_WAIT_POLICY=PASSIVE;${T_SETTINGS}")
endfunction()
foreach(kernels emulated cpu)
  david_fake_test(NAME fake_ops_${kernels} KERNELS ${kernels} PROGRAM backend_ops)
  david_fake_test(NAME fake_sampler_${kernels} KERNELS ${kernels} PROGRAM backend_sampler)
  david_fake_test(NAME fake_networks_${kernels} KERNELS ${kernels} PROGRAM backend_networks)
  foreach(dtype BF16 F16)
    david_fake_test(NAME fake_unet_${kernels}_${dtype} KERNELS ${kernels} PROGRAM unet_golden_cpu
      SETTINGS DAVID_TEST_DTYPE=${dtype} DAVID_TEST_MAX_PARAMS=2000000)
  endforeach()
endforeach()
# Attention in F32 is a kernel of our own and slow when emulated: the network with much attention is left out there.
david_fake_test(NAME fake_unet_cpu_F32 KERNELS cpu PROGRAM unet_golden_cpu SETTINGS DAVID_TEST_MAX_PARAMS=2000000)
david_fake_test(NAME fake_unet_emulated_F32 KERNELS emulated PROGRAM unet_golden_cpu
  SETTINGS DAVID_TEST_MIN_PARAMS=600000 DAVID_TEST_MAX_PARAMS=2000000)
# ffhq256 in the dtype that `auto` selects on a card; in F32 only in the slow label.
foreach(dtype F32 BF16)
  david_fake_test(NAME fake_ffhq256_${dtype} KERNELS cpu PROGRAM unet_golden_cpu
    SETTINGS DAVID_TEST_DTYPE=${dtype} DAVID_TEST_MIN_PARAMS=2000000)
endforeach()
set_tests_properties(fake_ffhq256_F32 PROPERTIES LABELS "cuda-fake;slow")
david_fake_test(NAME fake_davi_golden KERNELS cpu PROGRAM test_davi_golden)
david_fake_test(NAME fake_davi_engine KERNELS cpu PROGRAM test_davi_engine)

# The daemon on it: its own test of the device, and the service's tests of everything else.
add_library(david_fake_nvml SHARED fake/nvml.c)
set_target_properties(david_fake_nvml PROPERTIES OUTPUT_NAME nvidia-ml SOVERSION 1 VERSION 1
  LIBRARY_OUTPUT_DIRECTORY ${fake_folder}/nvml)
# david_fake_service(NAME FILE [pytest's options]...)
function(david_fake_service name file)
  add_test(NAME fake_service_${name} COMMAND /usr/bin/python3 -m pytest -q -p no:cacheprovider --color=no ${file} ${ARGN})
  set_tests_properties(fake_service_${name} PROPERTIES LABELS cuda-fake TIMEOUT 600 ENVIRONMENT
    "DAVID=${fake_folder}/cpu/david;DAVID_REAL=$<TARGET_FILE:david>;DAVID_TEST_BACKEND=cuda;DAVID_FAKE_NVML=${fake_folder}/nvml;PYTHONDONTWRITEBYTECODE=1;OMP_WAIT_POLICY=PASSIVE")
endfunction()
david_fake_service(device ${CMAKE_CURRENT_SOURCE_DIR}/fake/test_service.py)
david_fake_service(restore ${CMAKE_SOURCE_DIR}/tests/service/test_restore.py)
# Without the tests of the queue that need hundreds of rows: they take minutes here.
david_fake_service(operation ${CMAKE_SOURCE_DIR}/tests/service/test_operation.py
  -k "not full_queue and not memory_that_is_taken and not goes_away and not sigterm")
david_fake_service(bad_input ${CMAKE_SOURCE_DIR}/tests/service/test_bad_input.py)
# OMP_WAIT_POLICY, set above, would change the result of the test that checks spinning.
david_fake_service(surroundings ${CMAKE_SOURCE_DIR}/tests/service/test_surroundings.py -k "not do_not_spin")

# Failures, and what serving must not do: linked with the plugin's sources, so that the test can query the fake
# device.
david_test(NAME fake_faults LABEL cuda-fake SOURCES fake/test_faults.c TIMEOUT 300
  LIBS david_cuda_on_fake -Wl,--whole-archive david_fake_kernels_cpu -Wl,--no-whole-archive)
set_tests_properties(fake_faults PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)

# The fake device's headers against the toolkit's.
if(TARGET david_cuda_toolkit)
  add_executable(fake_headers fake/test_headers.c)
  target_link_libraries(fake_headers PRIVATE david_cuda_toolkit)
  add_test(NAME fake_headers COMMAND fake_headers)
  set_tests_properties(fake_headers PROPERTIES LABELS cuda-fake TIMEOUT 60)
else()
  add_test(NAME fake_headers COMMAND sh -c
    "echo 'no CUDA toolkit to compare with'; [ -z \"$DAVID_REQUIRE_CUDA\" ] && exit 77; exit 1")
  set_tests_properties(fake_headers PROPERTIES LABELS cuda-fake SKIP_RETURN_CODE 77)
endif()
