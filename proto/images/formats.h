/* formats.h - the functions of each image format, and what the formats share; private to
 * proto/images/.
 *
 * probe_*() reads only the header: it allocates nothing that depends on the image's size; the
 * caller sets header->format. decode_*() fills `img`, which is allocated for the oriented size that
 * the probe of the same bytes reported, and orients rows while it decodes. Missing data is an error
 * here, although the libraries only warn. encode_*() appends a complete file to `out`; after a
 * failure the caller still frees what `out` holds. Errors of libpng and libjpeg end as a status:
 * their longjmps stay inside these functions. */
#ifndef DAVID_PROTO_IMAGES_FORMATS_H
#define DAVID_PROTO_IMAGES_FORMATS_H

#include <stdbool.h>

#include "proto/images/codec.h"

enum { ORIENT_STRIP_ROWS = 16 }; /* rows decoded at a time before they are oriented */

struct byte_sink {
    uint8_t *data; /* malloc'd; `len` of `cap` bytes are in use */
    size_t len, cap;
};
bool byte_sink_reserve(struct byte_sink *sink, size_t more); /* false: no memory; nothing changed */
bool byte_sink_put(struct byte_sink *sink, const void *bytes, size_t len);

/* Products and sums of untrusted sizes: SIZE_MAX on overflow. */
size_t mul_saturated(size_t a, size_t b);
size_t add_saturated(size_t a, size_t b);

/* Copies rows y0 .. y0+n-1 of a stored image, `stride_bytes` apart, to their place in `img` under
 * the EXIF `orientation` (1..8). Orientations 5 to 8 swap width and height: `img` has the oriented
 * size. */
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

/* For png_level -1, any image: png_fast.c. */
enum status encode_png_fast(struct byte_sink *out, const struct image *img, struct error *err);

#endif
