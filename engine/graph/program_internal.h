/* program_internal.h - a program as program_make.c makes it and program.c runs it. Nobody else includes this. */
#ifndef DAVID_GRAPH_PROGRAM_INTERNAL_H
#define DAVID_GRAPH_PROGRAM_INTERNAL_H

#include "engine/graph/plan.h"
#include "engine/graph/program.h"

/* One node with everything its run needs: views into the arena, packed weights, constants. */
struct step {
    enum op op;
    struct tensor in[2], residual, y;
    bool has_in1, has_residual, silu;
    enum resample resample; /* GROUP_NORM */
    enum scalar scalar;     /* TIMESTEP */
    struct step *sibling;   /* GROUP_NORM: whose y it writes too; NULL */
    bool is_sibling;        /* done by a norm */
    bool by_condition;      /* its constants differ from set to set */
    struct conv_plan *conv;
    struct linear_plan *linear;
    struct attention_plan *attention;
    void *gamma, *beta, *table;    /* device memory */
    const struct step *norm;       /* CONV: the fused norm, whose constants its prologue takes */
    struct prologue_args prologue; /* CONV: what of it does not change from execution to execution */
    bool has_prologue;
};

struct program {
    struct backend *b;
    struct graph *g; /* as it runs: folded or not */
    struct plan plan;
    struct step *steps; /* [g->n_nodes] */
    void *arena;
    double *moments; /* of the outputs that norms ask for, [rows][2][c] each; NULL: none are kept */
    size_t weight_bytes, moments_count;
    uint32_t rows;       /* of the largest batch: what memory is taken for */
    uint32_t batch_rows; /* of the batch execution that the views stand for */
    uint32_t conditions; /* 0: unfolded */
    uint32_t classes;
    enum dtype dtype;
    bool keep_taps, time_ops;
    /* The rows of the batch, filled up to `rows` where the last batch has fewer. */
    float *scalar[SCALARS]; /* [rows]; those that no node embeds are NULL */
    uint32_t *label, *condition;
    uint64_t op_ns[OP_COUNT];
};

#endif
