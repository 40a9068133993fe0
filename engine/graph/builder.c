#include "engine/graph/builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void builder_init(struct builder *b)
{
    memset(b, 0, sizeof *b);
    b->g = calloc(1, sizeof *b->g);
    if (!b->g) {
        (void)error_set(&b->failure, ST_NO_MEMORY_NOW, "no memory for a graph");
        return;
    }
    b->g->input = NODE_NONE;
    b->g->output = NODE_NONE;
}

enum status builder_finish(struct builder *b, int32_t output, struct graph **out, struct error *err)
{
    enum status s = b->failure.status;
    if (s) {
        (void)error_set(err, s, "%s", b->failure.detail);
        graph_free(b->g);
    } else {
        b->g->output = output;
        *out = b->g;
    }
    b->g = NULL;
    return s;
}

static bool has_failed(const struct builder *b)
{
    return b->failure.status != ST_OK;
}

static int32_t impossible(struct builder *b, enum op op, const char *why)
{
    (void)error_set(&b->failure, ST_INTERNAL, "%s node: %s", op_name(op), why);
    return NODE_NONE;
}

static void *grown(struct builder *b, void *array, uint32_t n, uint32_t *capacity, size_t size)
{
    if (n < *capacity) return array;
    uint32_t want = *capacity ? *capacity * 2 : 64;
    void *more = realloc(array, want * size);
    if (!more) {
        (void)error_set(&b->failure, ST_NO_MEMORY_NOW, "no memory for %u nodes of a graph", want);
        return array;
    }
    *capacity = want;
    return more;
}

static int32_t append_param(struct builder *b, const char *name, const char *suffix, uint32_t dims,
                            const uint32_t *shape)
{
    if (has_failed(b)) return NODE_NONE;
    struct graph *g = b->g;
    g->params = grown(b, g->params, g->n_params, &b->param_capacity, sizeof *g->params);
    if (has_failed(b)) return NODE_NONE;
    struct param_desc *p = &g->params[g->n_params];
    memset(p, 0, sizeof *p);
    int len = snprintf(p->name, sizeof p->name, "%s.%s", name, suffix);
    if (len < 0 || (size_t)len >= sizeof p->name) {
        (void)error_set(&b->failure, ST_INTERNAL, "the parameter name %s.%s is too long", name,
                        suffix);
        return NODE_NONE;
    }
    p->dims = dims;
    p->count = 1;
    for (uint32_t i = 0; i < dims; i++) {
        p->shape[i] = shape[i];
        p->count *= shape[i];
    }
    return (int32_t)g->n_params++;
}

/* A new node with default fields; NULL after a failure or where an input does not exist yet. */
static struct node *append(struct builder *b, enum op op, int32_t in0, int32_t in1)
{
    if (has_failed(b)) return NULL;
    struct graph *g = b->g;
    if (in0 < NODE_NONE || in0 >= (int32_t)g->n_nodes || in1 < NODE_NONE ||
        in1 >= (int32_t)g->n_nodes) {
        (void)impossible(b, op, "an input does not exist");
        return NULL;
    }
    g->nodes = grown(b, g->nodes, g->n_nodes, &b->node_capacity, sizeof *g->nodes);
    if (has_failed(b)) return NULL;
    struct node *n = &g->nodes[g->n_nodes++];
    memset(n, 0, sizeof *n);
    n->op = op;
    n->in[0] = in0;
    n->in[1] = in1;
    n->residual = n->weight = n->bias = n->norm = n->sibling = NODE_NONE;
    if (in0 != NODE_NONE) {
        n->h = g->nodes[in0].h;
        n->w = g->nodes[in0].w;
        n->c = g->nodes[in0].c;
        n->is_embedding = g->nodes[in0].is_embedding;
    }
    return n;
}

static const struct node *node_at(const struct builder *b, int32_t i)
{
    return &b->g->nodes[i];
}

static int32_t last(const struct builder *b)
{
    return has_failed(b) ? NODE_NONE : (int32_t)b->g->n_nodes - 1;
}

int32_t build_input(struct builder *b, uint32_t h, uint32_t w, uint32_t c)
{
    struct node *n = append(b, OP_INPUT, NODE_NONE, NODE_NONE);
    if (!n) return NODE_NONE;
    n->h = h;
    n->w = w;
    n->c = c;
    b->g->input = last(b);
    return last(b);
}

int32_t build_timestep(struct builder *b, enum scalar scalar, uint32_t c)
{
    struct node *n = append(b, OP_TIMESTEP, NODE_NONE, NODE_NONE);
    if (!n) return NODE_NONE;
    n->h = n->w = 1;
    n->c = c;
    n->scalar = scalar;
    n->is_embedding = true;
    return last(b);
}

int32_t build_label(struct builder *b, const char *name, uint32_t classes, uint32_t c)
{
    int32_t weight = append_param(b, name, "weight", 2, (uint32_t[]){ classes, c });
    struct node *n = append(b, OP_LABEL, NODE_NONE, NODE_NONE);
    if (!n) return NODE_NONE;
    n->h = n->w = 1;
    n->c = c;
    n->weight = weight;
    n->is_embedding = true;
    return last(b);
}

int32_t build_linear(struct builder *b, const char *name, int32_t in, uint32_t oc)
{
    if (has_failed(b)) return NODE_NONE;
    if (!node_at(b, in)->is_embedding) return impossible(b, OP_LINEAR, "not on an embedding");
    uint32_t ic = node_at(b, in)->c;
    int32_t weight = append_param(b, name, "weight", 2, (uint32_t[]){ oc, ic });
    int32_t bias = append_param(b, name, "bias", 1, (uint32_t[]){ oc });
    struct node *n = append(b, OP_LINEAR, in, NODE_NONE);
    if (!n) return NODE_NONE;
    n->c = oc;
    n->weight = weight;
    n->bias = bias;
    return last(b);
}

int32_t build_silu(struct builder *b, int32_t in)
{
    if (!has_failed(b) && !node_at(b, in)->is_embedding)
        return impossible(b, OP_SILU, "not on an embedding");
    (void)append(b, OP_SILU, in, NODE_NONE);
    return last(b);
}

int32_t build_add(struct builder *b, int32_t in, int32_t other)
{
    if (!has_failed(b) &&
        (node_at(b, in)->c != node_at(b, other)->c || !node_at(b, other)->is_embedding))
        return impossible(b, OP_ADD, "the two embeddings differ in width");
    (void)append(b, OP_ADD, in, other);
    return last(b);
}

int32_t build_add_channel(struct builder *b, int32_t in, int32_t embedding)
{
    if (!has_failed(b) && node_at(b, in)->c != node_at(b, embedding)->c)
        return impossible(b, OP_ADD_CHANNEL, "the embedding is not as wide as the feature map");
    (void)append(b, OP_ADD_CHANNEL, in, embedding);
    return last(b);
}

int32_t build_conv(struct builder *b, const char *name, int32_t in,
                   const struct build_conv_args *args)
{
    if (has_failed(b)) return NODE_NONE;
    uint32_t ic = node_at(b, in)->c, oc = args->oc, k = args->kernel;
    int32_t weight =
        append_param(b, name, "weight", args->one_d ? 3 : 4, (uint32_t[]){ oc, ic, k, k });
    int32_t bias = append_param(b, name, "bias", 1, (uint32_t[]){ oc });
    struct node *n = append(b, OP_CONV, in, NODE_NONE);
    if (!n) return NODE_NONE;
    n->c = oc;
    n->kernel = k;
    n->stride = args->stride;
    n->h = (n->h + 2 * (k / 2) - k) / n->stride + 1;
    n->w = (n->w + 2 * (k / 2) - k) / n->stride + 1;
    n->weight = weight;
    n->bias = bias;
    n->residual = args->residual;
    if (args->residual != NODE_NONE) {
        const struct node *r = node_at(b, args->residual);
        if (r->h != n->h || r->w != n->w || r->c != n->c)
            return impossible(b, OP_CONV, "the residual has another shape");
    }
    return last(b);
}

int32_t build_group_norm(struct builder *b, const char *name, int32_t in, int32_t scale_shift,
                         bool silu)
{
    if (has_failed(b)) return NODE_NONE;
    uint32_t c = node_at(b, in)->c;
    if (scale_shift != NODE_NONE && node_at(b, scale_shift)->c != 2 * c)
        return impossible(b, OP_GROUP_NORM, "scale and shift are not 2c wide");
    int32_t gamma = append_param(b, name, "weight", 1, (uint32_t[]){ c });
    int32_t beta = append_param(b, name, "bias", 1, (uint32_t[]){ c });
    struct node *n = append(b, OP_GROUP_NORM, in, scale_shift);
    if (!n) return NODE_NONE;
    n->weight = gamma;
    n->bias = beta;
    n->silu = silu;
    return last(b);
}

int32_t build_batch_norm(struct builder *b, const char *name, int32_t in)
{
    if (has_failed(b)) return NODE_NONE;
    uint32_t c = node_at(b, in)->c;
    int32_t gamma = append_param(b, name, "weight", 1, (uint32_t[]){ c });
    int32_t beta = append_param(b, name, "bias", 1, (uint32_t[]){ c });
    struct node *n = append(b, OP_BATCH_NORM, in, NODE_NONE);
    if (!n) return NODE_NONE;
    n->weight = gamma;
    n->bias = beta;
    return last(b);
}

int32_t build_leaky_relu(struct builder *b, int32_t in, float slope)
{
    struct node *n = append(b, OP_LEAKY_RELU, in, NODE_NONE);
    if (!n) return NODE_NONE;
    n->slope = slope;
    return last(b);
}

int32_t build_attention(struct builder *b, int32_t qkv, uint32_t heads, bool new_order)
{
    struct node *n = append(b, OP_ATTENTION, qkv, NODE_NONE);
    if (!n) return NODE_NONE;
    if (heads == 0 || n->c % 3 || (n->c / 3) % heads)
        return impossible(b, OP_ATTENTION, "the heads do not divide the channels");
    n->c /= 3;
    n->heads = heads;
    n->new_order = new_order;
    return last(b);
}

int32_t build_upsample(struct builder *b, int32_t in)
{
    struct node *n = append(b, OP_UPSAMPLE, in, NODE_NONE);
    if (!n) return NODE_NONE;
    n->h *= 2;
    n->w *= 2;
    return last(b);
}

int32_t build_downsample(struct builder *b, int32_t in)
{
    struct node *n = append(b, OP_DOWNSAMPLE, in, NODE_NONE);
    if (!n) return NODE_NONE;
    if (n->h % 2 || n->w % 2)
        return impossible(b, OP_DOWNSAMPLE, "a side of the feature map is odd");
    n->h /= 2;
    n->w /= 2;
    return last(b);
}

int32_t build_space_to_depth(struct builder *b, int32_t in, uint32_t patch)
{
    struct node *n = append(b, OP_SPACE_TO_DEPTH, in, NODE_NONE);
    if (!n) return NODE_NONE;
    if (patch == 0 || n->h % patch || n->w % patch)
        return impossible(b, OP_SPACE_TO_DEPTH, "cells do not divide the feature map");
    n->h /= patch;
    n->w /= patch;
    n->c *= patch * patch;
    n->patch = patch;
    return last(b);
}

int32_t build_depth_to_space(struct builder *b, int32_t in, uint32_t patch)
{
    struct node *n = append(b, OP_DEPTH_TO_SPACE, in, NODE_NONE);
    if (!n) return NODE_NONE;
    if (patch == 0 || n->c % (patch * patch))
        return impossible(b, OP_DEPTH_TO_SPACE, "the channels are not those of cells");
    n->h *= patch;
    n->w *= patch;
    n->c /= patch * patch;
    n->patch = patch;
    return last(b);
}

int32_t build_concat(struct builder *b, int32_t first, int32_t second)
{
    struct node *n = append(b, OP_CONCAT, first, second);
    if (!n) return NODE_NONE;
    const struct node *o = node_at(b, second);
    if (o->h != n->h || o->w != n->w)
        return impossible(b, OP_CONCAT, "the two feature maps differ in size");
    n->c += o->c;
    return last(b);
}

void build_tap(struct builder *b, int32_t node, const char *tap)
{
    if (has_failed(b)) return;
    (void)snprintf(b->g->nodes[node].tap, sizeof b->g->nodes[node].tap, "%s", tap);
}

uint32_t build_channels(const struct builder *b, int32_t node)
{
    return has_failed(b) ? 0 : node_at(b, node)->c;
}
