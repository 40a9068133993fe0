/* image.h - properties of the image codec for any bytes; shared by fuzz_png.c and fuzz_jpeg.c.
 *
 * Decoding agrees with probing, an error leaves the output untouched and has a text, and a decoded
 * image survives a round trip through PNG bit by bit. Aborts where one of these fails. */
#ifndef DAVID_TESTS_FUZZ_IMAGE_H
#define DAVID_TESTS_FUZZ_IMAGE_H

#include <stdlib.h>
#include <string.h>

#include "proto/images/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static inline void require(int holds)
{
    if (!holds) abort();
}

static inline void check_round_trip(const struct image *img)
{
    struct encode_options opt = { .format = IMAGE_PNG, .png_level = -1 };
    struct image again = { 0 };
    void *png = NULL;
    size_t png_len = 0;
    require(codec_encode(&png, &png_len, img, &opt, NULL) == ST_OK);
    require(codec_decode(&again, png, png_len, UINT64_MAX, NULL) == ST_OK);
    require(again.channels == img->channels && again.depth == img->depth);
    require(again.width == img->width && again.height == img->height);
    require(memcmp(again.pixels, img->pixels, image_bytes(img)) == 0);
    image_done(&again);
    free(png);
}

static inline void check_image(const uint8_t *bytes, size_t len)
{
    enum { MAX_PIXELS = 1 << 16 };
    struct image_header h = { 0 };
    struct image img = { 0 };
    struct error err = { 0 }, err2 = { 0 };
    enum status probed = codec_probe(&h, bytes, len, &err);
    enum status decoded = codec_decode(&img, bytes, len, MAX_PIXELS, &err2);
    if (probed) {
        require(probed == decoded && err.detail[0]);
    }
    if (decoded) {
        require(!img.pixels && err2.status == decoded && err2.detail[0]);
        return;
    }
    require(img.width == h.width && img.height == h.height);
    require(img.channels == h.channels && img.depth == h.depth);
    require(h.decode_bytes >= image_bytes(&img));
    if (image_bytes(&img) < 1 << 14) check_round_trip(&img);
    image_done(&img);
}

#endif
