/* jpeg_rows.h - an image through JPEG and back, row by row, without a file.
 *
 * Rows are requested and delivered in order, top first. In memory are only a few rows of blocks,
 * and their code: jpeg_rows_bytes() at most. The result has the bytes of codec_decode on
 * codec_encode's file of the whole image at that quality (below 90: chroma of half the width and
 * height). ST_NO_MEMORY_NOW. Reentrant. */
#ifndef DAVID_PROTO_IMAGES_JPEG_ROWS_H
#define DAVID_PROTO_IMAGES_JPEG_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum { JPEG_ROWS_MAX_SIDE = 65500 };

struct jpeg_rows {
    uint32_t width, height, channels; /* px, at most JPEG_ROWS_MAX_SIDE; 1 gray, 3 RGB */
    int quality;                      /* 1..100 */
    void (*get)(void *ctx, uint32_t y, uint8_t *row); /* row: [width][channels] */
    void (*put)(void *ctx, uint32_t y, const uint8_t *row);
    void *ctx;
};
enum status jpeg_rows_run(const struct jpeg_rows *j, struct error *err);
size_t jpeg_rows_bytes(uint32_t width, uint32_t channels);

#endif
