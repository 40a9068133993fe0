/* images.h - image files for the tests of the codec, written by libpng and libjpeg directly so that
 * every kind exists.
 *
 * Each function returns malloc'd bytes that the caller frees; a failure to make a file ends the
 * test program. */
#ifndef DAVID_TESTS_PROTO_IMAGES_H
#define DAVID_TESTS_PROTO_IMAGES_H

#include <stdbool.h>

#include "proto/images/codec.h"

struct file_bytes {
    uint8_t *data;
    size_t len;
};

struct png_kind {
    uint32_t width, height;
    int colour, bits; /* libpng's colour type; bits a sample */
    bool interlaced, has_trns;
    unsigned orientation; /* 0: no eXIf chunk */
};
/* Sample i (in reading order) of row y is sample_of(i, y, bits). tRNS: the key is colour 1 of each
 * sample; palette entry 1 has alpha 77. Entry k of the palette is (k*3, k*5, 255-k) mod 256. */
struct file_bytes png_make(const struct png_kind *kind);
uint32_t sample_of(uint32_t i, uint32_t y, int bits);

struct jpeg_kind {
    uint32_t width, height;
    int components; /* of `pixels` and the file: 1, 3 or 4 (inks as stored in the file) */
    int file_space; /* a J_COLOR_SPACE, or 0: libjpeg's choice */
    bool progressive, adobe_marker;
    /* > 0: one scan for each of that many AC coefficients of each component */
    int single_coefficient_scans;
    unsigned orientation; /* 0: no EXIF segment */
};
struct file_bytes jpeg_make(const struct jpeg_kind *kind, const uint8_t *pixels);

/* A bare EXIF block (26 bytes) with one tag. */
void exif_make(uint8_t block[26], unsigned orientation, bool is_big_endian);
/* Inserts a chunk with a correct CRC after IHDR. */
struct file_bytes png_insert(struct file_bytes png, const char *type, const void *body, size_t len);

struct image noise_image(uint32_t width, uint32_t height, uint32_t channels, uint32_t depth);

#endif
