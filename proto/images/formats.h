/* formats.h - what codec.c asks of each image format, and what the formats share; private to proto/.
 *
 * probe_*() reads only the header: no memory that depends on the image's size, header->format stays the caller's.
 * decode_*() fills `img`, already allocated for the ORIENTED size that the probe of the same bytes told, and turns rows
 * on their way in. Anything that the bytes lack is an error here, though the libraries would only warn.
 * encode_*() appends a whole file to `out`; what is in it after a failure is the caller's to free.
 * No libpng or libjpeg error leaves these functions but as a status: their longjmps end inside. */
#ifndef DAVID_PROTO_IMAGES_FORMATS_H
#define DAVID_PROTO_IMAGES_FORMATS_H

#include <stdbool.h>

#include "proto/images/codec.h"

enum { ORIENT_STRIP_ROWS = 16 }; /* rows decoded at a time where they must be turned */

struct byte_sink {
    uint8_t *data; /* malloc'd; `len` of `cap` bytes are used */
    size_t len, cap;
};
bool byte_sink_reserve(struct byte_sink *sink, size_t more); /* false: no memory; nothing changed */
bool byte_sink_put(struct byte_sink *sink, const void *bytes, size_t len);

/* Products of sizes from outside: SIZE_MAX where they do not fit. */
size_t mul_saturated(size_t a, size_t b);
size_t add_saturated(size_t a, size_t b);

/* Rows y0 .. y0+n-1 of a stored image, `stride_bytes` apart, to where EXIF `orientation` (1..8) wants them in `img`.
 * Orientations 5 to 8 swap width and height: `img` has the turned size. */
void orient_rows(struct image *img, unsigned orientation, const void *rows, size_t stride_bytes,
                 uint32_t y0, uint32_t n);
static inline bool orientation_swaps(unsigned orientation)
{
    return orientation >= 5;
}

#define FORMAT(ID, id, ...)                                                                        \
    enum status probe_##id(struct image_header *header, unsigned *orientation,                     \
                           const uint8_t *bytes, size_t len, struct error *err);                   \
    enum status decode_##id(struct image *img, unsigned orientation, const uint8_t *bytes,         \
                            size_t len, struct error *err);                                        \
    enum status encode_##id(struct byte_sink *out, const struct image *img,                        \
                            const struct encode_options *opt, struct error *err);
#include "proto/images/formats.def"

/* png_level -1, for any image: png_fast.c. */
enum status encode_png_fast(struct byte_sink *out, const struct image *img, struct error *err);

#endif
