pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib) # comes with libpng's headers
target_sources(david_proto PRIVATE image.c codec.c formats.c png.c png_fast.c jpeg.c jpeg_rows.c jpeg_run.c exif.c)
target_link_libraries(david_proto PUBLIC PkgConfig::ZLIB)
