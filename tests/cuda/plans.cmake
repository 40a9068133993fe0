# cuda-plans: every cuDNN plan of the published networks, of the shipped model and of a network of cells (12
# channels in and out), without a GPU.
set(plans_networks ffhq256 imagenet256 default cells)
if(NOT TARGET david_cuda_plans)
  foreach(network ${plans_networks})
    add_test(NAME cuda_plans_${network} COMMAND sh -c
      "echo 'this build has no CUDA toolkit'; [ -z \"$DAVID_REQUIRE_CUDA\" ] && exit 77; exit 1")
    set_tests_properties(cuda_plans_${network} PROPERTIES LABELS cuda-plans SKIP_RETURN_CODE 77)
  endforeach()
  return()
endif()
add_library(david_nodriver SHARED nodriver.c)
set_target_properties(david_nodriver PROPERTIES OUTPUT_NAME cuda SUFFIX .so.1 NO_SONAME ON
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/nodriver)
add_executable(cuda_plans plans.c recorder.c)
target_link_libraries(cuda_plans PRIVATE david_cuda_plans david_engine)
add_dependencies(cuda_plans david_nodriver)

# david_plans_test(NAME NETWORK ARCHITECTURE LABELS ARGUMENTS...)
function(david_plans_test name network architecture labels)
  if(network STREQUAL "default")
    set(network ${CMAKE_SOURCE_DIR}/models/default.safetensors)
  elseif(network STREQUAL "cells")
    set(network [[{"image_size":256,"num_channels":128,"num_res_blocks":1,"channel_mult":"1,2,3","attention_resolutions":"32","num_heads":4,"learn_sigma":true,"resblock_updown":true,"patch":2,"middle_attention":false}]])
  endif()
  add_test(NAME ${name} COMMAND cuda_plans ${network} ${CMAKE_CURRENT_SOURCE_DIR}/devices/${architecture}.json ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT 1200
    ENVIRONMENT "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:david_nodriver>")
endfunction()

foreach(network ${plans_networks})
  david_plans_test(cuda_plans_${network} ${network} sm_90 cuda-plans)
  foreach(architecture sm_80 sm_89 sm_90)
    foreach(dtype BF16 F16 F32)
      david_plans_test(cuda_plans_${network}_${architecture}_${dtype} ${network} ${architecture} "cuda-plans;slow"
        --rows 1,2,4,8,16,32 --dtype ${dtype})
    endforeach()
  endforeach()
endforeach()
