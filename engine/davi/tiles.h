/* tiles.h - an image of any size as overlapping tiles of the model's size, and the weights that
 * blend them.
 *
 * Each axis is tiled by itself: origins are a stride apart, the last one is clamped to the end; an
 * axis shorter than a tile has one tile, padded by reflection. Weights are separable integers whose
 * sum over the tiles is exactly BLEND_ONE an axis at every pixel, so identical tiles blend to
 * themselves. Tables are in the caller's memory (tile_axis_bytes); nothing is allocated. Immutable
 * once laid out; any thread may read. */
#ifndef DAVID_DAVI_TILES_H
#define DAVID_DAVI_TILES_H

#include <stddef.h>
#include <stdint.h>

#include "engine/graph/backend/images.h" /* BLEND_ONE */

struct tile_axis {
    uint32_t length, tile, overlap; /* px; overlap < tile */
    uint32_t shift; /* px by which the inner origins are moved back; 0 except in tests */
    uint32_t count;
    const uint16_t *weight; /* [count][tile]; 0 outside the image */
};

struct tiles {
    struct tile_axis x, y;
};

/* Bytes of the tables of one axis, with the scratch of laying them out. */
size_t tile_axis_bytes(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift);
/* memory: tile_axis_bytes() long, 8-byte aligned; it must outlive `a`. */
void tile_axis_lay(struct tile_axis *a, uint32_t length, uint32_t tile, uint32_t overlap,
                   uint32_t shift, void *memory);
uint32_t tile_axis_count(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift);
uint32_t tile_origin(const struct tile_axis *a, uint32_t i);

#endif
