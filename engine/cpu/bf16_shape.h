/* bf16_shape.h - how a BF16 convolution is blocked for the tile registers, and how its weights are
 * packed.
 *
 * A tile_buffer holds a block of the input, ready for the multiplication: normalised, resampled,
 * padded, its channels rounded up to whole tiles. There are three kinds: `padded` (3x3: rows with a
 * border of one pixel, read at nine offsets), `unrolled` (few channels or stride 2: all taps of an
 * output pixel are contiguous), and 1x1 otherwise. Where the input needs no change it is its own
 * tile_buffer (`raw`). These numbers follow from the shape and the number of threads; results do
 * not depend on them. */
#ifndef DAVID_CPU_BF16_SHAPE_H
#define DAVID_CPU_BF16_SHAPE_H

#include "engine/graph/backend.h"

enum {
    BF16_PIXELS = 16,   /* rows of a tile of the input */
    BF16_CHANNELS = 16, /* columns of a tile of the output */
    BF16_DEPTH = 32,    /* products summed by one instruction */
    BF16_PANEL = 2 * BF16_CHANNELS,
    BF16_TILE = BF16_DEPTH * BF16_CHANNELS /* elements of a tile of weights */
};

struct bf16_shape {
    bool padded, unrolled, raw;
    bool exact; /* padded, and no tile crosses a row of the feature map */
    bool whole; /* one tile_buffer for all threads, which divide the panels */
    /* Exact, and the weights fit in the cache: a ring of four lines replaces the tile_buffer. */
    bool flowing;
    /* The weights do not fit in the cache: read all of them once per tile_buffer. */
    bool panels_outside;
    uint32_t taps;   /* offsets at which a tile_buffer is read: 9 or 1 */
    uint32_t k;      /* channels of a tile_buffer's pixel, a multiple of BF16_DEPTH */
    uint32_t panels; /* of BF16_PANEL output channels */
    /* padded: rows and columns of the output; else one row of all pixels. */
    uint32_t oh, ow;
    uint32_t width; /* tile_buffer pixels from one row to the next */
    uint32_t rows, blocks;
    size_t pitch;                /* elements between the pixels of a tile_buffer */
    size_t tile_buffer_elements; /* of one tile_buffer; 0: raw */
    size_t weight_elements;
};

struct bf16_shape bf16_shape_of(const struct conv_desc *d, int threads);
/* weight: [oc][ic][kernel][kernel] F32; to: weight_elements elements, zeroed by the caller:
 * [panel][k / 32][tap][2][16 pairs][16 oc][2]. */
void bf16_pack(const struct bf16_shape *s, const struct conv_desc *d, const float *weight,
               uint16_t *to);

#endif
