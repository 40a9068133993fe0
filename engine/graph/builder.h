/* builder.h - appends nodes and parameters to a graph under construction.
 *
 * Used by nets/. A failure is sticky: after the first one (no memory, an input that does not exist)
 * every call does nothing and returns NODE_NONE, so the caller checks once, at builder_finish().
 * Names are copied. Shapes of outputs follow from those of the inputs; an impossible combination is
 * ST_INTERNAL (the caller's mistake: architectures are checked before). One thread. */
#ifndef DAVID_GRAPH_BUILDER_H
#define DAVID_GRAPH_BUILDER_H

#include "engine/graph/graph.h"

struct builder {
    struct graph *g;
    uint32_t node_capacity, param_capacity;
    struct error failure;
};

void builder_init(struct builder *b);
/* The graph, or the first failure; the builder is empty afterwards either way. */
enum status builder_finish(struct builder *b, int32_t output, struct graph **out,
                           struct error *err);

/* All return the index of the new node. `name`: prefix of the parameters
 * ("input_blocks.1.0.in_layers.2"). */
int32_t build_input(struct builder *b, uint32_t h, uint32_t w, uint32_t c);
int32_t build_timestep(struct builder *b, enum scalar scalar, uint32_t c);
int32_t build_label(struct builder *b, const char *name, uint32_t classes, uint32_t c);
int32_t build_linear(struct builder *b, const char *name, int32_t in, uint32_t oc);
int32_t build_silu(struct builder *b, int32_t in);
int32_t build_add(struct builder *b, int32_t in, int32_t other);
int32_t build_add_channel(struct builder *b, int32_t in, int32_t embedding);

struct build_conv_args {
    uint32_t oc, kernel, stride; /* padding kernel / 2 */
    int32_t residual;            /* NODE_NONE */
    bool one_d;                  /* the weight is [oc][ic][1], a Conv1d's */
};
int32_t build_conv(struct builder *b, const char *name, int32_t in,
                   const struct build_conv_args *args);
/* scale_shift: an embedding of 2c channels or NODE_NONE. */
int32_t build_group_norm(struct builder *b, const char *name, int32_t in, int32_t scale_shift,
                         bool silu);
int32_t build_batch_norm(struct builder *b, const char *name, int32_t in);
int32_t build_leaky_relu(struct builder *b, int32_t in, float slope);
int32_t build_attention(struct builder *b, int32_t qkv, uint32_t heads, bool new_order);
int32_t build_upsample(struct builder *b, int32_t in);
int32_t build_downsample(struct builder *b, int32_t in);
/* [h][w][c] to [h / p][w / p][p p c]: channel (dy p + dx) c + k of cell (y, x) is channel k of
 * pixel (p y + dy, p x + dx); build_depth_to_space is the inverse. */
int32_t build_space_to_depth(struct builder *b, int32_t in, uint32_t patch);
int32_t build_depth_to_space(struct builder *b, int32_t in, uint32_t patch);
int32_t build_concat(struct builder *b, int32_t first, int32_t second);

void build_tap(struct builder *b, int32_t node, const char *tap);
uint32_t build_channels(const struct builder *b, int32_t node); /* 0 after a failure */

#endif
