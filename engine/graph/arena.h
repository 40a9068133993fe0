/* arena.h - buffers that live from one moment to another, laid into one piece of memory.
 *
 * The largest first, each at the lowest place that is free for as long as it lives. Plain host data, a pure function; the
 * array belongs to the caller. */
#ifndef DAVID_GRAPH_ARENA_H
#define DAVID_GRAPH_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct lifetime {
    size_t bytes;         /* 0: takes no place */
    uint32_t first, last; /* moments during which it lives, inclusive */
    size_t offset;        /* out: a multiple of 64 */
};

/* total: bytes of the whole. ST_NO_MEMORY_NOW where there is none to plan with. */
enum status arena_lay_out(struct lifetime *lifetimes, uint32_t n, size_t *total, struct error *err);

#endif
