# The program accepts only plugins with its own build id, which every build computes.
set(build_id_header ${CMAKE_CURRENT_BINARY_DIR}/generated/engine/graph/build_id.h)
add_custom_target(david_build_id_header BYPRODUCTS ${build_id_header} VERBATIM
  COMMAND ${CMAKE_COMMAND} -DOUT=${build_id_header} -DTREE=${CMAKE_SOURCE_DIR}
    "-DHOW=${PROJECT_VERSION} ${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION} ${CMAKE_BUILD_TYPE} ${DAVID_SANITIZE}"
    -P ${CMAKE_CURRENT_SOURCE_DIR}/build_id.cmake)
add_library(david_build_id INTERFACE)
target_include_directories(david_build_id INTERFACE ${CMAKE_CURRENT_BINARY_DIR}/generated)
add_dependencies(david_build_id david_build_id_header)
target_sources(david_engine PRIVATE backends.c plugin.c)
target_link_libraries(david_engine PRIVATE david_build_id ${CMAKE_DL_LIBS})
