/* tiles.h - a image of any size as overlapping tiles of the model's size, and the weights that blend them back.
 *
 * Each axis is cut by itself: origins a stride apart, the last one clamped to the end; an axis shorter than a tile has one
 * tile, padded by reflection. Weights are integers, separable, and their sum over the tiles at any pixel is exactly
 * BLEND_ONE an axis: identical inputs blend back exactly, and every pixel is covered. Tables live in memory given by the
 * caller (tiles_bytes); nothing here allocates. Immutable once laid out. */
#ifndef DAVID_DAVI_TILES_H
#define DAVID_DAVI_TILES_H

#include <stddef.h>
#include <stdint.h>

#include "engine/graph/backend/images.h" /* BLEND_ONE */

struct tile_axis {
    uint32_t length, tile, overlap; /* px; overlap < tile */
    uint32_t shift; /* px by which the inner origins are moved back (tests; else 0) */
    uint32_t count;
    const uint16_t *weight; /* [count][tile]; 0 outside the image */
};

struct tiles {
    struct tile_axis x, y;
};

/* Bytes of tables for one axis, the scratch of laying them out included. */
size_t tile_axis_bytes(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift);
/* memory: tile_axis_bytes() long, 8-byte aligned; stays in use. */
void tile_axis_lay(struct tile_axis *a, uint32_t length, uint32_t tile, uint32_t overlap,
                   uint32_t shift, void *memory);
uint32_t tile_axis_count(uint32_t length, uint32_t tile, uint32_t overlap, uint32_t shift);
uint32_t tile_origin(const struct tile_axis *a, uint32_t i);

/* The pixel inside [0, n) that stands at `at` when a line of n pixels is continued by reflection, as often as needed. */
uint32_t reflect(uint32_t at, uint32_t n);

#endif
