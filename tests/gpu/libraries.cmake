# The libraries of the engine and its tests without pkg-config: from the system, or from Debian packages unpacked
# into DAVID_DEBS (for a machine with a GPU but without packages). The target names are those of pkg-config.
function(david_gpu_library target header)
  string(MAKE_C_IDENTIFIER ${target} id)
  find_path(DAVID_${id}_INCLUDE ${header} HINTS ${DAVID_DEBS}/usr/include)
  find_library(DAVID_${id}_LIBRARY NAMES ${ARGN} HINTS ${DAVID_DEBS}/usr/lib/x86_64-linux-gnu)
  if(NOT DAVID_${id}_INCLUDE OR NOT DAVID_${id}_LIBRARY)
    message(FATAL_ERROR "${header} or its library was not found: unpack the Debian package and name the folder in DAVID_DEBS")
  endif()
  add_library(PkgConfig::${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(PkgConfig::${target} SYSTEM INTERFACE ${DAVID_${id}_INCLUDE})
  if(DAVID_DEBS) # OpenSSL's configuration header has a folder of its own
    target_include_directories(PkgConfig::${target} SYSTEM INTERFACE ${DAVID_DEBS}/usr/include/x86_64-linux-gnu)
  endif()
  target_link_libraries(PkgConfig::${target} INTERFACE ${DAVID_${id}_LIBRARY} Threads::Threads ${CMAKE_DL_LIBS})
endfunction()

david_gpu_library(JANSSON jansson.h libjansson.a jansson)
david_gpu_library(CRYPTO openssl/evp.h libcrypto.a crypto)
david_gpu_library(JPEG jpeglib.h libjpeg.a jpeg)
david_gpu_library(CMOCKA cmocka.h cmocka libcmocka.so.0)
