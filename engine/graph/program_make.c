/* From a list of nodes to a program: memory, packed weights, constants; and back. */
#include <stdlib.h>
#include <string.h>

#include "engine/graph/constant_folding.h"
#include "engine/graph/device.h"
#include "engine/graph/fusion.h"
#include "engine/graph/program_internal.h"

struct making {
    struct program *p;
    const struct folded *folded; /* NULL: unfolded */
    const struct param_source *src;
    struct error *err;
};

static struct tensor view(const struct program *p, int32_t node)
{
    const struct node *n = &p->g->nodes[node];
    const struct place *at = &p->plan.places[node];
    return (struct tensor){ .data = (char *)p->arena + at->offset_bytes,
                            .dtype = n->is_embedding ? DT_F32 : p->dtype,
                            .n = p->rows,
                            .h = n->h,
                            .w = n->w,
                            .c = n->c,
                            .ld = at->ld };
}

static enum status upload(struct making *m, const float *values, size_t count, void **out)
{
    m->p->weight_bytes += count * sizeof *values;
    return device_upload(m->p->b, values, count * sizeof *values, out, m->err);
}

/* Of the output channels' values, `each` a channel, those that are wanted move to the front. */
static void keep_wanted(const struct node *n, float *values, size_t each)
{
    for (uint32_t to = 0; n->of && to < n->c; to++) {
        const size_t from = (size_t)(to / n->wanted) * n->of + to % n->wanted;
        memmove(values + to * each, values + from * each, each * sizeof *values);
    }
}

static enum status make_conv(struct making *m, struct step *st, int32_t i)
{
    struct program *p = m->p;
    const struct node *n = &p->g->nodes[i];
    const float *folded = m->folded ? m->folded->beta[i] : NULL;
    float *weight = NULL, *bias = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &weight, m->err);
    if (s) goto done;
    if (!folded && n->bias != NODE_NONE) {
        s = param_load(m->src, &p->g->params[n->bias], &bias, m->err);
        if (s) goto done;
    }
    keep_wanted(n, weight, p->g->params[n->weight].count / p->g->params[n->weight].shape[0]);
    if (bias) keep_wanted(n, bias, 1);
    struct conv_desc d = { .h = st->in[0].h,
                           .w = st->in[0].w,
                           .ic = st->in[0].c,
                           .oc = n->c,
                           .kernel = n->kernel,
                           .stride = n->stride,
                           .conditions = folded ? m->folded->conditions : 1,
                           .dtype = p->dtype,
                           .x_ld = st->in[0].ld,
                           .y_ld = st->y.ld,
                           .r_ld = st->has_residual ? st->residual.ld : 0,
                           .prologue = fused_prologue(p->g, i),
                           .rows = p->rows };
    if (d.prologue.resample == RESAMPLE_UP) {
        d.h *= 2;
        d.w *= 2;
    } else if (d.prologue.resample == RESAMPLE_DOWN) {
        d.h /= 2;
        d.w /= 2;
    }
    st->by_condition = folded != NULL;
    /* Where fewer output channels are wanted the weights' and bias's first rows are all that is read. */
    s = p->b->ops->conv_plan(p->b, &d, weight, folded ? folded : bias, &st->conv, m->err);
    if (!s)
        p->weight_bytes += p->b->ops->conv_plan_bytes
                               ? p->b->ops->conv_plan_bytes(st->conv)
                               : (size_t)d.oc * d.ic * d.kernel * d.kernel * dtype_size(p->dtype) +
                                     (size_t)d.conditions * d.oc * sizeof *bias;
done:
    free(weight);
    free(bias);
    return s;
}

static enum status make_linear(struct making *m, struct step *st, const struct node *n)
{
    struct program *p = m->p;
    float *weight = NULL, *bias = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &weight, m->err);
    if (s) goto done;
    s = param_load(m->src, &p->g->params[n->bias], &bias, m->err);
    if (s) goto done;
    s = p->b->ops->linear_plan(p->b, st->in[0].c, n->c, weight, bias, &st->linear, m->err);
    p->weight_bytes += ((size_t)st->in[0].c + 1) * n->c * sizeof *weight;
done:
    free(weight);
    free(bias);
    return s;
}

static enum status make_norm(struct making *m, struct step *st, int32_t i)
{
    struct program *p = m->p;
    const struct node *n = &p->g->nodes[i];
    if (m->folded && m->folded->gamma[i]) {
        size_t count = (size_t)n->c * m->folded->conditions;
        st->by_condition = true;
        enum status s = upload(m, m->folded->gamma[i], count, &st->gamma);
        return s ? s : upload(m, m->folded->beta[i], count, &st->beta);
    }
    float *gamma = NULL, *beta = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &gamma, m->err);
    if (s) goto done;
    s = param_load(m->src, &p->g->params[n->bias], &beta, m->err);
    if (s) goto done;
    s = upload(m, gamma, n->c, &st->gamma);
    if (s) goto done;
    s = upload(m, beta, n->c, &st->beta);
done:
    free(gamma);
    free(beta);
    return s;
}

/* The bias that an added embedding has taken over (constant_folding.h), once for each row of a batch execution. */
static enum status make_add_channel(struct making *m, struct step *st, const struct node *n)
{
    const size_t rows = m->p->rows, c = n->c;
    float *bias = NULL, *all = NULL;
    if (n->bias == NODE_NONE) return ST_OK;
    enum status s = param_load(m->src, &m->p->g->params[n->bias], &bias, m->err);
    if (s) return s;
    all = malloc(rows * c * sizeof *all);
    if (!all) s = error_set(m->err, ST_NO_MEMORY_NOW, "no memory for a bias of %zu rows", rows);
    for (size_t i = 0; all && i < rows; i++)
        memcpy(all + i * c, bias, c * sizeof *all);
    if (!s) s = upload(m, all, rows * c, &st->beta);
    free(all);
    free(bias);
    return s;
}

static enum status make_label(struct making *m, struct step *st, const struct node *n)
{
    const struct param_desc *d = &m->p->g->params[n->weight];
    float *table = NULL;
    enum status s = param_load(m->src, d, &table, m->err);
    if (s) return s;
    m->p->classes = d->shape[0];
    s = upload(m, table, d->count, &st->table);
    free(table);
    return s;
}

static enum status make_attention(struct making *m, struct step *st, const struct node *n)
{
    struct program *p = m->p;
    struct attention_desc d = { .h = n->h,
                                .w = n->w,
                                .heads = n->heads,
                                .head_channels = n->c / n->heads,
                                .new_order = n->new_order,
                                .dtype = p->dtype,
                                .qkv_ld = st->in[0].ld,
                                .y_ld = st->y.ld };
    return p->b->ops->attention_plan(p->b, &d, &st->attention, m->err);
}

static enum status make_step(struct making *m, int32_t i)
{
    struct program *p = m->p;
    struct step *st = &p->steps[i];
    const struct node *n = &p->g->nodes[i];
    st->op = n->op;
    st->silu = n->silu;
    st->resample = n->resample;
    st->scalar = n->scalar;
    if (n->fused) return n->op == OP_GROUP_NORM ? make_norm(m, st, i) : ST_OK;
    st->y = view(p, i);
    st->has_in1 = n->in[1] != NODE_NONE;
    st->has_residual = n->residual != NODE_NONE;
    if (n->in[0] != NODE_NONE) st->in[0] = view(p, n->in[0]);
    if (st->has_in1) st->in[1] = view(p, n->in[1]);
    if (st->has_residual) st->residual = view(p, n->residual);
    if (n->sibling != NODE_NONE) {
        st->sibling = &p->steps[n->sibling];
        st->sibling->is_sibling = true;
    }
    if (n->norm != NODE_NONE) st->norm = &p->steps[n->norm];
    switch (n->op) {
    case OP_CONV: return make_conv(m, st, i);
    case OP_LINEAR: return make_linear(m, st, n);
    case OP_GROUP_NORM: return make_norm(m, st, i);
    case OP_LABEL: return make_label(m, st, n);
    case OP_ADD_CHANNEL: return make_add_channel(m, st, n);
    case OP_ATTENTION: return make_attention(m, st, n);
    default: return ST_OK;
    }
}

/* The first `channels` outputs of a pixel are all that the caller wants of the last convolution; behind it a cell may become its
 * pixels. */
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

/* A convolution's output gets moments: its width is noted and its room counted, memory comes when all are known. */
static void keep_moments(struct program *p, int32_t node)
{
    struct moments *m = moments_of(p, node);
    if (m->ld) return;
    m->ld = p->g->nodes[node].c;
    p->moments_count += 2 * m->ld * p->rows;
}

/* The convolutions whose outputs a norm's input consists of: one, or two joined. 0: something else. */
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
    enum status s = p->b->ops->alloc(p->b, p->moments_count * sizeof *p->moments, &memory, m->err);
    if (s) return s;
    double *at = p->moments = memory;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct moments *out = moments_of(p, (int32_t)i);
        if (!out->ld) continue;
        out->data = at;
        at += 2 * out->ld * p->rows;
    }
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct step *st = &p->steps[i];
        if (g->nodes[i].op != OP_CONV) continue;
        st->has_prologue = st->prologue.out.data || g->nodes[i].norm != NODE_NONE;
        if (g->nodes[i].norm == NODE_NONE) continue;
        st->prologue.split = st->in[0].c;
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
    bool has_scalars = true;
    for (uint32_t i = 0; i < p->g->n_nodes; i++) {
        float **to = &p->scalar[p->g->nodes[i].scalar];
        if (p->g->nodes[i].op != OP_TIMESTEP || *to) continue;
        *to = calloc(p->rows, sizeof **to);
        has_scalars = has_scalars && *to;
    }
    p->label = calloc(p->rows, sizeof *p->label);
    p->condition = calloc(p->rows, sizeof *p->condition);
    if (!p->steps || !has_scalars || !p->label || !p->condition)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a program of %u nodes",
                         p->g->n_nodes);
    s = p->b->ops->alloc(p->b, p->plan.arena_bytes, &p->arena, err);
    for (uint32_t i = 0; !s && i < p->g->n_nodes; i++)
        s = make_step(m, (int32_t)i);
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
    struct making m = { p, folded, src, err };
    enum status s = p->g ? make(&m, o) : error_set(err, ST_NO_MEMORY_NOW, "no memory for a graph");
    if (!s) *out = p;
    if (s) program_free(p);
    return s;
}

enum status program_new(struct program **out, struct backend *b, const struct graph *g,
                        const struct param_source *src, const struct program_options *o,
                        struct error *err)
{
    if (!b->ops->has_dtype(b, o->dtype))
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot compute in %s", b->ops->name,
                         dtype_name(o->dtype));
    if (o->conditions && o->n_conditions == 0)
        return error_set(err, ST_BAD_PARAMETER, "a folded program needs at least one set");
    struct folded folded = { 0 };
    enum status s = ST_OK;
    if (o->conditions) s = fold_init(&folded, b, g, src, o->conditions, o->n_conditions, err);
    /* Where the back end has passes of several sizes, the largest that finds memory. */
    uint32_t rows = o->most_rows ? o->most_rows : b->ops->rows_per_batch(b);
    while (!s) {
        struct error why = { 0 };
        s = program_of(out, b, g, o->conditions ? &folded : NULL, src, o, rows, &why);
        if (!s) break;
        uint32_t less = rows;
        if (s == ST_NO_MEMORY_NOW && rows > 1 && b->ops->batch_rows)
            less = b->ops->batch_rows(b, rows / 2);
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
    if (ops->execution_forget) ops->execution_forget(p->b, p);
    for (uint32_t i = 0; p->steps && i < p->g->n_nodes; i++) {
        struct step *st = &p->steps[i];
        if (st->conv) ops->conv_plan_free(p->b, st->conv);
        if (st->linear) ops->linear_plan_free(p->b, st->linear);
        if (st->attention) ops->attention_plan_free(p->b, st->attention);
        ops->free(p->b, st->gamma);
        ops->free(p->b, st->beta);
        ops->free(p->b, st->table);
    }
    ops->free(p->b, p->arena);
    ops->free(p->b, p->moments);
    plan_done(&p->plan);
    graph_free(p->g);
    free(p->steps);
    for (int i = 0; i < SCALARS; i++)
        free(p->scalar[i]);
    free(p->label);
    free(p->condition);
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
