/* program.h - a graph made runnable: packed weights and one arena on one back end.
 *
 * Two forms. Unfolded: t (and label) are inputs of every row. Folded (inference): all embeddings are computed once at load
 * for each given (t, label) set and become per-channel constants; a row names its set. The memory plan (liveness) is computed
 * once; program_run allocates nothing. The two forms agree within 1e-6 relative.
 * One thread runs a program at a time. Owned by the caller; must be freed before its back end is closed. */
#ifndef DAVID_GRAPH_PROGRAM_H
#define DAVID_GRAPH_PROGRAM_H

#include <stddef.h>

#include "engine/graph/backend.h"
#include "engine/graph/graph.h"
#include "engine/graph/params.h"

struct condition {
    float t;            /* the raw integer 0..999 */
    int32_t label;      /* -1: none */
    float sigma, level; /* as enum scalar has them; not looked at where the network is not told */
};
static inline float condition_scalar(const struct condition *c, enum scalar scalar)
{
    return scalar == SCALAR_SIGMA ? c->sigma : scalar == SCALAR_LEVEL ? c->level : c->t;
}

struct program_options {
    enum dtype dtype;                   /* of feature maps inside */
    const struct condition *conditions; /* folded form: the sets; NULL: unfolded */
    uint32_t n_conditions;
    uint32_t
        output_channels; /* 0 = all; 3 = only the first three of the last convolution are computed */
    uint32_t
        most_rows; /* of a batch execution: one of the back end's sizes; 0 = the largest that finds memory */
    bool keep_taps; /* every tap stays readable after a run (tests); costs memory */
    bool time_ops;  /* account time per op (bench) */
};

struct program;

enum status program_new(struct program **out, struct backend *b, const struct graph *g,
                        const struct param_source *src, const struct program_options *o,
                        struct error *err);
void program_free(struct program *p); /* takes NULL */

struct program_io {
    const float *x;             /* [rows][h][w][3 or 6] F32, memory of the back end */
    float *y;                   /* [rows][h][w][output channels] F32, memory of the back end */
    const float *t;             /* unfolded: [rows], host */
    const float *sigma, *level; /* unfolded, as enum scalar: [rows], host; NULL: not told */
    const uint32_t *label;      /* unfolded, class_cond: [rows], host; else NULL */
    const uint32_t *condition;  /* folded: [rows], host; NULL = all 0 */
};
/* Any number of rows, in passes of at most program_rows. */
enum status program_run(struct program *p, const struct program_io *io, uint32_t rows,
                        struct error *err);

/* After a run with keep_taps: the value of a tap for the last pass, as F32. dst: [rows of the batch execution][h][w][c] host; NULL asks for the size. */
enum status program_tap(struct program *p, const char *tap, float *dst, size_t *count,
                        struct error *err);

/* Of its largest pass: rows_per_batch, or the largest of the back end's sizes that found memory. */
uint32_t program_rows(const struct program *p);
size_t program_bytes(const struct program *p); /* arena + packed weights, from the back end */
/* time_ops: nanoseconds spent in each op since the last call; out: [OP_COUNT]. */
void program_op_times(struct program *p, uint64_t *out_ns);

#endif
