#include "engine/graph/graph.h"

#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {
#define OP(name, traits, what) #name,
#include "engine/graph/ops.def"
};

static const uint32_t traits_of[] = {
#define OP(name, traits, what) (traits),
#include "engine/graph/ops.def"
};

const char *op_name(enum op op)
{
    return (unsigned)op < OP_COUNT ? op_names[op] : "?";
}

uint32_t op_traits(enum op op)
{
    return (unsigned)op < OP_COUNT ? traits_of[op] : 0;
}

void graph_free(struct graph *g)
{
    if (!g) return;
    free(g->nodes);
    free(g->params);
    free(g);
}

struct graph *graph_copy(const struct graph *g)
{
    struct graph *copy = malloc(sizeof *copy);
    if (!copy) return NULL;
    *copy = *g;
    copy->nodes = malloc(g->n_nodes * sizeof *g->nodes);
    copy->params = malloc(g->n_params * sizeof *g->params);
    if (!copy->nodes || !copy->params) {
        graph_free(copy);
        return NULL;
    }
    memcpy(copy->nodes, g->nodes, g->n_nodes * sizeof *g->nodes);
    memcpy(copy->params, g->params, g->n_params * sizeof *g->params);
    return copy;
}

uint64_t graph_param_count(const struct graph *g)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < g->n_params; i++)
        count += g->params[i].count;
    return count;
}

uint64_t graph_flop(const struct graph *g)
{
    uint64_t flop = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        if (n->op == OP_CONV || n->op == OP_LINEAR)
            flop += 2 * g->params[n->weight].count * n->h * n->w;
    }
    return flop;
}

int32_t graph_tap(const struct graph *g, const char *tap)
{
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].tap[0] && strcmp(g->nodes[i].tap, tap) == 0) return (int32_t)i;
    return NODE_NONE;
}

uint32_t graph_uses(const struct graph *g, int32_t node)
{
    uint32_t uses = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        uses += (uint32_t)((n->in[0] == node) + (n->in[1] == node) + (n->residual == node));
    }
    return uses;
}
