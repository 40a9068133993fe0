/* backward_plan.h - the place of every tensor of a training pass in one arena, and how gradients
 * flow.
 *
 * Nodes run in order, then their gradients in reverse order. An output stays until the last node or
 * gradient has read it. With `recompute` some outputs are dropped after the forward pass and
 * computed again before a gradient reads them: the cheap ones (norms, resampling), or all inside a
 * block (its first convolution, attention). No bit changes, only memory and time. Gradients are in
 * the same arena. A gradient that equals its reader's gradient, or a slice of it, or that may be
 * written over it, takes no memory. Plain host data, made once; any thread may read it. Owned by
 * the caller. */
#ifndef DAVID_GRAPH_BACKWARD_PLAN_H
#define DAVID_GRAPH_BACKWARD_PLAN_H

#include "engine/graph/plan.h"
#include "engine/graph/process_group.h"

enum recompute { RECOMPUTE_NOTHING, RECOMPUTE_NORMS, RECOMPUTE_BLOCKS };

struct backward_options {
    uint32_t rows;    /* of a micro-batch: they run together */
    enum dtype dtype; /* of feature maps and of their gradients; embeddings are F32 */
    bool forward_only;
    enum recompute recompute;
    bool input_gradient; /* the gradient of the network's input is computed */
    bool keep_taps; /* tapped nodes are readable after a forward pass and take upstream gradients */
    struct process_group process_group; /* batch norms are over the rows of all */
    const char *probe; /* the weight of a convolution, for tape_probe; NULL: none */
};

/* What the gradient of a node does to that of a node it reads: nothing; both are the same memory;
 * it writes it; it adds to it. */
enum flow { FLOW_NONE, FLOW_SAME, FLOW_WRITE, FLOW_ADD };

struct backward_node {
    bool has_gradient;
    bool is_fed;                  /* a later node writes its gradient before the node's own turn */
    enum flow in[2], residual;    /* of the gradients of the nodes it reads */
    struct place value, gradient; /* slice_of is not used */
    struct place recomputed;      /* of the value, where it is dropped and computed again */
    bool is_recomputed;           /* gradients read `recomputed` */
    /* plan.recomputed[first .. end): the nodes to run again before this one's gradient */
    uint32_t recompute_first, recompute_end;
};

struct backward_plan {
    struct backward_node *nodes; /* [nodes] */
    uint32_t *recomputed;
    uint32_t probe; /* the node; the number of nodes: none */
    size_t arena_bytes;
};

enum status backward_plan_init(struct backward_plan *out, const struct graph *g,
                               const struct backward_options *o, struct error *err);
void backward_plan_done(struct backward_plan *p); /* takes a zeroed struct */

#endif
