/* backward_plan.h - where every tensor of a training pass lies, and how gradients flow.
 *
 * Time runs through the nodes and then back through them. An output lives for as long as a later node or a gradient reads it;
 * `recompute` lets some die after the forward pass and makes them once more before they are needed: the cheap ones (norms,
 * resampling), or all that lies inside a block (its first convolution, attention): no bit changes, only memory and time.
 * Gradients are planned with them, in the same arena: a gradient that is its consumer's, or a slice of it, or that may be written
 * over it, takes no memory of its own. Plain host data, made once; any thread may read it. Owned by the caller. */
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
    bool input_gradient; /* the network's input has one */
    bool keep_taps; /* tapped nodes are readable after a forward pass, and seeds go there too */
    struct process_group process_group; /* batch norms are over the rows of all */
    const char *probe; /* the weight of a convolution, for tape_probe; NULL: none */
};

/* What a node does with the gradient of one that it reads: none, it is the same memory, it writes it, it adds to it. */
enum flow { FLOW_NONE, FLOW_SAME, FLOW_WRITE, FLOW_ADD };

struct backward_node {
    bool has_gradient;
    bool is_fed;                  /* a later node has written its gradient before its turn comes */
    enum flow in[2], residual;    /* of the gradients of the nodes it reads */
    struct place value, gradient; /* slice_of is not used */
    struct place recomputed;      /* of the value, where it dies and is made again */
    bool is_recomputed;           /* gradients read `recomputed` */
    uint32_t recompute_first,
        recompute_end; /* plan.again[first .. end): run before this one's gradient */
};

struct backward_plan {
    struct backward_node *nodes; /* [nodes] */
    uint32_t *recomputed;
    uint32_t probe; /* the node; as many as there are nodes: none */
    size_t arena_bytes;
};

enum status backward_plan_init(struct backward_plan *out, const struct graph *g,
                               const struct backward_options *o, struct error *err);
void backward_plan_done(struct backward_plan *p); /* takes a zeroed struct */

#endif
