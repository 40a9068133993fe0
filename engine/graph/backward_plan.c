/* A value is a node's output, that output recomputed, or its gradient. A buffer is the memory of
 * one value or of several that share it. The moment of node i is i in the forward pass and 2n - i
 * in the backward pass; n is the loss. */
#include "engine/graph/backward_plan.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/arena.h"
#include "engine/graph/plan.h"

struct buffer {
    uint32_t channels; /* of its pixels; 0: merged into another buffer, or never used */
    struct lifetime lifetime;
};

struct layout {
    const struct graph *g;
    const struct backward_options *o;
    uint32_t n;
    struct buffer *buffers; /* [3n]: outputs, recomputed outputs, gradients */
    uint32_t *buffer_of;    /* [3n]: a value starts in the buffer of its own index */
    uint32_t *channel_of;   /* [3n]: first channel of a value in its buffer */
    bool *is_slice;         /* [n]: it is a slice of the feature map of a concat */
    uint32_t *readers;      /* [n]: nodes that read it */
    bool *reached;          /* [n]: something has been written into its gradient */
    uint32_t *recomputed;   /* [n] */
    uint32_t probe; /* a probe stops at this node, and the backward pass begins again; n: none */
    struct backward_node *nodes;
};

static const struct node *node_of(const struct layout *l, int32_t i)
{
    return &l->g->nodes[i];
}

static uint32_t back(const struct layout *l, uint32_t i)
{
    return 2 * l->n - i;
}

static enum dtype dtype_of(const struct layout *l, const struct node *n)
{
    return n->is_embedding ? DT_F32 : l->o->dtype;
}

static void live(struct layout *l, uint32_t value, uint32_t from, uint32_t to)
{
    struct buffer *b = &l->buffers[l->buffer_of[value]];
    if (b->lifetime.bytes == 0) {
        const struct node *n = node_of(l, (int32_t)(value % l->n));
        b->channels = n->c;
        b->lifetime.bytes = (size_t)l->o->rows * n->h * n->w * n->c * dtype_size(dtype_of(l, n));
        b->lifetime.first = from;
        b->lifetime.last = to;
    }
    if (from < b->lifetime.first) b->lifetime.first = from;
    if (to > b->lifetime.last) b->lifetime.last = to;
}

/* ---- outputs ---- */

static void find_gradients(struct layout *l)
{
    for (uint32_t i = 0; i < l->n && !l->o->forward_only; i++) {
        const struct node *n = &l->g->nodes[i];
        const int32_t from[3] = { n->in[0], n->in[1], n->residual };
        bool has = n->weight != NODE_NONE || (n->op == OP_INPUT && l->o->input_gradient);
        for (int k = 0; k < 3; k++)
            has = has || (from[k] != NODE_NONE && l->nodes[from[k]].has_gradient);
        l->nodes[i].has_gradient = has;
    }
}

/* Moves all values of a buffer: those in `from` are then in `to`, from `channel` on. */
static void merge(struct layout *l, uint32_t from, uint32_t to, uint32_t channel)
{
    struct buffer *f = &l->buffers[from], *t = &l->buffers[to];
    if (f->lifetime.first < t->lifetime.first) t->lifetime.first = f->lifetime.first;
    if (f->lifetime.last > t->lifetime.last) t->lifetime.last = f->lifetime.last;
    for (uint32_t v = 0; v < 3 * l->n; v++)
        if (l->buffer_of[v] == from) {
            l->buffer_of[v] = to;
            l->channel_of[v] += channel;
        }
    *f = (struct buffer){ 0 };
}

static void live_forward(struct layout *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        const struct node *n = &l->g->nodes[i];
        const int32_t from[3] = { n->in[0], n->in[1], n->residual };
        bool kept = (int32_t)i == l->g->output || (l->o->keep_taps && n->tap[0]);
        live(l, i, i, kept ? l->n : i);
        for (int k = 0; k < 3; k++) {
            if (from[k] == NODE_NONE) continue;
            live(l, (uint32_t)from[k], i, i);
            l->readers[from[k]]++;
        }
    }
}

static void join_concats(struct layout *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        const struct node *n = &l->g->nodes[i];
        for (int k = 0; n->op == OP_CONCAT && k < 2; k++) {
            int32_t in = n->in[k];
            const struct node *from = node_of(l, in);
            if (in == n->in[!k] || from->op == OP_CONCAT || from->op == OP_INPUT || l->is_slice[in])
                continue;
            merge(l, (uint32_t)in, i, k ? n->c - from->c : 0);
            l->is_slice[in] = true;
        }
    }
}

/* An output inside a block has one reader. A block's end, where a residual is added, is kept, so no
 * chain to recompute is longer than a block. */
static bool is_recomputed_value(const struct layout *l, int32_t i)
{
    const struct node *n = node_of(l, i);
    const uint32_t traits = op_traits(n->op);
    const bool is_inside = traits & OP_IN_BLOCK && n->residual == NODE_NONE && l->readers[i] == 1;
    const bool is_wanted = (l->o->recompute != RECOMPUTE_NOTHING && traits & OP_CHEAP) ||
                           (l->o->recompute == RECOMPUTE_BLOCKS && is_inside);
    return is_wanted && !l->is_slice[i] && !(l->o->keep_taps && n->tap[0]) && i != l->g->output;
}

/* The gradient of node `reader`, or the recomputation of something before it, reads value i. */
static void read_back(struct layout *l, int32_t i, uint32_t reader, uint32_t *end)
{
    if (i == NODE_NONE) return;
    /* A probe reads the values of the nodes after it, and the backward pass that follows reads them
     * again. */
    uint32_t from = back(l, reader), to = back(l, reader > l->probe ? l->probe : reader);
    if (!is_recomputed_value(l, i)) {
        live(l, (uint32_t)i, (uint32_t)i, to);
        return;
    }
    bool is_first = !l->nodes[i].is_recomputed;
    l->nodes[i].is_recomputed = true;
    live(l, l->n + (uint32_t)i, from, to);
    if (!is_first) return;
    read_back(l, node_of(l, i)->in[0], reader, end);
    read_back(l, node_of(l, i)->in[1], reader, end);
    l->recomputed[(*end)++] = (uint32_t)i;
}

static void live_backward(struct layout *l)
{
    uint32_t end = 0;
    for (uint32_t i = l->n; i-- > 0;) {
        const struct node *n = &l->g->nodes[i];
        const uint32_t traits = l->nodes[i].has_gradient ? op_traits(n->op) : 0;
        l->nodes[i].recompute_first = end;
        if (traits & OP_READS_OTHER) read_back(l, n->in[1], i, &end);
        if (traits & OP_READS_X) read_back(l, n->in[0], i, &end);
        if (traits & OP_READS_Y) read_back(l, (int32_t)i, i, &end);
        l->nodes[i].recompute_end = end;
    }
}

static void overwrite_inputs(struct layout *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        const struct node *n = &l->g->nodes[i];
        int32_t in = plan_overwritable(n, l->buffer_of);
        if (in == NODE_NONE || l->buffer_of[i] != i || n->op == OP_CONCAT) continue;
        const struct buffer *b = &l->buffers[l->buffer_of[in]];
        if (b->lifetime.last != i || b->channels != n->c ||
            b->lifetime.bytes != l->buffers[i].lifetime.bytes)
            continue;
        merge(l, i, l->buffer_of[in], 0);
    }
}

/* ---- gradients ---- */

/* Whether an input's gradient equals the output's, or is a slice of it. */
static bool is_passed_on(enum op op, int input)
{
    return op == OP_CONCAT || ((op == OP_ADD || op == OP_ADD_CHANNEL) && input == 0) ||
           (op == OP_CONV && input == 2);
}

static enum flow flow_into(struct layout *l, uint32_t i, int32_t to, int input, uint32_t channel)
{
    if (to == NODE_NONE || !l->nodes[to].has_gradient) return FLOW_NONE;
    const struct node *n = &l->g->nodes[i];
    uint32_t mine = 2 * l->n + i, other = 2 * l->n + (uint32_t)to;
    if (l->reached[to]) return FLOW_ADD;
    l->reached[to] = l->nodes[to].is_fed = true;
    bool same = is_passed_on(n->op, input);
    if (same || (op_traits(n->op) & OP_DX_IN_PLACE && input == 0)) {
        l->buffer_of[other] = l->buffer_of[mine];
        l->channel_of[other] = l->channel_of[mine] + channel;
    }
    live(l, other, back(l, i), back(l, (uint32_t)to));
    return same ? FLOW_SAME : FLOW_WRITE;
}

static void plan_gradients(struct layout *l)
{
    for (uint32_t i = l->n; i-- > 0;) {
        const struct node *n = &l->g->nodes[i];
        struct backward_node *b = &l->nodes[i];
        bool seeded = (int32_t)i == l->g->output || (l->o->keep_taps && n->tap[0]);
        if (seeded && b->has_gradient && !l->reached[i]) {
            l->reached[i] = true;
            live(l, 2 * l->n + i, back(l, i), back(l, i));
        }
        if (!l->reached[i]) b->has_gradient = false;
        if (!b->has_gradient) continue;
        b->in[0] = flow_into(l, i, n->in[0], 0, 0);
        b->in[1] =
            flow_into(l, i, n->in[1], 1, n->op == OP_CONCAT ? n->c - node_of(l, n->in[1])->c : 0);
        b->residual = flow_into(l, i, n->residual, 2, 0);
    }
}

/* ---- places ---- */

static struct place place_of(const struct layout *l, uint32_t value)
{
    const struct buffer *b = &l->buffers[l->buffer_of[value]];
    size_t size = dtype_size(dtype_of(l, node_of(l, (int32_t)(value % l->n))));
    return (struct place){ b->lifetime.offset + l->channel_of[value] * size, b->channels,
                           NODE_NONE };
}

static enum status lay_out(struct layout *l, size_t *total, struct error *err)
{
    struct lifetime *lifetimes = calloc(3 * (size_t)l->n, sizeof *lifetimes);
    if (!lifetimes) return error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %u nodes", l->n);
    for (uint32_t v = 0; v < 3 * l->n; v++)
        lifetimes[v] = l->buffers[v].lifetime;
    enum status s = arena_lay_out(lifetimes, 3 * l->n, total, err);
    for (uint32_t v = 0; v < 3 * l->n; v++)
        l->buffers[v].lifetime.offset = lifetimes[v].offset;
    free(lifetimes);
    for (uint32_t i = 0; i < l->n; i++) {
        l->nodes[i].value = place_of(l, i);
        l->nodes[i].recomputed = place_of(l, l->n + i);
        l->nodes[i].gradient = place_of(l, 2 * l->n + i);
    }
    return s;
}

static enum status find_probe(struct layout *l, struct error *err)
{
    l->probe = l->n;
    for (uint32_t i = 0; l->o->probe && i < l->n; i++) {
        const struct node *n = &l->g->nodes[i];
        if (n->op == OP_CONV && strcmp(l->g->params[n->weight].name, l->o->probe) == 0)
            l->probe = i;
    }
    return l->o->probe && l->probe == l->n
               ? error_set(err, ST_INTERNAL, "no convolution has the weight %s", l->o->probe)
               : ST_OK;
}

enum status backward_plan_init(struct backward_plan *out, const struct graph *g,
                               const struct backward_options *o, struct error *err)
{
    size_t n = g->n_nodes, total = 0;
    struct layout l = { .g = g, .o = o, .n = g->n_nodes };
    enum status s = ST_OK;
    l.buffers = calloc(3 * n, sizeof *l.buffers);
    l.buffer_of = calloc(3 * n, sizeof *l.buffer_of);
    l.channel_of = calloc(3 * n, sizeof *l.channel_of);
    l.is_slice = calloc(n, sizeof *l.is_slice);
    l.readers = calloc(n, sizeof *l.readers);
    l.reached = calloc(n, sizeof *l.reached);
    l.recomputed = calloc(n, sizeof *l.recomputed);
    l.nodes = calloc(n, sizeof *l.nodes);
    if (!l.buffers || !l.buffer_of || !l.channel_of || !l.is_slice || !l.readers || !l.reached ||
        !l.recomputed || !l.nodes) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %zu nodes", n);
        goto done;
    }
    for (uint32_t v = 0; v < 3 * n; v++)
        l.buffer_of[v] = v;
    s = find_probe(&l, err);
    if (s) goto done;
    find_gradients(&l);
    live_forward(&l);
    join_concats(&l);
    if (!o->forward_only) {
        live_backward(&l);
        plan_gradients(&l);
    }
    overwrite_inputs(&l);
    s = lay_out(&l, &total, err);
    if (s) goto done;
    *out = (struct backward_plan){ l.nodes, l.recomputed, l.probe, total };
    l.nodes = NULL;
    l.recomputed = NULL;
done:
    free(l.buffers);
    free(l.buffer_of);
    free(l.channel_of);
    free(l.is_slice);
    free(l.readers);
    free(l.reached);
    free(l.recomputed);
    free(l.nodes);
    return s;
}

void backward_plan_done(struct backward_plan *p)
{
    free(p->nodes);
    free(p->recomputed);
    *p = (struct backward_plan){ 0 };
}
