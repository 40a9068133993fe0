# cuda-emulated: our kernels on the host (tests/cuda/emu/emu.h), compared with the CPU back end. Needs no toolkit.
add_library(david_emu STATIC emu/emu.cpp emu/fiber.cpp)
target_include_directories(david_emu INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/emu PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emu)
target_compile_features(david_emu PUBLIC cxx_std_17)
target_link_libraries(david_emu PUBLIC Threads::Threads)

# david_as_cxx(FILES...): compiles these CUDA sources as C++ in this folder.
function(david_as_cxx)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
    "-x;c++;-fno-strict-aliasing;-Wno-unknown-pragmas;-Wno-shadow;-Wno-enum-compare")
endfunction()

file(GLOB david_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/engine/cuda/kernels/*.cu)
david_as_cxx(${david_kernels})
set(david_image_kernels ${david_kernels})
list(FILTER david_image_kernels INCLUDE REGEX "/(measurement|operators|samples)\\.cu$")
list(REMOVE_ITEM david_kernels ${david_image_kernels})
add_library(david_image_kernels_emulated STATIC ${david_image_kernels})
target_link_libraries(david_image_kernels_emulated PUBLIC david_emu)
add_library(david_kernels_emulated STATIC ${david_kernels})
target_link_libraries(david_kernels_emulated PUBLIC david_image_kernels_emulated)

# The emulation itself, with both implementations of stack switching.
david_as_cxx(test_emu.cu)
david_test(NAME test_emu LABEL cuda-emulated SOURCES test_emu.cu LIBS david_emu TIMEOUT 120)
david_test(NAME test_emu_ucontext LABEL cuda-emulated SOURCES test_emu.cu emu/emu.cpp emu/fiber.cpp LIBS Threads::Threads
  TIMEOUT 120)
target_include_directories(test_emu_ucontext PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emu)
target_compile_features(test_emu_ucontext PRIVATE cxx_std_17)
target_compile_definitions(test_emu_ucontext PRIVATE EMU_UCONTEXT)

# Our headers against the toolkit's.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
  foreach(side toolkit ours)
    add_library(david_headers_${side} OBJECT emu_headers.cpp)
    target_compile_features(david_headers_${side} PRIVATE cxx_std_17)
    target_compile_definitions(david_headers_${side} PRIVATE SIDE=${side})
  endforeach()
  target_include_directories(david_headers_toolkit SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(david_headers_ours PRIVATE david_emu)
  david_test(NAME test_emu_headers LABEL cuda-emulated TIMEOUT 120
    SOURCES test_emu_headers.cpp $<TARGET_OBJECTS:david_headers_toolkit> $<TARGET_OBJECTS:david_headers_ours> LIBS david_emu)
else()
  add_test(NAME test_emu_headers COMMAND sh -c
    "echo 'no CUDA toolkit to compare with'; [ -z \"$DAVID_REQUIRE_CUDA\" ] && exit 77; exit 1")
  set_tests_properties(test_emu_headers PROPERTIES LABELS cuda-emulated SKIP_RETURN_CODE 77)
endif()

# Each kernel against the CPU back end, in F32, BF16 and F16, in seven orders.
add_library(david_conformance STATIC conformance.c)
target_link_libraries(david_conformance PUBLIC david_kernels_emulated david_engine PkgConfig::CMOCKA)
file(GLOB david_kernel_tests CONFIGURE_DEPENDS test_kernels_*.c)
foreach(source ${david_kernel_tests})
  get_filename_component(name ${source} NAME_WE)
  david_test(NAME ${name} LABEL cuda-emulated SOURCES ${source} LIBS david_conformance TIMEOUT 600)
endforeach()

# Every missing barrier is detected.
if(NOT DAVID_SANITIZE)
  set(david_barrier_tests "")
  foreach(name norm conv attention restoration)
    list(APPEND david_barrier_tests $<TARGET_FILE:test_kernels_${name}>)
  endforeach()
  add_test(NAME kernels_barriers COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/barriers.py ${david_barrier_tests})
  set_tests_properties(kernels_barriers PROPERTIES LABELS cuda-emulated TIMEOUT 1200)
endif()

# The kernels as nvcc builds them: registers, spills, fused operations.
if(DAVID_NVCC)
  add_test(NAME kernels_build COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/builds.py ${DAVID_NVCC}
    ${CMAKE_BINARY_DIR}/engine/kernels
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(kernels_build PROPERTIES LABELS cuda-plans TIMEOUT 1800)
else()
  add_test(NAME kernels_build COMMAND sh -c
    "echo 'no nvcc to build the kernels with'; [ -z \"$DAVID_REQUIRE_CUDA\" ] && exit 77; exit 1")
  set_tests_properties(kernels_build PROPERTIES LABELS cuda-plans SKIP_RETURN_CODE 77)
endif()
