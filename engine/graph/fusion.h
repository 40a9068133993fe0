/* fusion.h - the rewrite that spares a normed feature map its way through memory: what follows the norm is done with it.
 *
 * Where a norm's feature map, or that feature map resampled, is read by one convolution alone (and is no tap) and the back end can do both at
 * once, the convolution reads the norm's input instead. Where it cannot, but its norms can resample, the norm writes the resampled feature map, and
 * who read that reads the norm. If the norm's input is resampled in the same way (a block's skip), the norm does that
 * along the way: its `sibling`, which keeps its output but does not run. The nodes left out are marked `fused`: they keep their constants but have no
 * output and do not run. Training runs the list as it was built. */
#ifndef DAVID_GRAPH_FUSION_H
#define DAVID_GRAPH_FUSION_H

#include "engine/graph/backend.h"
#include "engine/graph/graph.h"

/* Nothing is fused where the back end has no `supports_prologue` and no `norm_resamples`. */
void graph_fuse(struct graph *g, struct backend *b, enum dtype dtype);
/* The prologue of convolution node i, as graph_fuse left it. */
struct prologue_desc fused_prologue(const struct graph *g, int32_t i);

#endif
