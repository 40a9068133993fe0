/* fusion.h - the rewrite that fuses a norm with what follows it, so that the normed feature map is
 * not written to memory.
 *
 * 1. One convolution reads a norm's output (or that output resampled), nothing else does, and it is
 *    no tap: if the back end supports the prologue, the convolution reads the norm's input instead.
 * 2. Else, if the back end's norms can resample, the norm writes the resampled feature map, and the
 *    readers of the resampling node read the norm.
 * 3. If a node resamples the input of such a norm in the same way (a block's skip), the norm
 *    computes that too: the node is the norm's `sibling`, which has an output but does not run.
 * Nodes that are fused are marked `fused`: they keep their constants, have no output and do not
 * run. Training runs the graph as it was built. */
#ifndef DAVID_GRAPH_FUSION_H
#define DAVID_GRAPH_FUSION_H

#include "engine/graph/backend.h"
#include "engine/graph/graph.h"

/* Nothing is fused where the back end has no `supports_prologue` and no `norm_resamples`. */
void graph_fuse(struct graph *g, struct backend *b, enum dtype dtype);
/* The prologue of convolution node i after graph_fuse. */
struct prologue_desc fused_prologue(const struct graph *g, int32_t i);

#endif
