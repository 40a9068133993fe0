target_sources(david_proto PRIVATE image.c codec.c formats.c png.c jpeg.c exif.c)
