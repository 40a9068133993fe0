# Byte formats of the service's conversation: query strings, multipart bodies, JSON, configuration, the API description.
target_sources(david_proto PRIVATE query.c multipart.c messages.c config_text.c model_folder.c)

# openapi.yaml is written in the JSON subset of YAML, so that it can be served as it stands.
add_custom_command(
  OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/openapi.c
  COMMAND ${CMAKE_COMMAND} -DIN=${CMAKE_CURRENT_SOURCE_DIR}/openapi.yaml
          -DOUT=${CMAKE_CURRENT_BINARY_DIR}/openapi.c -P ${CMAKE_CURRENT_SOURCE_DIR}/embed.cmake
  DEPENDS openapi.yaml embed.cmake VERBATIM)
target_sources(david_proto PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/openapi.c)
