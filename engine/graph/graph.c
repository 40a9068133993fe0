#include "engine/graph/graph.h"

#include <stdlib.h>

static const char *const op_names[] = {
#define OP(name, what) #name,
#include "engine/graph/ops.def"
#undef OP
};

const char *op_name(enum op op)
{
    return (unsigned)op < OP_COUNT ? op_names[op] : "?";
}

void graph_free(struct graph *g)
{
    if (!g) return;
    free(g->nodes);
    free(g->params);
    free(g);
}
