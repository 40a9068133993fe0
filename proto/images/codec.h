/* codec.h - image bytes to images and back, in the formats of formats.def.
 *
 * The type is taken from the bytes, never from a header or a file name. codec_probe() reads sizes from the header and
 * allocates nothing that depends on them; codec_decode() probes first and refuses over-limit images before taking
 * memory. EXIF orientation is applied by codec_decode (a JPEG may come out with width and height swapped; codec_probe
 * already reports the oriented size). Palette, gray < 8 bit, interlaced, CMYK/YCCK all become gray/RGB(+alpha).
 * Errors: ST_UNKNOWN_FORMAT (names what it seems to be: GIF, WebP, HEIC, SVG ...), ST_CORRUPT_IMAGE, ST_TOO_MANY_PX.
 * Reentrant; encoders return malloc'd bytes that the caller frees. */
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

/* The format that the extension of a file's name stands for, in any case; false where it is none. */
bool image_format_of_name(enum image_format *out, const char *name);

struct image_header {
    enum image_format format;
    uint32_t width, height, channels, depth; /* as codec_decode will return them */
    size_t decode_bytes; /* upper bound of what codec_decode holds at its peak */
};

enum status codec_probe(struct image_header *out, const void *bytes, size_t len, struct error *err);
/* max_pixels: of width x height; the detail names it as the setting "max_pixels". */
enum status codec_decode(struct image *out, const void *bytes, size_t len, uint64_t max_pixels,
                         struct error *err);

struct encode_options {
    enum image_format format;
    int png_level; /* zlib level 0..9; -1 = the fast default */
    int jpeg_quality; /* 1..100; 0 = the default, 92. JPEG drops alpha and goes to 8 bits by rounding */
};
enum status codec_encode(void **bytes, size_t *len, const struct image *img,
                         const struct encode_options *opt, struct error *err);

#endif
