/* A value is a node's output; a buffer is the memory of one value, or of several that share it. First values are given
 * buffers (joined into a concat, or written over a dying input), then the buffers are laid into the arena, the largest
 * first, each at the lowest place that is free for as long as it lives. */
#include "engine/graph/plan.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

struct buffer {
    int32_t owner;        /* the node whose shape it has; NODE_NONE: given up to another buffer */
    uint32_t first, last; /* nodes during which it lives, inclusive */
    size_t bytes, offset;
};

struct layout {
    const struct graph *g;
    const struct plan_options *o;
    struct buffer *buffers; /* [nodes]: a value starts in the buffer of its own index */
    uint32_t *buffer_of;    /* [nodes] */
    uint32_t *channel_of;   /* [nodes]: first channel of a value in its buffer */
    uint32_t *order;        /* [nodes]: buffers, the largest first */
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
    if (first < b->first) b->first = first;
    if (last > b->last) b->last = last;
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
        l->buffers[i] = (struct buffer){ .owner = (int32_t)i, .first = i, .last = i };
        l->buffer_of[i] = i;
        l->channel_of[i] = 0;
        if (node->absorbed) {
            l->buffers[i].owner = NODE_NONE;
            continue;
        }
        l->buffers[i].bytes = value_bytes(l, node);
        note_use(l, node->in[0], i);
        note_use(l, node->in[1], i);
        note_use(l, node->residual, i);
        if ((int32_t)i == l->g->output || (l->o->keep_taps && node->tap[0])) l->buffers[i].last = n;
    }
}

/* Values move into a buffer whole: whoever was alone in `from` is now in `to`, from `channel` on. */
static void merge(struct layout *l, uint32_t from, uint32_t to, uint32_t channel)
{
    extend(&l->buffers[to], l->buffers[from].first, l->buffers[from].last);
    for (uint32_t i = 0; i < l->g->n_nodes; i++)
        if (l->buffer_of[i] == from) {
            l->buffer_of[i] = to;
            l->channel_of[i] += channel;
        }
    l->buffers[from].owner = NODE_NONE;
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

/* The input that node i may overwrite while it runs; NODE_NONE. A convolution reads its picture all over, so only its residual
 * qualifies, and only where the two are not the same memory. */
static int32_t overwritable(const struct layout *l, const struct node *n)
{
    switch (n->op) {
    case OP_GROUP_NORM:
    case OP_SILU:
    case OP_ADD:
    case OP_ADD_CHANNEL: return n->in[0];
    case OP_CONV:
        if (n->residual != NODE_NONE && l->buffer_of[n->residual] != l->buffer_of[n->in[0]])
            return n->residual;
        break;
    default: break;
    }
    return NODE_NONE;
}

static void overwrite_inputs(struct layout *l)
{
    for (uint32_t i = 0; i < l->g->n_nodes; i++) {
        const struct node *n = &l->g->nodes[i];
        int32_t in = n->absorbed ? NODE_NONE : overwritable(l, n);
        if (in == NODE_NONE || l->buffer_of[i] != i || n->op == OP_CONCAT) continue;
        uint32_t to = l->buffer_of[in];
        const struct buffer *b = &l->buffers[to];
        const struct node *owner = &l->g->nodes[b->owner];
        if (b->last != i || b->bytes != l->buffers[i].bytes || owner->c != n->c) continue;
        merge(l, i, to, 0);
    }
}

static void sort_largest_first(struct layout *l)
{
    for (uint32_t i = 0; i < l->g->n_nodes; i++) {
        uint32_t k = i;
        for (; k > 0 && l->buffers[l->order[k - 1]].bytes < l->buffers[i].bytes; k--)
            l->order[k] = l->order[k - 1];
        l->order[k] = i;
    }
}

static bool meet(const struct buffer *a, const struct buffer *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset at which `b` meets none of the first `placed` buffers of the order. */
static size_t lowest_offset(const struct layout *l, const struct buffer *b, uint32_t placed)
{
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t k = 0; k < placed; k++) {
            const struct buffer *o = &l->buffers[l->order[k]];
            if (o->owner == NODE_NONE || !meet(o, b) || offset >= o->offset + o->bytes ||
                o->offset >= offset + b->bytes)
                continue;
            offset = o->offset + o->bytes;
            moved = true;
        }
    }
    return offset;
}

static size_t lay_out(struct layout *l)
{
    size_t end = 0;
    sort_largest_first(l);
    for (uint32_t k = 0; k < l->g->n_nodes; k++) {
        struct buffer *b = &l->buffers[l->order[k]];
        if (b->owner == NODE_NONE) continue;
        b->offset = lowest_offset(l, b, k);
        if (b->offset + b->bytes > end) end = b->offset + b->bytes;
    }
    return end;
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
    l.order = calloc(n, sizeof *l.order);
    l.places = calloc(n, sizeof *l.places);
    if (!l.buffers || !l.buffer_of || !l.channel_of || !l.order || !l.places) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %u nodes", n);
        goto done;
    }
    for (uint32_t i = 0; i < n; i++)
        l.places[i].slice_of = NODE_NONE;
    find_lifetimes(&l);
    if (o->join) join_concats(&l);
    overwrite_inputs(&l);
    size_t arena = lay_out(&l), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &l.buffers[l.buffer_of[i]];
        if (b->owner == NODE_NONE) continue;
        sum += value_bytes(&l, &g->nodes[i]);
        l.places[i].ld = g->nodes[b->owner].c;
        l.places[i].offset_bytes =
            b->offset + l.channel_of[i] * dtype_size(dtype_of(&l, &g->nodes[i]));
    }
    *out = (struct plan){ .places = l.places, .arena_bytes = arena, .sum_bytes = sum };
    l.places = NULL;
done:
    free(l.buffers);
    free(l.buffer_of);
    free(l.channel_of);
    free(l.order);
    free(l.places);
    return s;
}

void plan_done(struct plan *p)
{
    free(p->places);
    *p = (struct plan){ 0 };
}
