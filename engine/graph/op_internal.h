/* op_internal.h - what op_run.c and op_gradient.c share. Nothing else includes this. */
#ifndef DAVID_GRAPH_OP_INTERNAL_H
#define DAVID_GRAPH_OP_INTERNAL_H

#include "engine/graph/op_run.h"

struct group_norm_args op_group_norm_args(const struct op_step *st);
struct batch_norm_args op_batch_norm_args(const struct op_step *st);
/* sums: [2][c] of a batch norm. They become those of all processes, and only then is anything
 * computed from them. */
void op_sum_over_group(const struct op_step *st, double *sums);
/* Whether the back end has all functions that op_gradient() calls for the op. */
bool op_has_gradient(const struct backend_ops *ops, enum op op);

#endif
