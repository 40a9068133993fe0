#include "engine/graph/fusion.h"

struct prologue_desc fused_prologue(const struct graph *g, int32_t i)
{
    const struct node *n = &g->nodes[i];
    if (n->norm == NODE_NONE) return (struct prologue_desc){ 0 };
    return (struct prologue_desc){ .norm = true,
                                   .silu = g->nodes[n->norm].silu,
                                   .groups = NORM_GROUPS,
                                   .eps = NORM_EPS,
                                   .resample = n->resample };
}

static bool is_hidden(const struct graph *g, int32_t node)
{
    return graph_uses(g, node) == 1 && !g->nodes[node].tap[0] && node != g->output;
}

static enum resample resample_of(const struct node *n)
{
    return n->op == OP_UPSAMPLE     ? RESAMPLE_UP
           : n->op == OP_DOWNSAMPLE ? RESAMPLE_DOWN
                                    : RESAMPLE_NONE;
}

static void fuse_into(struct graph *g, int32_t i, struct backend *b, enum dtype dtype)
{
    struct node as_is = g->nodes[i], *n = &g->nodes[i];
    int32_t between = NODE_NONE, norm = n->in[0];
    const enum resample how = resample_of(&g->nodes[norm]);
    if (how) {
        if (!is_hidden(g, norm)) return;
        n->resample = how;
        between = norm;
        norm = g->nodes[norm].in[0];
    }
    const struct node *from = &g->nodes[n->in[0]];
    struct conv_desc d = { .h = from->h,
                           .w = from->w,
                           .ic = from->c,
                           .oc = n->c,
                           .kernel = n->kernel,
                           .stride = n->stride,
                           .conditions = 1,
                           .dtype = dtype };
    if (g->nodes[norm].op == OP_GROUP_NORM && is_hidden(g, norm)) {
        n->norm = norm;
        d.prologue = fused_prologue(g, i);
    }
    if (n->norm == NODE_NONE || !b->ops->net.supports_prologue(b, &d)) {
        *n = as_is;
        return;
    }
    n->in[0] = g->nodes[norm].in[0];
    n->in[1] = g->nodes[norm].in[1];
    g->nodes[norm].fused = true;
    if (between != NODE_NONE) g->nodes[between].fused = true;
}

static void read_instead(struct node *n, int32_t was, int32_t now)
{
    if (n->in[0] == was) n->in[0] = now;
    if (n->in[1] == was) n->in[1] = now;
    if (n->residual == was) n->residual = now;
}

/* The norm keeps its index, and so its constants: it comes no later than the node it replaces. */
static void resample_in_norm(struct graph *g, int32_t i)
{
    struct node *n = &g->nodes[i];
    const int32_t in = n->in[0];
    struct node *norm = &g->nodes[in];
    if (norm->op != OP_GROUP_NORM || norm->fused || !is_hidden(g, in)) return;
    if (n->tap[0] || i == g->output) return;
    norm->resample = resample_of(n);
    norm->h = n->h;
    norm->w = n->w;
    n->fused = true;
    for (uint32_t k = 0; k < g->n_nodes; k++)
        read_instead(&g->nodes[k], i, in);
}

static bool is_read_between(const struct graph *g, int32_t node, int32_t to)
{
    for (int32_t k = node + 1; k < to; k++) {
        const struct node *n = &g->nodes[k];
        if (n->in[0] == node || n->in[1] == node || n->residual == node) return true;
    }
    return false;
}

/* Node i resamples the input of a later norm, and nothing reads it before that norm runs. */
static void find_norm_for(struct graph *g, int32_t i)
{
    const struct node *n = &g->nodes[i];
    for (int32_t k = i + 1; k < (int32_t)g->n_nodes; k++) {
        struct node *norm = &g->nodes[k];
        if (norm->op != OP_GROUP_NORM || norm->fused || norm->sibling != NODE_NONE) continue;
        if (norm->in[0] != n->in[0] || norm->resample != resample_of(n)) continue;
        if (!is_read_between(g, i, k)) norm->sibling = i;
        return;
    }
}

static bool is_resampling(const struct node *n)
{
    return resample_of(n) != RESAMPLE_NONE && !n->fused;
}

void graph_fuse(struct graph *g, struct backend *b, enum dtype dtype)
{
    for (uint32_t i = 0; b->ops->net.supports_prologue && i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_CONV) fuse_into(g, (int32_t)i, b, dtype);
    if (!b->ops->net.norm_resamples) return;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (is_resampling(&g->nodes[i])) resample_in_norm(g, (int32_t)i);
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (is_resampling(&g->nodes[i])) find_norm_for(g, (int32_t)i);
}
