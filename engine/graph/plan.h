/* plan.h - where every tensor of a graph lies in one arena.
 *
 * From the order of the nodes follows how long each output lives; outputs that do not live at the same time share memory.
 * Two economies on top: a node may write over an input that dies with it (norms, sums, the residual of a convolution), and the
 * inputs of a concat may be written straight into their channels of the joined feature map (`join`), which then need no copy.
 * Plain host data, made once; any thread may read it. Owned by the caller. */
#ifndef DAVID_GRAPH_PLAN_H
#define DAVID_GRAPH_PLAN_H

#include <stddef.h>

#include "engine/graph/graph.h"
#include "proto/models/dtype.h"

struct plan_options {
    uint32_t rows;    /* in one pass */
    enum dtype dtype; /* of feature maps; embeddings are F32 */
    bool keep_taps;   /* tapped nodes live to the end */
    bool join;        /* inputs of a concat stand in its slices where that is possible */
};

struct place {
    size_t offset_bytes; /* of element 0 from the start of the arena */
    size_t ld;           /* elements between neighbouring pixels */
    int32_t slice_of;    /* the concat in whose feature map this one stands; NODE_NONE */
};

struct plan {
    struct place *places; /* [nodes] */
    size_t arena_bytes;   /* a multiple of 64 */
    size_t sum_bytes;     /* what the tensors would take side by side */
};

enum status plan_init(struct plan *out, const struct graph *g, const struct plan_options *o,
                      struct error *err);
/* The input that a node may write over while it runs, where that dies with it; NODE_NONE. buffer_of: [nodes]. A convolution
 * reads its feature map all over, so only its residual qualifies, and only where the two are not the same memory. */
int32_t plan_overwritable(const struct node *n, const uint32_t *buffer_of);
void plan_done(struct plan *p); /* takes a zeroed struct */

#endif
