/* op_run.h - the dispatcher: runs one node of a graph on a back end.
 *
 * A step is a node with everything that its run needs: views of tensors, plans and constants
 * (op_make.h makes them). Inference, training (forward pass and recomputation) and constant folding
 * all run their nodes with op_run(); op_gradient() is the gradient of the same step. Neither
 * allocates, and neither keeps anything between two calls. Threads and errors as in backend.h. */
#ifndef DAVID_GRAPH_OP_RUN_H
#define DAVID_GRAPH_OP_RUN_H

#include "engine/graph/backend.h"
#include "engine/graph/backend/gradients.h"
#include "engine/graph/graph.h"
#include "engine/graph/process_group.h"

struct op_step {
    enum op op;
    struct tensor in[2], residual, y; /* data NULL: the node has no such input */

    /* Constants in memory of the back end. CONV and LINEAR have them in their plans, but in
     * training LINEAR reads them here. */
    const float
        *weight; /* LABEL: the table; norms: gamma, [c] or [conditions][c]; LINEAR: [oc][ic] */
    const float *bias; /* norms: beta, as gamma; LINEAR: [oc]; ADD_CHANNEL: [rows][c] or NULL */
    float *owned[2];   /* weight and bias where the step owns them, else NULL */

    /* Host arrays of [rows], read at every run. */
    const float *scalar;   /* TIMESTEP */
    const uint32_t *label; /* LABEL */
    const uint32_t
        *condition; /* CONV, GROUP_NORM: which set of constants a row has; NULL: one set */

    /* A convolution has one of the two: a plan, whose weights never change, or trained_conv, whose
     * weights are packed again after every update. */
    struct conv_plan *conv;
    struct trained_conv *trained_conv;
    struct linear_plan *linear; /* NULL in training */
    struct attention_plan *attention;
    struct trained_attention *trained_attention; /* NULL: no gradient */

    bool has_prologue; /* CONV: runs as conv_with_prologue */
    struct prologue_args prologue;
    bool silu;                  /* GROUP_NORM */
    enum resample resample;     /* GROUP_NORM */
    const struct tensor *x_too; /* GROUP_NORM: the y of its sibling (fusion.h); NULL */
    double *moments; /* GROUP_NORM in training: [rows][groups][2], of the back end; NULL */
    double *sums;    /* BATCH_NORM: host, [2][c] of the forward, [2][c] of the backward pass */
    struct process_group group; /* BATCH_NORM: whose rows the sums are over */
    float slope;                /* LEAKY_RELU */
};

enum status op_run(struct backend *b, const struct op_step *st, struct error *err);

/* The gradients around one node. dy is overwritten. */
struct op_gradients {
    struct tensor dy; /* of y */
    struct into dx, dother,
        dresidual;          /* of the inputs; dst.data NULL: not wanted, or already there */
    float *dweight, *dbias; /* of the parameters, added to; NULL: not wanted */
};
/* st: its views are what the forward pass left, or what has been recomputed. */
enum status op_gradient(struct backend *b, const struct op_step *st, const struct op_gradients *g,
                        struct error *err);

enum op_use { OP_FOR_INFERENCE, OP_FOR_TRAINING, OP_FOR_GRADIENT };
/* ST_UNSUPPORTED, "the back end cuda has no op UPSAMPLE", where the back end lacks a function that
 * the op needs. */
enum status supports_op(const struct backend *b, enum op op, enum op_use use, struct error *err);

#endif
