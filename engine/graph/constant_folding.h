/* constant_folding.h - the rewrite for constant t: embeddings become per-channel constants.
 *
 * At inference t, the label and the scalars take a few combinations of values, the sets. Each
 * embedding is computed once per set, on the back end that runs the network. Scale and shift then
 * go into the norm's gamma and beta, and an embedding added to a convolution goes into its bias.
 * The rewritten graph has no embedding nodes. Weights are loaded one at a time and freed. */
#ifndef DAVID_GRAPH_FOLD_H
#define DAVID_GRAPH_FOLD_H

#include "engine/graph/program.h"

struct folded {
    struct graph *g; /* the nodes that remain; parameters keep their indices */
    uint32_t conditions;
    /* [nodes]: constants that replace the node's parameters, or NULL. GROUP_NORM: gamma and beta;
     * CONV: beta is the bias. Each is [conditions][c]. */
    float **gamma, **beta;
};

enum status fold_init(struct folded *out, struct backend *b, const struct graph *g,
                      const struct param_source *src, const struct condition *conditions,
                      uint32_t n_conditions, struct error *err);
void fold_done(struct folded *f); /* takes a zeroed struct */

/* For a graph that stays unfolded: a convolution's bias moves to the ADD_CHANNEL that is its only
 * reader, which then adds bias + e with one rounding, as the folded form does. Otherwise the two
 * forms would differ by more than 1e-6 after all layers. */
void fold_order_biases(struct graph *g);

#endif
