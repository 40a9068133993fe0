/* image.h - an image in memory: interleaved rows, no padding, 8 or 16 bits per channel.
 *
 * channels: 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA; alpha is straight (not premultiplied). Samples
 * of depth 16 are native-endian uint16_t. The struct owns `pixels`; image_done() frees them and
 * takes a zeroed struct. Not thread-safe. */
#ifndef DAVID_PROTO_IMAGES_IMAGE_H
#define DAVID_PROTO_IMAGES_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct image {
    uint32_t width, height; /* px */
    uint32_t channels;      /* 1..4 */
    uint32_t depth;         /* 8 or 16 bits per channel */
    void *pixels;           /* [height][width][channels] uint8_t or uint16_t */
    /* 1..100: of the JPEG file it was decoded from, by its luminance table; 0: no JPEG */
    uint32_t jpeg_quality;
};

/* Zeroed pixels. Sizes are checked for overflow; ST_NO_MEMORY_NOW where the allocation fails. */
enum status image_init(struct image *out, uint32_t width, uint32_t height, uint32_t channels,
                       uint32_t depth, struct error *err);
void image_done(struct image *img);
size_t image_bytes(const struct image *img); /* of pixels */

#endif
