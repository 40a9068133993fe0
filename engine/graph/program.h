/* program.h - a graph that can run: packed weights and one arena on one back end.
 *
 * Two forms. Unfolded: t (and the label) are inputs of every row. Folded (inference): all
 * embeddings are computed once at load for each given set (t, label) and become per-channel
 * constants; a row names its set. The two forms agree within 1e-6 relative. The memory plan is
 * computed once; program_run allocates nothing. A graph with an op that the back end lacks is
 * refused (ST_UNSUPPORTED) by program_new. One thread runs a program at a time. The caller owns it
 * and frees it before its back end is closed. */
#ifndef DAVID_GRAPH_PROGRAM_H
#define DAVID_GRAPH_PROGRAM_H

#include <stddef.h>

#include "engine/graph/backend.h"
#include "engine/graph/graph.h"
#include "engine/graph/params.h"

struct condition {
    float t;            /* the raw integer 0..999 */
    int32_t label;      /* -1: none */
    float sigma, level; /* as in enum scalar; not read where the network does not embed them */
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
        output_channels; /* 0: all; 3: only the first three of the last convolution are computed */
    /* Rows of the largest batch execution, one of the back end's sizes; 0: the largest that memory
     * allows. */
    uint32_t most_rows;
    bool keep_taps; /* every tap stays readable after a run (tests); takes memory */
    bool time_ops;  /* measures the time of each op (bench) */
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
    const float *sigma, *level; /* unfolded, as in enum scalar: [rows], host; NULL: not embedded */
    const uint32_t *label;      /* unfolded, class_cond: [rows], host; else NULL */
    const uint32_t *condition;  /* folded: [rows], host; NULL = all 0 */
};
/* Any number of rows, in batch executions of at most program_rows. */
enum status program_run(struct program *p, const struct program_io *io, uint32_t rows,
                        struct error *err);

/* After a run with keep_taps: the value of a tap in the last batch execution, as F32. dst: [its
 * rows][h][w][c] host; NULL: only *count, the number of values, is set. */
enum status program_tap(struct program *p, const char *tap, float *dst, size_t *count,
                        struct error *err);

/* Of its largest batch execution: rows_per_batch, or the largest of the back end's sizes that
 * memory allowed. */
uint32_t program_rows(const struct program *p);
size_t program_bytes(const struct program *p); /* arena + packed weights, from the back end */
/* time_ops: nanoseconds spent in each op since the last call; out: [OP_COUNT]. */
void program_op_times(struct program *p, uint64_t *out_ns);

#endif
