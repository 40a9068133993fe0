/* Makes a program from a graph: rewrites, memory, packed weights, constants; and frees it. */
#include <stdlib.h>
#include <string.h>

#include "engine/graph/constant_folding.h"
#include "engine/graph/fusion.h"
#include "engine/graph/program_internal.h"

struct making {
    struct program *p;
    const struct folded *folded; /* NULL: unfolded */
    struct op_maker maker;
    struct error *err;
};

/* Views of all outputs; those of nodes that are fused stay empty. [nodes], malloc'd. */
static struct tensor *views_of(const struct program *p)
{
    struct tensor *views = calloc(p->g->n_nodes, sizeof *views);
    for (uint32_t i = 0; views && i < p->g->n_nodes; i++) {
        const struct node *n = &p->g->nodes[i];
        const struct place *at = &p->plan.places[i];
        if (!n->fused)
            views[i] = op_view(n, (char *)p->arena + at->offset_bytes, at->ld, p->rows, p->dtype);
    }
    return views;
}

/* A convolution's prologue takes the constants of the norm that is fused into it, which comes
 * before it. */
static void take_norm(struct op_step *st, const struct op_step *norm)
{
    st->has_prologue = true;
    st->prologue.split = st->in[0].c;
    st->prologue.gamma = norm->weight;
    st->prologue.beta = norm->bias;
    st->prologue.condition = norm->condition;
    st->prologue.scale_shift = st->in[1].data ? &st->in[1] : NULL;
}

static enum status make_step(struct making *m, int32_t i, const struct tensor *views)
{
    struct program *p = m->p;
    struct op_step *st = &p->steps[i];
    const struct node *n = &p->g->nodes[i];
    if (n->fused) {
        p->is_skipped[i] = true;
        return n->op == OP_GROUP_NORM ? op_make(st, &m->maker, i, m->err) : ST_OK;
    }
    op_connect(st, p->g, i, views, &p->values);
    if (n->op == OP_LABEL) p->classes = p->g->params[n->weight].shape[0];
    if (n->sibling != NODE_NONE) {
        st->x_too = &p->steps[n->sibling].y;
        p->is_skipped[n->sibling] = true;
    }
    if (n->norm != NODE_NONE) take_norm(st, &p->steps[n->norm]);
    return op_make(st, &m->maker, i, m->err);
}

static enum status make_steps(struct making *m)
{
    struct tensor *views = views_of(m->p);
    enum status s = views ? ST_OK : error_set(m->err, ST_NO_MEMORY_NOW, "no memory for views");
    for (uint32_t i = 0; !s && i < m->p->g->n_nodes; i++)
        s = make_step(m, (int32_t)i, views);
    free(views);
    return s;
}

/* Reduces the last convolution to the first `channels` outputs of a pixel, which are all that the
 * caller wants. Its cells may be arranged into pixels after it (DEPTH_TO_SPACE). */
static enum status shrink_output(struct graph *g, uint32_t channels, struct error *err)
{
    struct node *out = &g->nodes[g->output], *n = out;
    if (channels == 0 || channels == out->c) return ST_OK;
    if (out->op == OP_DEPTH_TO_SPACE) n = &g->nodes[out->in[0]];
    if (n->op != OP_CONV || n->residual != NODE_NONE || channels > out->c)
        return error_set(err, ST_BAD_PARAMETER, "output_channels = %u of the %u of a %s node",
                         channels, out->c, op_name(out->op));
    n->of = out->c;
    n->wanted = channels;
    n->c = n->c / out->c * channels;
    out->c = channels;
    return ST_OK;
}

/* ---- moments ---- */

static struct moments *moments_of(struct program *p, int32_t node)
{
    return &p->steps[node].prologue.out;
}

/* Notes that a convolution's output needs moments; memory for all is allocated when their number is
 * known. */
static void keep_moments(struct program *p, int32_t node)
{
    struct moments *m = moments_of(p, node);
    if (m->ld) return;
    m->ld = p->g->nodes[node].c;
    p->moments_count += 2 * m->ld * p->rows;
}

/* The convolutions whose outputs form a norm's input: one, or two that are joined. Returns 0 for
 * anything else. */
static int sources_of(const struct graph *g, int32_t node, int32_t source[2])
{
    const struct node *n = &g->nodes[node];
    int count = n->op == OP_CONCAT ? 2 : 1;
    for (int k = 0; k < count; k++) {
        source[k] = count == 2 ? n->in[k] : node;
        if (g->nodes[source[k]].op != OP_CONV) return 0;
    }
    return count;
}

static enum status make_moments(struct making *m)
{
    struct program *p = m->p;
    const struct graph *g = p->g;
    int32_t source[2];
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != OP_CONV || g->nodes[i].norm == NODE_NONE) continue;
        for (int k = sources_of(g, g->nodes[i].in[0], source); k-- > 0;)
            keep_moments(p, source[k]);
    }
    if (p->moments_count == 0) return ST_OK;
    void *memory = NULL;
    enum status s =
        p->b->ops->device.alloc(p->b, p->moments_count * sizeof *p->moments, &memory, m->err);
    if (s) return s;
    double *at = p->moments = memory;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct moments *out = moments_of(p, (int32_t)i);
        if (!out->ld) continue;
        out->data = at;
        at += 2 * out->ld * p->rows;
    }
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct op_step *st = &p->steps[i];
        if (g->nodes[i].op != OP_CONV) continue;
        st->has_prologue = st->has_prologue || st->prologue.out.data;
        if (g->nodes[i].norm == NODE_NONE) continue;
        int count = sources_of(g, g->nodes[i].in[0], source);
        for (int k = 0; k < count; k++)
            st->prologue.in[k] = *moments_of(p, source[k]);
        if (count == 2) st->prologue.split = g->nodes[source[0]].c;
    }
    return ST_OK;
}

static enum status make(struct making *m, const struct program_options *o)
{
    struct program *p = m->p;
    struct error *err = m->err;
    enum status s = shrink_output(p->g, o->output_channels, err);
    if (s) return s;
    if (!m->folded) fold_order_biases(p->g);
    graph_fuse(p->g, p->b, p->dtype);
    struct plan_options po = {
        .rows = p->rows, .dtype = p->dtype, .keep_taps = o->keep_taps, .join = true
    };
    s = plan_init(&p->plan, p->g, &po, err);
    if (s) return s;
    p->steps = calloc(p->g->n_nodes, sizeof *p->steps);
    p->is_skipped = calloc(p->g->n_nodes, sizeof *p->is_skipped);
    bool has_scalars = true;
    for (uint32_t i = 0; i < p->g->n_nodes; i++) {
        float **to = &p->values.scalar[p->g->nodes[i].scalar];
        if (p->g->nodes[i].op != OP_TIMESTEP || *to) continue;
        *to = calloc(p->rows, sizeof **to);
        has_scalars = has_scalars && *to;
    }
    p->values.label = calloc(p->rows, sizeof *p->values.label);
    p->values.condition = calloc(p->rows, sizeof *p->values.condition);
    if (!p->steps || !p->is_skipped || !has_scalars || !p->values.label || !p->values.condition)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a program of %u nodes",
                         p->g->n_nodes);
    s = p->b->ops->device.alloc(p->b, p->plan.arena_bytes, &p->arena, err);
    if (s) return s;
    m->maker.g = p->g;
    m->maker.condition = p->values.condition;
    s = make_steps(m);
    p->weight_bytes = m->maker.bytes;
    return s ? s : make_moments(m);
}

static enum status program_of(struct program **out, struct backend *b, const struct graph *g,
                              const struct folded *folded, const struct param_source *src,
                              const struct program_options *o, uint32_t rows, struct error *err)
{
    struct program *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a program");
    p->b = b;
    p->rows = p->batch_rows = rows;
    p->dtype = o->dtype;
    p->keep_taps = o->keep_taps;
    p->time_ops = o->time_ops;
    p->conditions = folded ? folded->conditions : 0;
    p->g = graph_copy(folded ? folded->g : g);
    struct making m = { .p = p, .folded = folded, .err = err };
    m.maker = (struct op_maker){ .b = b, .src = src, .rows = rows, .dtype = o->dtype };
    if (folded) {
        m.maker.gamma = folded->gamma;
        m.maker.beta = folded->beta;
        m.maker.conditions = folded->conditions;
    }
    enum status s = p->g ? make(&m, o) : error_set(err, ST_NO_MEMORY_NOW, "no memory for a graph");
    if (!s) *out = p;
    if (s) program_free(p);
    return s;
}

enum status program_new(struct program **out, struct backend *b, const struct graph *g,
                        const struct param_source *src, const struct program_options *o,
                        struct error *err)
{
    if (!b->ops->device.has_dtype(b, o->dtype))
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot compute in %s",
                         b->ops->device.name, dtype_name(o->dtype));
    if (o->conditions && o->n_conditions == 0)
        return error_set(err, ST_BAD_PARAMETER, "a folded program needs at least one set");
    struct folded folded = { 0 };
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < g->n_nodes; i++)
        s = supports_op(b, g->nodes[i].op, OP_FOR_INFERENCE, err);
    if (!s && o->conditions) s = fold_init(&folded, b, g, src, o->conditions, o->n_conditions, err);
    /* Where the back end has several sizes of a batch execution, the largest that memory allows. */
    uint32_t rows = o->most_rows ? o->most_rows : b->ops->device.rows_per_batch(b);
    while (!s) {
        struct error why = { 0 };
        s = program_of(out, b, g, o->conditions ? &folded : NULL, src, o, rows, &why);
        if (!s) break;
        uint32_t less = rows;
        if (s == ST_NO_MEMORY_NOW && rows > 1 && b->ops->device.batch_rows)
            less = b->ops->device.batch_rows(b, rows / 2);
        s = less < rows ? ST_OK : error_set(err, s, "%s", why.detail);
        rows = less;
    }
    fold_done(&folded);
    return s;
}

void program_free(struct program *p)
{
    if (!p) return;
    const struct backend_ops *ops = p->b->ops;
    if (ops->device.execution_forget) ops->device.execution_forget(p->b, p);
    for (uint32_t i = 0; p->steps && i < p->g->n_nodes; i++)
        op_release(&p->steps[i], p->b);
    ops->device.free(p->b, p->arena);
    ops->device.free(p->b, p->moments);
    plan_done(&p->plan);
    graph_free(p->g);
    free(p->steps);
    free(p->is_skipped);
    for (int i = 0; i < SCALARS; i++)
        free(p->values.scalar[i]);
    free(p->values.label);
    free(p->values.condition);
    free(p);
}

uint32_t program_rows(const struct program *p)
{
    return p->rows;
}

size_t program_bytes(const struct program *p)
{
    return p->plan.arena_bytes + p->weight_bytes + p->moments_count * sizeof *p->moments;
}
