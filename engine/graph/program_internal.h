/* program_internal.h - a program as program_make.c makes it and program.c runs it. Nothing else
 * includes this. */
#ifndef DAVID_GRAPH_PROGRAM_INTERNAL_H
#define DAVID_GRAPH_PROGRAM_INTERNAL_H

#include "engine/graph/op_make.h"
#include "engine/graph/plan.h"
#include "engine/graph/program.h"

struct program {
    struct backend *b;
    struct graph *g; /* as it runs: folded or not */
    struct plan plan;
    struct op_step *steps; /* [g->n_nodes] */
    bool *is_skipped; /* [g->n_nodes]: another step does it: it is fused, or a norm's sibling */
    void *arena;
    double *moments; /* of the outputs whose norm is fused, [rows][2][c] each; NULL: none */
    size_t weight_bytes, moments_count;
    uint32_t rows;       /* of the largest batch execution: what memory is taken for */
    uint32_t batch_rows; /* of the batch execution that the views are set to */
    uint32_t conditions; /* 0: unfolded */
    uint32_t classes;    /* 0: no label */
    enum dtype dtype;
    bool keep_taps, time_ops;
    /* Of the rows of the batch execution; a batch with fewer rows is filled up. Scalars that no
     * node embeds are NULL. */
    struct row_values values;
    uint64_t op_ns[OP_COUNT];
};

#endif
