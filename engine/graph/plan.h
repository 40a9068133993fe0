/* plan.h - the place of every tensor of a graph in one arena.
 *
 * The order of the nodes gives the lifetime of each output; outputs whose lifetimes do not overlap
 * share memory. Besides, a node may write over an input whose last reader it is (norms, sums, the
 * residual of a convolution), and the inputs of a concat may be written directly into their
 * channels of the joined feature map (`join`), which saves the copy. Plain host data, made once;
 * any thread may read it. Owned by the caller. */
#ifndef DAVID_GRAPH_PLAN_H
#define DAVID_GRAPH_PLAN_H

#include <stddef.h>

#include "engine/graph/graph.h"
#include "proto/models/dtype.h"

struct plan_options {
    uint32_t rows;    /* of a batch execution */
    enum dtype dtype; /* of feature maps; embeddings are F32 */
    bool keep_taps;   /* tapped nodes stay to the end */
    bool join;        /* inputs of a concat are placed in its slices where that is possible */
};

struct place {
    size_t offset_bytes; /* of element 0 from the start of the arena */
    size_t ld;           /* elements between neighbouring pixels */
    int32_t slice_of;    /* the concat of whose feature map it is a slice; NODE_NONE */
};

struct plan {
    struct place *places; /* [nodes] */
    size_t arena_bytes;   /* a multiple of 64 */
    size_t sum_bytes;     /* of all tensors without sharing */
};

enum status plan_init(struct plan *out, const struct graph *g, const struct plan_options *o,
                      struct error *err);
/* The input that a node may write over if it is the last to read it; NODE_NONE. buffer_of: [nodes].
 * A convolution reads neighbouring pixels of its feature map, so only its residual qualifies, and
 * only where the two are not the same memory. */
int32_t plan_overwritable(const struct node *n, const uint32_t *buffer_of);
void plan_done(struct plan *p); /* takes a zeroed struct */

#endif
