#include "engine/graph/absorb.h"

struct conv_input absorbed_input(const struct graph *g, int32_t i)
{
    const struct node *n = &g->nodes[i];
    if (n->norm == NODE_NONE) return (struct conv_input){ 0 };
    return (struct conv_input){ .norm = true,
                                .silu = g->nodes[n->norm].silu,
                                .groups = NORM_GROUPS,
                                .eps = NORM_EPS,
                                .resample = n->resample };
}

static bool is_hidden(const struct graph *g, int32_t node)
{
    return graph_uses(g, node) == 1 && !g->nodes[node].tap[0] && node != g->output;
}

static void absorb_into(struct graph *g, int32_t i, struct backend *b, enum dtype dtype)
{
    struct node as_is = g->nodes[i], *n = &g->nodes[i];
    int32_t between = NODE_NONE, norm = n->in[0];
    enum op op = g->nodes[norm].op;
    if (op == OP_UPSAMPLE || op == OP_DOWNSAMPLE) {
        if (!is_hidden(g, norm)) return;
        n->resample = op == OP_UPSAMPLE ? RESAMPLE_UP : RESAMPLE_DOWN;
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
                           .sets = 1,
                           .dtype = dtype };
    if (g->nodes[norm].op == OP_GROUP_NORM && is_hidden(g, norm)) {
        n->norm = norm;
        d.input = absorbed_input(g, i);
    }
    if (n->norm == NODE_NONE || !b->ops->conv_takes(b, &d)) {
        *n = as_is;
        return;
    }
    n->in[0] = g->nodes[norm].in[0];
    n->in[1] = g->nodes[norm].in[1];
    g->nodes[norm].absorbed = true;
    if (between != NODE_NONE) g->nodes[between].absorbed = true;
}

void graph_absorb(struct graph *g, struct backend *b, enum dtype dtype)
{
    if (!b->ops->conv_takes) return;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_CONV) absorb_into(g, (int32_t)i, b, dtype);
}
