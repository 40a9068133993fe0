/* constant_folding.h - the rewrite for constant t: embeddings become per-channel constants.
 *
 * At inference t (and the label) take a handful of values, the sets. Each embedding is computed once per set, on the back
 * end that will run the network; then scale and shift go into the norm's gamma and beta, and an embedding added to a
 * convolution goes into its bias. What is left has no embedding nodes. Weights are loaded one at a time and dropped. */
#ifndef DAVID_GRAPH_FOLD_H
#define DAVID_GRAPH_FOLD_H

#include "engine/graph/program.h"

struct folded {
    struct graph *g; /* the nodes that are left; parameters keep their indices */
    uint32_t conditions;
    /* [nodes]: constants that replace the node's parameters, or NULL. GROUP_NORM: gamma and beta, CONV: beta = bias; [conditions][c]. */
    float **gamma, **beta;
};

enum status fold_init(struct folded *out, struct backend *b, const struct graph *g,
                      const struct param_source *src, const struct condition *conditions,
                      uint32_t n_conditions, struct error *err);
void fold_done(struct folded *f); /* takes a zeroed struct */

/* For a list that stays unfolded: a convolution's bias moves to the ADD_CHANNEL that alone reads it, which then adds bias + e in
 * one rounding, as the folded form does. Otherwise the two forms would drift apart by more than 1e-6 over the layers. */
void fold_order_biases(struct graph *g);

#endif
