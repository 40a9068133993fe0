/* graph.h - a network as a static list of nodes, built once.
 *
 * Builders in nets/ append nodes in the order they run; each node has one output, named by its
 * index. Parameters have the names of the published checkpoints. The memory plan, the forward pass
 * (program.h) and the backward pass (backward.h) are made from the list. A graph is plain host
 * data: no weights, no device. Immutable once built; any thread may read it. */
#ifndef DAVID_GRAPH_GRAPH_H
#define DAVID_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/graph/scalar.h"
#include "engine/graph/tensor.h"
#include "proto/error.h"

enum op {
#define OP(name, traits, what) OP_##name,
#include "engine/graph/ops.def"
    OP_COUNT
};
const char *op_name(enum op op);

/* What the planners of memory and gradients need to know about an op. */
enum op_trait {
    OP_IN_PLACE = 1, /* y may be written over x (input 0), pixel by pixel */
    /* What its gradient reads beside what it writes. An op with none of these has no gradient. */
    OP_READS_DY = 2,     /* the gradient of y alone */
    OP_READS_X = 4,      /* and x */
    OP_READS_OTHER = 8,  /* and input 1 */
    OP_READS_Y = 16,     /* and y */
    OP_DX_IN_PLACE = 32, /* the gradient of x may be written over that of y */
    /* What `recompute` (backward_plan.h) drops after the forward pass. */
    OP_CHEAP = 64,    /* RECOMPUTE_NORMS and RECOMPUTE_BLOCKS */
    OP_IN_BLOCK = 128 /* RECOMPUTE_BLOCKS */
};
uint32_t op_traits(enum op op);

enum { NORM_GROUPS = 32 };
#define NORM_EPS 1e-5f /* of every norm, both: engine/README.md section 2 */

enum { NODE_NONE = -1, PARAM_MAX_DIMS = 4, PARAM_NAME_MAX = 80, TAP_NAME_MAX = 32 };

struct param_desc {
    char name[PARAM_NAME_MAX]; /* "input_blocks.1.0.in_layers.2.weight" */
    uint32_t dims, shape[PARAM_MAX_DIMS];
    uint64_t count;
};

struct node {
    enum op op;
    int32_t in[2];           /* nodes that it reads; NODE_NONE */
    int32_t residual;        /* CONV: added to the output; NODE_NONE */
    int32_t weight, bias;    /* parameter indices (norms: gamma, beta); NODE_NONE */
    uint32_t h, w, c;        /* output of one row; 1 x 1 for embeddings */
    uint32_t kernel, stride; /* CONV */
    uint32_t heads;          /* ATTENTION */
    uint32_t patch;          /* SPACE_TO_DEPTH, DEPTH_TO_SPACE: px a side of a cell */
    enum scalar scalar;      /* TIMESTEP: which of a row's numbers it embeds */
    /* CONV: of every `of` output channels only the first `wanted` are computed; 0: all */
    uint32_t of, wanted;
    bool new_order;         /* ATTENTION */
    int32_t norm;           /* CONV: the norm fused into its prologue (fusion.h); NODE_NONE */
    enum resample resample; /* CONV with a norm, GROUP_NORM: what follows the norm */
    int32_t sibling; /* GROUP_NORM that resamples: the node whose output it writes too; NODE_NONE */
    bool fused;      /* a node before or after it computes it: no output, not run */
    bool silu;       /* GROUP_NORM; in[1] = scale and shift or NODE_NONE */
    float slope;     /* LEAKY_RELU */
    /* It depends only on t, the label and the scalars: folded where these are constant. */
    bool is_embedding;
    char tap[TAP_NAME_MAX]; /* "input_blocks.3": the block this node is the output of; "" = none */
};

struct graph {
    struct node *nodes;
    uint32_t n_nodes;
    struct param_desc *params;
    uint32_t n_params;
    int32_t input, output; /* node indices */
};

void graph_free(struct graph *g);                  /* takes NULL */
struct graph *graph_copy(const struct graph *g);   /* NULL: no memory */
uint64_t graph_param_count(const struct graph *g); /* scalars in all parameters */
/* Of one row: 2 per multiply-add of convolutions and linear ops, without attention. */
uint64_t graph_flop(const struct graph *g);
uint32_t graph_uses(const struct graph *g, int32_t node);  /* how often its output is read */
int32_t graph_tap(const struct graph *g, const char *tap); /* node index or NODE_NONE */

#endif
