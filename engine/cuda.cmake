# The CUDA plugin, libdavid_cuda.so: AUTO builds it where the toolkit and cuDNN are found, ON requires them, OFF
# leaves it out. CUDAToolkit_ROOT and CUDNN_ROOT override the usual locations. Without a toolkit everything else
# builds.
set(DAVID_CUDA_ARCHITECTURES "80;89;90;100;120" CACHE STRING "compute capabilities that the kernels are compiled for")
set(DAVID_CUDA_MISSING "")
if(DAVID_CUDA STREQUAL "OFF")
  set(DAVID_CUDA_MISSING "DAVID_CUDA=OFF")
else()
  set(cuda_places ${CUDAToolkit_ROOT} ENV CUDA_PATH /usr/local/cuda)
  find_program(DAVID_NVCC nvcc HINTS ${cuda_places} PATH_SUFFIXES bin)
  if(DAVID_NVCC) # the rest of the toolkit is beside it
    file(REAL_PATH ${DAVID_NVCC} nvcc_itself)
    cmake_path(GET nvcc_itself PARENT_PATH nvcc_folder)
    list(APPEND cuda_places ${nvcc_folder}/..)
  endif()
  find_path(DAVID_CUDART_INCLUDE cuda_runtime_api.h HINTS ${cuda_places} PATH_SUFFIXES include targets/x86_64-linux/include)
  find_library(DAVID_CUDART_LIBRARY cudart_static HINTS ${cuda_places} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
  find_path(DAVID_CUDNN_INCLUDE cudnn.h HINTS ${CUDNN_ROOT} ${cuda_places} PATH_SUFFIXES include)
  find_library(DAVID_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDNN_ROOT} ${cuda_places} PATH_SUFFIXES lib64 lib)
  foreach(need DAVID_NVCC DAVID_CUDART_INCLUDE DAVID_CUDART_LIBRARY DAVID_CUDNN_INCLUDE DAVID_CUDNN_LIBRARY)
    if(NOT ${need})
      list(APPEND DAVID_CUDA_MISSING ${need})
    endif()
  endforeach()
  if(DAVID_CUDNN_INCLUDE) # CUDNN_LEAST of engine/cuda/device.h
    foreach(part MAJOR MINOR)
      file(STRINGS ${DAVID_CUDNN_INCLUDE}/cudnn_version.h line REGEX "^#define CUDNN_${part} [0-9]+")
      string(REGEX REPLACE ".* " "" CUDNN_${part} "${line}")
    endforeach()
    set(cudnn_version "${CUDNN_MAJOR}.${CUDNN_MINOR}")
    if(cudnn_version VERSION_LESS 9.13)
      list(APPEND DAVID_CUDA_MISSING "cuDNN 9.13 or later: ${DAVID_CUDNN_INCLUDE} has ${cudnn_version}")
    endif()
  endif()
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

# The toolkit for C code. Warnings in its headers are disabled.
add_library(david_cuda_toolkit INTERFACE)
target_include_directories(david_cuda_toolkit SYSTEM INTERFACE ${DAVID_CUDART_INCLUDE} ${DAVID_CUDNN_INCLUDE})
target_link_libraries(david_cuda_toolkit INTERFACE ${DAVID_CUDNN_LIBRARY} ${DAVID_CUDART_LIBRARY} Threads::Threads rt
  ${CMAKE_DL_LIBS} m)

# Linked by the tests of plans: cuDNN as the plugin uses it, without a device.
add_library(david_cuda_plans STATIC cuda/cudnn_graph.c cuda/cudnn_candidates.c cuda/cudnn_operations.c cuda/cudnn_parts.c
  cuda/plans.c)
target_link_libraries(david_cuda_plans PUBLIC david_cuda_toolkit david_proto)
set_target_properties(david_cuda_plans PROPERTIES C_VISIBILITY_PRESET hidden)

# The kernels. Not CMake's CUDA language: it would pass the C compiler's warnings to nvcc, and need a device at
# configuration.
set(codes "")
foreach(architecture ${DAVID_CUDA_ARCHITECTURES})
  list(APPEND codes "-gencode=arch=compute_${architecture},code=sm_${architecture}")
endforeach()
list(GET DAVID_CUDA_ARCHITECTURES -1 newest) # PTX for later cards
list(APPEND codes "-gencode=arch=compute_${newest},code=compute_${newest}")
set(DAVID_NVCC_FLAGS -std=c++17 -O3 -lineinfo --threads 2 -Xcompiler=-fPIC,-fvisibility=hidden,-O2 ${codes})
file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernels/*.cu)
set(kernel_objects "")
foreach(kernel ${kernels})
  get_filename_component(name ${kernel} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/kernels/${name}.o)
  add_custom_command(OUTPUT ${object} DEPFILE ${object}.d VERBATIM COMMENT "nvcc ${name}.cu"
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/kernels
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernels/nvcc.sh ${object}.ptxas ${DAVID_NVCC} ${DAVID_NVCC_FLAGS}
      -I${CMAKE_SOURCE_DIR} -MD -MF ${object}.d -c ${kernel} -o ${object}
    DEPENDS ${kernel} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernels/nvcc.sh)
  list(APPEND kernel_objects ${object})
endforeach()

add_library(david_cuda MODULE cuda/plugin.c cuda/backend.c cuda/conv.c cuda/device.c cuda/stream_slots.c cuda/nvml.c cuda/execution.c cuda/images.c
  cuda/timer.c ${kernel_objects})
set_source_files_properties(${kernel_objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
target_link_libraries(david_cuda PRIVATE david_cuda_plans david_build_id)
target_link_options(david_cuda PRIVATE -Wl,--exclude-libs,ALL)
set_target_properties(david_cuda PROPERTIES C_VISIBILITY_PRESET hidden LINKER_LANGUAGE CXX
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS david_cuda LIBRARY DESTINATION lib/david)
