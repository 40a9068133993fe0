/* op_make.h - makes the steps of op_run.h: views of a node's tensors, then its plans and constants.
 *
 * Two ways to hold weights. op_make(): they never change (inference, constant folding); they are
 * loaded from a source one at a time, packed into plans or uploaded, and the step owns the result.
 * op_make_trained(): they change after every update; the step points into the caller's array, and
 * only a convolution packs its own (gradients.h). The caller frees a step with op_release(), also
 * after a failure; a step must not move while another points to it. */
#ifndef DAVID_GRAPH_OP_MAKE_H
#define DAVID_GRAPH_OP_MAKE_H

#include "engine/graph/op_run.h"
#include "engine/graph/params.h"

/* A node's output of some rows: `data` is its element 0, `ld` as in struct tensor; embeddings are
 * F32, the rest `dtype`. */
struct tensor op_view(const struct node *n, void *data, size_t ld, uint32_t rows, enum dtype dtype);

/* What the network is told of each row beside its input: host arrays of [rows]. An array that no op
 * reads may be NULL. */
struct row_values {
    float *scalar[SCALARS];
    uint32_t *label, *condition;
};

/* Fills in what needs no memory: the op and its options, the views (`views`: [nodes]) and the host
 * arrays. */
void op_connect(struct op_step *st, const struct graph *g, int32_t node, const struct tensor *views,
                const struct row_values *values);

struct op_maker {
    struct backend *b;
    const struct graph *g;
    const struct param_source *src;
    uint32_t rows; /* of the largest batch execution */
    enum dtype dtype;
    /* Folded constants, which replace parameters: [nodes], each NULL or [conditions][c] on the host
     * (struct folded). Both NULL: nothing is folded. `condition`: [rows], says which set a row
     * has. */
    float *const *gamma, *const *beta;
    uint32_t conditions;
    const uint32_t *condition;
    size_t bytes; /* of what has been packed and uploaded; added to */
};
/* The step is connected. A node that is fused into another gets constants only. */
enum status op_make(struct op_step *st, struct op_maker *m, int32_t node, struct error *err);

struct op_trainer {
    struct backend *b;
    const struct graph *g;
    const float *params;  /* memory of the back end */
    const size_t *offset; /* [params]: where each begins in it */
    uint32_t rows;
    enum dtype dtype;
    struct process_group group;
};
/* The step is connected to the values of the forward pass. gradients: as op_gradient() will get
 * them; NULL: never. */
enum status op_make_trained(struct op_step *st, const struct op_trainer *t, int32_t node,
                            const struct op_gradients *gradients, struct error *err);

/* Takes a zeroed step. */
void op_release(struct op_step *st, struct backend *b);

#endif
