/* Geometry of tiles, one axis at a time. */
#include "engine/davi/tiles.h"

#include <math.h>
#include <string.h>

static uint32_t stride_of(uint32_t tile, uint32_t overlap)
{
    return tile > overlap ? tile - overlap : 1;
}

uint32_t tile_axis_count(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift)
{
    if (length <= tile) return 1;
    uint32_t stride = stride_of(tile, overlap), rest = length - tile + shift % stride;
    return 1 + rest / stride + (rest % stride != 0);
}

uint32_t tile_origin(const struct tile_axis *a, uint32_t i)
{
    if (i == 0) return 0;
    uint64_t stride = stride_of(a->tile, a->overlap), at = i * stride - a->shift % stride;
    uint32_t last = a->length - a->tile;
    return at < last ? (uint32_t)at : last;
}

/* The weights, then scratch of each pixel: the sum of raw weights (double), the sum of integer
 * weights and the number of its heaviest tile (uint32 each). */
size_t tile_axis_bytes(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift)
{
    size_t weights =
        (size_t)tile_axis_count(length, tile, overlap, shift) * tile * sizeof(uint16_t);
    return (weights + 7) / 8 * 8 + (size_t)length * (sizeof(double) + 2 * sizeof(uint32_t));
}

/* A raised cosine over the overlap: the middle of a tile, where the network has the most context,
 * weighs most. */
static double raw_weight(const struct tile_axis *a, uint32_t i)
{
    uint32_t edge = i < a->tile - 1 - i ? i : a->tile - 1 - i;
    double d = edge + 0.5;
    if (d >= a->overlap) return 1;
    double s = sin(1.57079632679489661923 * d / a->overlap);
    return s * s;
}

void tile_axis_lay(struct tile_axis *a, uint32_t length, uint32_t tile, uint32_t overlap,
                   uint32_t shift, void *memory)
{
    *a = (struct tile_axis){ .length = length,
                             .tile = tile,
                             .overlap = overlap,
                             .shift = shift,
                             .count = tile_axis_count(length, tile, overlap, shift) };
    uint16_t *weight = memory;
    size_t weights = (size_t)a->count * tile;
    double *sum = (double *)(void *)((char *)memory + (weights * sizeof *weight + 7) / 8 * 8);
    uint32_t *given = (uint32_t *)(void *)(sum + length), *heaviest = given + length;
    uint32_t inside = length < tile ? length : tile; /* pixels of a tile in the image */
    memset(weight, 0, weights * sizeof *weight);
    memset(sum, 0, length * sizeof *sum);
    memset(given, 0, 2 * (size_t)length * sizeof *given); /* and heaviest */

    for (uint32_t t = 0; t < a->count; t++)
        for (uint32_t i = 0; i < inside; i++)
            sum[tile_origin(a, t) + i] += raw_weight(a, i);
    for (uint32_t t = 0; t < a->count; t++) {
        uint32_t origin = tile_origin(a, t);
        for (uint32_t i = 0; i < inside; i++) {
            uint32_t p = origin + i;
            uint16_t w = (uint16_t)(BLEND_ONE * (raw_weight(a, i) / sum[p]));
            weight[(size_t)t * tile + i] = w;
            uint32_t h = heaviest[p];
            if (given[p] == 0 || w > weight[(size_t)h * tile + (p - tile_origin(a, h))])
                heaviest[p] = t;
            given[p] += w;
        }
    }
    /* The heaviest tile gets the remainder of rounding down: the sum is exact at every pixel. */
    for (uint32_t p = 0; p < length; p++) {
        uint32_t h = heaviest[p];
        uint16_t *w = &weight[(size_t)h * tile + (p - tile_origin(a, h))];
        *w = (uint16_t)(*w + (BLEND_ONE - given[p]));
    }
    a->weight = weight;
}
