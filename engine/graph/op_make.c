#include "engine/graph/op_make.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/graph/fusion.h"

struct tensor op_view(const struct node *n, void *data, size_t ld, uint32_t rows, enum dtype dtype)
{
    return (struct tensor){ .data = data,
                            .dtype = n->is_embedding ? DT_F32 : dtype,
                            .n = rows,
                            .h = n->h,
                            .w = n->w,
                            .c = n->c,
                            .ld = ld };
}

static struct tensor view_of(const struct tensor *views, int32_t node)
{
    static const struct tensor none = { 0 };
    return node == NODE_NONE ? none : views[node];
}

void op_connect(struct op_step *st, const struct graph *g, int32_t node, const struct tensor *views,
                const struct row_values *values)
{
    const struct node *n = &g->nodes[node];
    st->op = n->op;
    st->in[0] = view_of(views, n->in[0]);
    st->in[1] = view_of(views, n->in[1]);
    st->residual = view_of(views, n->residual);
    st->y = views[node];
    st->silu = n->silu;
    st->resample = n->resample;
    st->slope = n->slope;
    st->scalar = values->scalar[n->scalar];
    st->label = values->label;
}

/* ---- weights that never change ---- */

static enum status upload(struct op_maker *m, const float *values, size_t count, float **out,
                          struct error *err)
{
    void *memory = NULL;
    m->bytes += count * sizeof *values;
    enum status s = device_upload(m->b, values, count * sizeof *values, &memory, err);
    if (!s) *out = memory;
    return s;
}

/* A parameter on the host, or NULL for NODE_NONE; the caller frees it. */
static enum status load(const struct op_maker *m, int32_t param, float **out, struct error *err)
{
    return param == NODE_NONE ? ST_OK : param_load(m->src, &m->g->params[param], out, err);
}

/* Moves the values of the output channels that are wanted to the front, `each` values a channel. */
static void keep_wanted(const struct node *n, float *values, size_t each)
{
    for (uint32_t to = 0; n->of && to < n->c; to++) {
        const size_t from = (size_t)(to / n->wanted) * n->of + to % n->wanted;
        memmove(values + to * each, values + from * each, each * sizeof *values);
    }
}

static struct conv_desc conv_desc_of(const struct op_step *st, const struct op_maker *m,
                                     int32_t node)
{
    const struct node *n = &m->g->nodes[node];
    struct conv_desc d = { .h = st->in[0].h,
                           .w = st->in[0].w,
                           .ic = st->in[0].c,
                           .oc = n->c,
                           .kernel = n->kernel,
                           .stride = n->stride,
                           .conditions = 1,
                           .dtype = m->dtype,
                           .x_ld = st->in[0].ld,
                           .y_ld = st->y.ld,
                           .r_ld = st->residual.data ? st->residual.ld : 0,
                           .prologue = fused_prologue(m->g, node),
                           .rows = m->rows };
    if (d.prologue.resample == RESAMPLE_UP) {
        d.h *= 2;
        d.w *= 2;
    } else if (d.prologue.resample == RESAMPLE_DOWN) {
        d.h /= 2;
        d.w /= 2;
    }
    return d;
}

static size_t conv_bytes(const struct op_maker *m, const struct conv_desc *d,
                         const struct conv_plan *p)
{
    if (m->b->ops->net.conv_plan_bytes) return m->b->ops->net.conv_plan_bytes(p);
    return (size_t)d->oc * d->ic * d->kernel * d->kernel * dtype_size(m->dtype) +
           (size_t)d->conditions * d->oc * sizeof(float);
}

static enum status make_conv(struct op_step *st, struct op_maker *m, int32_t node,
                             struct error *err)
{
    const struct node *n = &m->g->nodes[node];
    const struct param_desc *w = &m->g->params[n->weight];
    const float *folded = m->beta ? m->beta[node] : NULL;
    struct conv_desc d = conv_desc_of(st, m, node);
    float *weight = NULL, *bias = NULL;
    enum status s = param_load(m->src, w, &weight, err);
    if (!s && !folded) s = load(m, n->bias, &bias, err);
    if (s) goto done;
    keep_wanted(n, weight, w->count / w->shape[0]);
    if (bias) keep_wanted(n, bias, 1);
    if (folded) {
        d.conditions = m->conditions;
        st->condition = m->condition;
    }
    /* Where fewer output channels are wanted, only the first rows of the weights and the bias are
     * read. */
    s = m->b->ops->net.conv_plan(m->b, &d, weight, folded ? folded : bias, &st->conv, err);
    if (!s) m->bytes += conv_bytes(m, &d, st->conv);
done:
    free(weight);
    free(bias);
    return s;
}

static enum status make_linear(struct op_step *st, struct op_maker *m, const struct node *n,
                               struct error *err)
{
    const uint32_t ic = st->in[0].c;
    float *weight = NULL, *bias = NULL;
    enum status s = load(m, n->weight, &weight, err);
    if (!s) s = load(m, n->bias, &bias, err);
    if (!s) s = m->b->ops->net.linear_plan(m->b, ic, n->c, weight, bias, &st->linear, err);
    m->bytes += ((size_t)ic + 1) * n->c * sizeof *weight;
    free(weight);
    free(bias);
    return s;
}

static struct attention_desc attention_desc_of(const struct op_step *st, const struct node *n,
                                               enum dtype dtype)
{
    return (struct attention_desc){ .h = n->h,
                                    .w = n->w,
                                    .heads = n->heads,
                                    .head_channels = n->c / n->heads,
                                    .new_order = n->new_order,
                                    .dtype = dtype,
                                    .qkv_ld = st->in[0].ld,
                                    .y_ld = st->y.ld };
}

static enum status make_attention(struct op_step *st, const struct op_maker *m,
                                  const struct node *n, struct error *err)
{
    const struct attention_desc d = attention_desc_of(st, n, m->dtype);
    return m->b->ops->net.attention_plan(m->b, &d, &st->attention, err);
}

/* The bias that an added embedding has taken over (constant_folding.h), once for each row. */
static enum status make_added_bias(struct op_step *st, struct op_maker *m, const struct node *n,
                                   struct error *err)
{
    const size_t rows = m->rows, c = n->c;
    float *bias = NULL, *all = NULL;
    if (n->bias == NODE_NONE) return ST_OK;
    enum status s = load(m, n->bias, &bias, err);
    if (s) return s;
    all = malloc(rows * c * sizeof *all);
    if (!all) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a bias of %zu rows", rows);
    for (size_t i = 0; all && i < rows; i++)
        memcpy(all + i * c, bias, c * sizeof *all);
    if (!s) s = upload(m, all, rows * c, &st->owned[1], err);
    free(all);
    free(bias);
    return s;
}

static enum status make_folded(struct op_step *st, struct op_maker *m, int32_t node,
                               struct error *err)
{
    const size_t count = (size_t)m->g->nodes[node].c * m->conditions;
    st->condition = m->condition;
    enum status s = upload(m, m->gamma[node], count, &st->owned[0], err);
    return s ? s : upload(m, m->beta[node], count, &st->owned[1], err);
}

/* Parameters as they are in the file. */
static enum status make_constants(struct op_step *st, struct op_maker *m, const struct node *n,
                                  struct error *err)
{
    const int32_t params[2] = { n->weight, n->bias };
    enum status s = ST_OK;
    for (int k = 0; !s && k < 2; k++) {
        float *values = NULL;
        if (params[k] == NODE_NONE) continue;
        s = load(m, params[k], &values, err);
        if (!s) s = upload(m, values, m->g->params[params[k]].count, &st->owned[k], err);
        free(values);
    }
    return s;
}

enum status op_make(struct op_step *st, struct op_maker *m, int32_t node, struct error *err)
{
    const struct node *n = &m->g->nodes[node];
    enum status s;
    if (n->op == OP_CONV) return make_conv(st, m, node, err);
    if (n->op == OP_LINEAR) return make_linear(st, m, n, err);
    if (n->op == OP_ATTENTION) return make_attention(st, m, n, err);
    if (n->op == OP_ADD_CHANNEL)
        s = make_added_bias(st, m, n, err);
    else if (m->gamma && m->gamma[node])
        s = make_folded(st, m, node, err);
    else
        s = make_constants(st, m, n, err);
    st->weight = st->owned[0];
    st->bias = st->owned[1];
    return s;
}

/* ---- weights that change ---- */

static enum status make_trained_conv(struct op_step *st, const struct op_trainer *t,
                                     const struct node *n, const struct op_gradients *gradients,
                                     struct error *err)
{
    struct trained_conv_desc d = { .h = st->in[0].h,
                                   .w = st->in[0].w,
                                   .ic = st->in[0].c,
                                   .oc = n->c,
                                   .kernel = n->kernel,
                                   .stride = n->stride,
                                   .dtype = t->dtype,
                                   .x_ld = st->in[0].ld,
                                   .y_ld = st->y.ld,
                                   .r_ld = st->residual.data ? st->residual.ld : 0 };
    if (gradients) {
        d.dy_ld = gradients->dy.ld;
        if (gradients->dx.dst.data) d.dx_ld = gradients->dx.dst.ld;
        d.dx_add = gradients->dx.add;
    }
    return t->b->ops->gradients->conv_new(t->b, &d, &st->trained_conv, err);
}

static enum status make_trained_attention(struct op_step *st, const struct op_trainer *t,
                                          const struct node *n,
                                          const struct op_gradients *gradients, struct error *err)
{
    const struct attention_desc d = attention_desc_of(st, n, t->dtype);
    enum status s = t->b->ops->net.attention_plan(t->b, &d, &st->attention, err);
    if (s || !gradients) return s;
    return t->b->ops->gradients->attention_new(t->b, &d, &st->trained_attention, err);
}

/* Some gradients are written and never added: a node's whose input nothing else reads. */
static enum status check_written(const struct node *n, const struct op_gradients *gradients,
                                 struct error *err)
{
    if (n->op != OP_ATTENTION && n->op != OP_SPACE_TO_DEPTH && n->op != OP_DEPTH_TO_SPACE)
        return ST_OK;
    return gradients && gradients->dx.add
               ? error_set(err, ST_INTERNAL, "a %s whose input something else reads too",
                           op_name(n->op))
               : ST_OK;
}

static const float *param_of(const struct op_trainer *t, int32_t param)
{
    return param == NODE_NONE ? NULL : t->params + t->offset[param];
}

enum status op_make_trained(struct op_step *st, const struct op_trainer *t, int32_t node,
                            const struct op_gradients *gradients, struct error *err)
{
    const struct node *n = &t->g->nodes[node];
    void *memory = NULL;
    enum status s = check_written(n, gradients, err);
    if (s) return s;
    st->weight = param_of(t, n->weight);
    st->bias = param_of(t, n->bias);
    switch (n->op) {
    case OP_CONV: return make_trained_conv(st, t, n, gradients, err);
    case OP_ATTENTION: return make_trained_attention(st, t, n, gradients, err);
    case OP_GROUP_NORM:
        s = t->b->ops->device.alloc(t->b, (size_t)t->rows * NORM_GROUPS * 2 * sizeof *st->moments,
                                    &memory, err);
        if (!s) st->moments = memory;
        return s;
    case OP_BATCH_NORM:
        st->group = t->group;
        st->sums = calloc(4 * (size_t)n->c, sizeof *st->sums);
        return st->sums ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch norm");
    default: return ST_OK;
    }
}

void op_release(struct op_step *st, struct backend *b)
{
    const struct backend_ops *ops = b->ops;
    if (st->conv) ops->net.conv_plan_free(b, st->conv);
    if (st->linear) ops->net.linear_plan_free(b, st->linear);
    if (st->attention) ops->net.attention_plan_free(b, st->attention);
    if (st->trained_conv) ops->gradients->conv_free(b, st->trained_conv);
    if (st->trained_attention) ops->gradients->attention_free(b, st->trained_attention);
    ops->device.free(b, st->owned[0]);
    ops->device.free(b, st->owned[1]);
    ops->device.free(b, st->moments);
    free(st->sums);
    *st = (struct op_step){ 0 };
}
