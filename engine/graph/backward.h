/* backward.h - a tape: a graph with a forward pass that keeps what its backward pass needs.
 *
 * Parameters are one array of floats in memory of the back end (params.h), and so are their
 * gradients. Both belong to the caller, who may change the parameters at any time and then calls
 * tape_pack. A tape is made for one number of rows, which run together; passes allocate nothing.
 * Gradients are added to the caller's array: micro-batches accumulate. At most one backward pass
 * follows a forward pass (it overwrites what it has read); any number of probes may come before it.
 * One thread runs a tape at a time. The caller owns it and frees it before its back end is
 * closed. */
#ifndef DAVID_GRAPH_BACKWARD_H
#define DAVID_GRAPH_BACKWARD_H

#include "engine/graph/backend/gradients.h"
#include "engine/graph/backward_plan.h"
#include "engine/graph/params.h"

struct tape;

/* params: [param_layout.count], borrowed. */
enum status tape_new(struct tape **out, struct backend *b, const struct graph *g,
                     const float *params, const struct backward_options *o, struct error *err);
void tape_free(struct tape *t);          /* takes NULL */
size_t tape_bytes(const struct tape *t); /* arena and packed weights */
uint32_t tape_rows(const struct tape *t);

/* Packs the parameters again: to be called after they have changed, and once before the first
 * pass. */
enum status tape_pack(struct tape *t, struct error *err);

struct tape_input {
    const float *x; /* [rows][h][w][c] F32, memory of the back end */
    const float *t; /* [rows] host; NULL where the graph has no timestep */
    const float *sigma,
        *level;            /* [rows] host; NULL where the graph does not embed it (enum scalar) */
    const uint32_t *label; /* [rows] host; NULL where it has no labels */
};
enum status tape_forward(struct tape *t, const struct tape_input *in, struct error *err);
/* The value of the output or of a kept tap as F32; y: [rows][h][w][c], memory of the back end. */
enum status tape_value(struct tape *t, int32_t node, float *y, struct error *err);

/* The gradient of the output, or of a kept tap: dy: [rows][h][w][c] F32, memory of the back end. */
struct upstream_gradient {
    int32_t node;
    const float *dy;
};
/* gradients: laid out as params, added to; NULL: not computed. dx: [rows][h][w][c] F32 or NULL;
 * needs input_gradient. */
enum status tape_backward(struct tape *t, const struct upstream_gradient *upstream,
                          uint32_t n_upstream, float *gradients, float *dx, struct error *err);
/* Only the gradient of the weight `probe` (backward_options), added to dweight. Only the nodes
 * after it are computed. */
enum status tape_probe(struct tape *t, const struct upstream_gradient *upstream,
                       uint32_t n_upstream, float *dweight, struct error *err);

/* Nanoseconds spent since the last call, per op: [OP_COUNT] each. */
void tape_times(struct tape *t, uint64_t *forward_ns, uint64_t *backward_ns);

#endif
