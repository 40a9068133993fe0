/* codec.h - encoded images to pixels and back, in the formats of formats.def.
 *
 * The format follows from the bytes, never from a header or a file name. codec_probe() reads sizes
 * from the header and allocates nothing that depends on them; codec_decode() probes first and
 * refuses images over the limit before it allocates. codec_decode() applies the EXIF orientation,
 * which may swap width and height; codec_probe() already reports the oriented size. Palettes, gray
 * below 8 bits, interlaced and CMYK/YCCK files all become gray or RGB, with or without alpha.
 * Errors: ST_UNKNOWN_FORMAT (it names the probable format: GIF, WebP, HEIC, SVG ...),
 * ST_CORRUPT_IMAGE, ST_TOO_MANY_PX. Reentrant; encoders return malloc'd bytes that the caller
 * frees. */
#ifndef DAVID_PROTO_IMAGES_CODEC_H
#define DAVID_PROTO_IMAGES_CODEC_H

#include <stdbool.h>

#include "proto/images/image.h"

enum image_format {
#define FORMAT(ID, ...) IMAGE_##ID,
#include "proto/images/formats.def"
    IMAGE_FORMAT_COUNT
};

struct image_format_info {
    const char *name;          /* "PNG" */
    const char *media_type;    /* "image/png" */
    const char *extensions[2]; /* ".jpg", ".jpeg"; the second may be NULL */
};
extern const struct image_format_info image_formats[IMAGE_FORMAT_COUNT];

/* The names of all formats, for messages: "PNG or JPEG". */
struct image_format_names {
    char text[64];
};
struct image_format_names image_format_names(void);

/* The format of a file name's extension, in upper or lower case; false where it has none of
 * them. */
bool image_format_of_name(enum image_format *out, const char *name);

struct image_header {
    enum image_format format;
    uint32_t width, height, channels, depth; /* as codec_decode returns them */
    size_t decode_bytes; /* upper bound of the memory that codec_decode holds at its peak */
};

enum status codec_probe(struct image_header *out, const void *bytes, size_t len, struct error *err);
/* max_pixels limits width x height; the error names it as the setting "max_pixels". */
enum status codec_decode(struct image *out, const void *bytes, size_t len, uint64_t max_pixels,
                         struct error *err);

struct encode_options {
    enum image_format format;
    int png_level;    /* zlib level 0..9; -1 = the fast default */
    int jpeg_quality; /* 1..100; 0 = the default, 92. JPEG drops alpha and rounds to 8 bits. */
};
enum status codec_encode(void **bytes, size_t *len, const struct image *img,
                         const struct encode_options *opt, struct error *err);

#endif
