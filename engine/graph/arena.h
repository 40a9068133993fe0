/* arena.h - places buffers with known lifetimes in one block of memory.
 *
 * The largest buffer comes first; each gets the lowest offset that is free for its whole lifetime.
 * Plain host data, a pure function; the array belongs to the caller. */
#ifndef DAVID_GRAPH_ARENA_H
#define DAVID_GRAPH_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct lifetime {
    size_t bytes;         /* 0: needs no memory */
    uint32_t first, last; /* of the moments in which it is used, inclusive */
    size_t offset;        /* out: a multiple of 64 */
};

/* total: bytes of the block. Fails with ST_NO_MEMORY_NOW when the host has no memory for the
 * plan. */
enum status arena_lay_out(struct lifetime *lifetimes, uint32_t n, size_t *total, struct error *err);

#endif
