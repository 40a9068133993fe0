# The CUDA plugin, libdavid_cuda.so: AUTO builds it where the toolkit and cuDNN are found, ON demands them, OFF leaves it out.
# CUDAToolkit_ROOT and CUDNN_ROOT name other places than the usual ones. Without a toolkit everything else builds.
set(DAVID_CUDA_ARCHITECTURES "80;89;90;100;120" CACHE STRING "compute capabilities that the kernels are compiled for")
set(DAVID_CUDA_MISSING "")
if(DAVID_CUDA STREQUAL "OFF")
  set(DAVID_CUDA_MISSING "DAVID_CUDA=OFF")
else()
  set(cuda_places ${CUDAToolkit_ROOT} ENV CUDA_PATH /usr/local/cuda)
  find_program(DAVID_NVCC nvcc HINTS ${cuda_places} PATH_SUFFIXES bin)
  find_path(DAVID_CUDART_INCLUDE cuda_runtime_api.h HINTS ${cuda_places} PATH_SUFFIXES include targets/x86_64-linux/include)
  find_library(DAVID_CUDART_LIBRARY cudart_static HINTS ${cuda_places} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
  find_path(DAVID_CUDNN_INCLUDE cudnn.h HINTS ${CUDNN_ROOT} ${cuda_places} PATH_SUFFIXES include)
  find_library(DAVID_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDNN_ROOT} ${cuda_places} PATH_SUFFIXES lib64 lib)
  foreach(need DAVID_NVCC DAVID_CUDART_INCLUDE DAVID_CUDART_LIBRARY DAVID_CUDNN_INCLUDE DAVID_CUDNN_LIBRARY)
    if(NOT ${need})
      list(APPEND DAVID_CUDA_MISSING ${need})
    endif()
  endforeach()
endif()
if(DAVID_CUDA_MISSING)
  list(JOIN DAVID_CUDA_MISSING ", " missing)
  if(DAVID_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DAVID_CUDA=ON, but these were not found: ${missing}")
  endif()
  message(STATUS "CUDA plugin: not built (${missing})")
  return()
endif()
message(STATUS "CUDA plugin: ${DAVID_NVCC}, ${DAVID_CUDNN_LIBRARY}")

# The toolkit as C sees it. Its headers are not ours to warn about.
add_library(david_cuda_toolkit INTERFACE)
target_include_directories(david_cuda_toolkit SYSTEM INTERFACE ${DAVID_CUDART_INCLUDE} ${DAVID_CUDNN_INCLUDE})
target_link_libraries(david_cuda_toolkit INTERFACE ${DAVID_CUDNN_LIBRARY} ${DAVID_CUDART_LIBRARY} Threads::Threads rt
  ${CMAKE_DL_LIBS} m)

# All of the plugin but its kernels: the tests of plans link this much.
add_library(david_cuda_plans STATIC cuda/cudnn_graph.c cuda/cudnn_offers.c cuda/cudnn_operations.c cuda/cudnn_parts.c
  cuda/plans.c)
target_link_libraries(david_cuda_plans PUBLIC david_cuda_toolkit david_proto)
set_target_properties(david_cuda_plans PROPERTIES C_VISIBILITY_PRESET hidden)
