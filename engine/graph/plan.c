/* A value is a node's output; a buffer is the memory of one value, or of several that share it.
 * First values get buffers (joined into a concat, or written over an input that is not read again),
 * then the buffers get offsets in the arena. */
#include "engine/graph/plan.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/arena.h"

enum { ALIGN = 64 };

struct buffer {
    int32_t owner; /* the node whose shape it has; NODE_NONE: merged into another buffer */
    struct lifetime lifetime; /* its moments are nodes */
};

struct layout {
    const struct graph *g;
    const struct plan_options *o;
    struct buffer *buffers; /* [nodes]: a value starts in the buffer of its own index */
    uint32_t *buffer_of;    /* [nodes] */
    uint32_t *channel_of;   /* [nodes]: first channel of a value in its buffer */
    struct place *places;
};

static enum dtype dtype_of(const struct layout *l, const struct node *n)
{
    return n->is_embedding ? DT_F32 : l->o->dtype;
}

static size_t value_bytes(const struct layout *l, const struct node *n)
{
    size_t bytes = (size_t)l->o->rows * n->h * n->w * n->c * dtype_size(dtype_of(l, n));
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void extend(struct buffer *b, uint32_t first, uint32_t last)
{
    if (first < b->lifetime.first) b->lifetime.first = first;
    if (last > b->lifetime.last) b->lifetime.last = last;
}

static void note_use(struct layout *l, int32_t value, uint32_t at)
{
    if (value != NODE_NONE) extend(&l->buffers[value], at, at);
}

static void find_lifetimes(struct layout *l)
{
    uint32_t n = l->g->n_nodes;
    for (uint32_t i = 0; i < n; i++) {
        const struct node *node = &l->g->nodes[i];
        l->buffers[i] =
            (struct buffer){ .owner = (int32_t)i, .lifetime = { .first = i, .last = i } };
        l->buffer_of[i] = i;
        l->channel_of[i] = 0;
        if (node->fused) {
            l->buffers[i].owner = NODE_NONE;
            continue;
        }
        l->buffers[i].lifetime.bytes = value_bytes(l, node);
        note_use(l, node->in[0], i);
        note_use(l, node->in[1], i);
        note_use(l, node->residual, i);
        if ((int32_t)i == l->g->output || (l->o->keep_taps && node->tap[0]))
            l->buffers[i].lifetime.last = n;
    }
}

/* Moves all values of a buffer: those in `from` are then in `to`, from `channel` on. */
static void merge(struct layout *l, uint32_t from, uint32_t to, uint32_t channel)
{
    extend(&l->buffers[to], l->buffers[from].lifetime.first, l->buffers[from].lifetime.last);
    for (uint32_t i = 0; i < l->g->n_nodes; i++)
        if (l->buffer_of[i] == from) {
            l->buffer_of[i] = to;
            l->channel_of[i] += channel;
        }
    l->buffers[from] = (struct buffer){ .owner = NODE_NONE };
}

static bool can_join(const struct layout *l, int32_t value, int32_t other)
{
    const struct node *n = &l->g->nodes[value];
    return value != other && n->op != OP_CONCAT && n->op != OP_INPUT && !n->is_embedding &&
           l->places[value].slice_of == NODE_NONE;
}

static void join_concats(struct layout *l)
{
    for (uint32_t i = 0; i < l->g->n_nodes; i++) {
        const struct node *n = &l->g->nodes[i];
        if (n->op != OP_CONCAT) continue;
        for (int k = 0; k < 2; k++) {
            int32_t in = n->in[k];
            if (!can_join(l, in, n->in[!k])) continue;
            merge(l, (uint32_t)in, i, k ? n->c - l->g->nodes[in].c : 0);
            l->places[in].slice_of = (int32_t)i;
        }
    }
}

int32_t plan_overwritable(const struct node *n, const uint32_t *buffer_of)
{
    if (n->op == OP_CONV && n->residual != NODE_NONE &&
        buffer_of[n->residual] != buffer_of[n->in[0]])
        return n->residual;
    return op_traits(n->op) & OP_IN_PLACE && !n->resample ? n->in[0] : NODE_NONE;
}

static void overwrite_inputs(struct layout *l)
{
    for (uint32_t i = 0; i < l->g->n_nodes; i++) {
        const struct node *n = &l->g->nodes[i];
        int32_t in = n->fused ? NODE_NONE : plan_overwritable(n, l->buffer_of);
        if (in == NODE_NONE || l->buffer_of[i] != i || n->op == OP_CONCAT) continue;
        uint32_t to = l->buffer_of[in];
        const struct buffer *b = &l->buffers[to];
        const struct node *owner = &l->g->nodes[b->owner];
        if (b->lifetime.last != i || b->lifetime.bytes != l->buffers[i].lifetime.bytes ||
            owner->c != n->c)
            continue;
        merge(l, i, to, 0);
    }
}

static enum status lay_out(struct layout *l, size_t *total, struct error *err)
{
    uint32_t n = l->g->n_nodes;
    struct lifetime *lifetimes = calloc(n, sizeof *lifetimes);
    if (!lifetimes) return error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %u buffers", n);
    for (uint32_t i = 0; i < n; i++)
        lifetimes[i] = l->buffers[i].lifetime;
    enum status s = arena_lay_out(lifetimes, n, total, err);
    for (uint32_t i = 0; !s && i < n; i++)
        l->buffers[i].lifetime = lifetimes[i];
    free(lifetimes);
    return s;
}

enum status plan_init(struct plan *out, const struct graph *g, const struct plan_options *o,
                      struct error *err)
{
    uint32_t n = g->n_nodes;
    struct layout l = { .g = g, .o = o };
    enum status s = ST_OK;
    l.buffers = calloc(n, sizeof *l.buffers);
    l.buffer_of = calloc(n, sizeof *l.buffer_of);
    l.channel_of = calloc(n, sizeof *l.channel_of);
    l.places = calloc(n, sizeof *l.places);
    if (!l.buffers || !l.buffer_of || !l.channel_of || !l.places) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %u nodes", n);
        goto done;
    }
    for (uint32_t i = 0; i < n; i++)
        l.places[i].slice_of = NODE_NONE;
    find_lifetimes(&l);
    if (o->join) join_concats(&l);
    overwrite_inputs(&l);
    size_t arena = 0, sum = 0;
    s = lay_out(&l, &arena, err);
    if (s) goto done;
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &l.buffers[l.buffer_of[i]];
        if (b->owner == NODE_NONE) continue;
        sum += value_bytes(&l, &g->nodes[i]);
        l.places[i].ld = g->nodes[b->owner].c;
        l.places[i].offset_bytes =
            b->lifetime.offset + l.channel_of[i] * dtype_size(dtype_of(&l, &g->nodes[i]));
    }
    *out = (struct plan){ .places = l.places, .arena_bytes = arena, .sum_bytes = sum };
    l.places = NULL;
done:
    free(l.buffers);
    free(l.buffer_of);
    free(l.channel_of);
    free(l.places);
    return s;
}

void plan_done(struct plan *p)
{
    free(p->places);
    *p = (struct plan){ 0 };
}
