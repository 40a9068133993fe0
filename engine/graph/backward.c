#include "engine/graph/backward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/graph/device.h"

enum { GROUPS = 32, PARAM_ALIGN = 16 };
static const float norm_eps = 1e-5f;

/* ---- parameters ---- */

enum status param_layout_init(struct param_layout *out, const struct graph *g, struct error *err)
{
    size_t *offset = malloc((g->n_params + 1) * sizeof *offset), end = 0;
    if (!offset)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory to place %u parameters", g->n_params);
    for (uint32_t i = 0; i < g->n_params; i++) {
        offset[i] = end;
        end += (g->params[i].count + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
    }
    *out = (struct param_layout){ offset, end };
    return ST_OK;
}

void param_layout_done(struct param_layout *l)
{
    free(l->offset);
    *l = (struct param_layout){ 0 };
}

enum status params_load(struct backend *b, const struct graph *g, const struct param_layout *l,
                        const struct param_source *src, float *params, struct error *err)
{
    enum status s = b->ops->gradients->fill(b, params, l->count, 0, err);
    for (uint32_t i = 0; !s && i < g->n_params; i++) {
        float *values = NULL;
        s = param_load(src, &g->params[i], &values, err);
        if (!s)
            s = device_copy_in(b, params + l->offset[i], values,
                               g->params[i].count * sizeof *values, err);
        free(values);
    }
    return s;
}

/* ---- making ---- */

/* Views of one node: as the forward pass has it, as gradients find it, and its own gradient. */
struct place_of_node {
    struct tensor value, recomputed, gradient;
    struct trained_conv *conv;
    struct attention_plan *attention;
    struct trained_attention *attention_gradient;
    double *moments; /* GROUP_NORM: [rows][groups][2], memory of the back end */
    double *sums;    /* BATCH_NORM: [2][c] of the forward pass, [2][c] of the backward pass */
};

struct tape {
    struct backend *b;
    struct graph *g;
    struct param_layout layout;
    const float *params;
    struct backward_options o;
    struct backward_plan plan;
    struct place_of_node *at; /* [nodes] */
    void *arena;
    float *scalar[SCALARS]; /* [rows] of the last forward pass */
    uint32_t *label;        /* [rows] */
    uint64_t forward_ns[OP_COUNT], backward_ns[OP_COUNT];
};

static struct tensor view(const struct tape *t, const struct node *n, const struct place *p)
{
    return (struct tensor){ .data = (char *)t->arena + p->offset_bytes,
                            .dtype = n->is_embedding ? DT_F32 : t->o.dtype,
                            .n = t->o.rows,
                            .h = n->h,
                            .w = n->w,
                            .c = n->c,
                            .ld = p->ld };
}

static enum status make_conv(struct tape *t, int32_t i, struct error *err)
{
    const struct node *n = &t->g->nodes[i];
    const struct place_of_node *in = &t->at[n->in[0]];
    const struct backward_node *b = &t->plan.nodes[i];
    struct trained_conv_desc d = { .h = in->value.h,
                                   .w = in->value.w,
                                   .ic = in->value.c,
                                   .oc = n->c,
                                   .kernel = n->kernel,
                                   .stride = n->stride,
                                   .dtype = t->o.dtype,
                                   .x_ld = in->value.ld,
                                   .y_ld = t->at[i].value.ld };
    if (n->residual != NODE_NONE) d.r_ld = t->at[n->residual].value.ld;
    if (b->has_gradient) d.dy_ld = t->at[i].gradient.ld;
    if (b->in[0] != FLOW_NONE) d.dx_ld = in->gradient.ld;
    d.dx_add = b->in[0] == FLOW_ADD;
    return t->b->ops->gradients->conv_new(t->b, &d, &t->at[i].conv, err);
}

static enum status make_attention(struct tape *t, int32_t i, struct error *err)
{
    const struct node *n = &t->g->nodes[i];
    struct attention_desc d = { .h = n->h,
                                .w = n->w,
                                .heads = n->heads,
                                .head_channels = n->c / n->heads,
                                .new_order = n->new_order,
                                .dtype = t->o.dtype,
                                .qkv_ld = t->at[n->in[0]].value.ld,
                                .y_ld = t->at[i].value.ld };
    enum status s = t->b->ops->attention_plan(t->b, &d, &t->at[i].attention, err);
    if (s || !t->plan.nodes[i].has_gradient) return s;
    if (t->plan.nodes[i].in[0] == FLOW_ADD)
        return error_set(err, ST_INTERNAL, "attention whose input something else reads too");
    return t->b->ops->gradients->attention_new(t->b, &d, &t->at[i].attention_gradient, err);
}

/* A permutation's gradient is the permutation back, which adds to nothing. */
static enum status check_permutation(const struct tape *t, int32_t i, struct error *err)
{
    return t->plan.nodes[i].in[0] == FLOW_ADD
               ? error_set(err, ST_INTERNAL, "a %s whose input something else reads too",
                           op_name(t->g->nodes[i].op))
               : ST_OK;
}

static enum status make_sums(struct tape *t, int32_t i, struct error *err)
{
    t->at[i].sums = calloc(4 * (size_t)t->g->nodes[i].c, sizeof *t->at[i].sums);
    return t->at[i].sums ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch norm");
}

static enum status make_moments(struct tape *t, int32_t i, struct error *err)
{
    void *memory = NULL;
    enum status s =
        t->b->ops->alloc(t->b, (size_t)t->o.rows * GROUPS * 2 * sizeof(double), &memory, err);
    if (!s) t->at[i].moments = memory;
    return s;
}

static enum status make(struct tape *t, struct error *err)
{
    enum status s = param_layout_init(&t->layout, t->g, err);
    if (!s) s = backward_plan_init(&t->plan, t->g, &t->o, err);
    if (s) return s;
    t->at = calloc(t->g->n_nodes, sizeof *t->at);
    for (int i = 0; i < SCALARS; i++)
        t->scalar[i] = calloc(t->o.rows, sizeof *t->scalar[i]);
    t->label = calloc(t->o.rows, sizeof *t->label);
    if (!t->at || !t->scalar[SCALAR_TIME] || !t->scalar[SCALAR_SIGMA] || !t->scalar[SCALAR_LEVEL] ||
        !t->label)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a tape of %u nodes", t->g->n_nodes);
    s = t->b->ops->alloc(t->b, t->plan.arena_bytes, &t->arena, err);
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        const struct backward_node *b = &t->plan.nodes[i];
        const struct node *n = &t->g->nodes[i];
        t->at[i].value = view(t, n, &b->value);
        t->at[i].recomputed = view(t, n, b->is_recomputed ? &b->recomputed : &b->value);
        t->at[i].gradient = view(t, n, &b->gradient);
    }
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        if (t->g->nodes[i].op == OP_CONV) s = make_conv(t, (int32_t)i, err);
        if (t->g->nodes[i].op == OP_ATTENTION) s = make_attention(t, (int32_t)i, err);
        if (t->g->nodes[i].op == OP_BATCH_NORM) s = make_sums(t, (int32_t)i, err);
        if (t->g->nodes[i].op == OP_GROUP_NORM) s = make_moments(t, (int32_t)i, err);
        if (t->g->nodes[i].patch) s = check_permutation(t, (int32_t)i, err);
    }
    return s;
}

enum status tape_new(struct tape **out, struct backend *b, const struct graph *g,
                     const float *params, const struct backward_options *o, struct error *err)
{
    if (!b->ops->gradients)
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot train", b->ops->name);
    if (!b->ops->has_dtype(b, o->dtype))
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot compute in %s", b->ops->name,
                         dtype_name(o->dtype));
    struct tape *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a tape");
    t->b = b;
    t->o = *o;
    t->params = params;
    t->g = graph_copy(g);
    enum status s = t->g ? make(t, err)
                         : error_set(err, ST_NO_MEMORY_NOW, "no memory for %u nodes", g->n_nodes);
    if (s)
        tape_free(t);
    else
        *out = t;
    return s;
}

void tape_free(struct tape *t)
{
    if (!t) return;
    const struct backend_ops *ops = t->b->ops;
    for (uint32_t i = 0; t->at && i < t->g->n_nodes; i++) {
        ops->gradients->conv_free(t->b, t->at[i].conv);
        if (t->at[i].attention) ops->attention_plan_free(t->b, t->at[i].attention);
        ops->gradients->attention_free(t->b, t->at[i].attention_gradient);
        ops->free(t->b, t->at[i].moments);
        free(t->at[i].sums);
    }
    ops->free(t->b, t->arena);
    backward_plan_done(&t->plan);
    param_layout_done(&t->layout);
    graph_free(t->g);
    free(t->at);
    for (int i = 0; i < SCALARS; i++)
        free(t->scalar[i]);
    free(t->label);
    free(t);
}

size_t tape_bytes(const struct tape *t)
{
    size_t bytes = t->plan.arena_bytes;
    for (uint32_t i = 0; i < t->g->n_nodes; i++)
        if (t->at[i].conv) bytes += t->b->ops->gradients->conv_bytes(t->at[i].conv);
    return bytes;
}

uint32_t tape_rows(const struct tape *t)
{
    return t->o.rows;
}

static const float *param_of(const struct tape *t, int32_t param)
{
    return param == NODE_NONE ? NULL : t->params + t->layout.offset[param];
}

enum status tape_pack(struct tape *t, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        const struct node *n = &t->g->nodes[i];
        if (n->op == OP_CONV)
            s = t->b->ops->gradients->conv_pack(t->b, t->at[i].conv, param_of(t, n->weight),
                                                param_of(t, n->bias), err);
    }
    return s;
}

/* ---- forward ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Where a node is read: as the forward pass left it, or made again. */
static const struct tensor *read_of(const struct tape *t, int32_t node, bool recomputed)
{
    return node == NODE_NONE ? NULL : recomputed ? &t->at[node].recomputed : &t->at[node].value;
}

static struct group_norm_args norm_args(const struct tape *t, const struct node *n,
                                        const struct tensor *y, bool recomputed)
{
    return (struct group_norm_args){ .x = *read_of(t, n->in[0], recomputed),
                                     .y = *y,
                                     .groups = GROUPS,
                                     .eps = norm_eps,
                                     .gamma = param_of(t, n->weight),
                                     .beta = param_of(t, n->bias),
                                     .scale_shift = read_of(t, n->in[1], recomputed),
                                     .silu = n->silu };
}

static struct batch_norm_args batch_args(const struct tape *t, uint32_t i)
{
    const struct node *n = &t->g->nodes[i];
    const struct tensor *x = read_of(t, n->in[0], false);
    double processes = t->o.process_group.sum ? t->o.process_group.processes : 1;
    return (struct batch_norm_args){ .x = *x,
                                     .gamma = param_of(t, n->weight),
                                     .beta = param_of(t, n->bias),
                                     .sums = t->at[i].sums,
                                     .count = processes * x->n * x->h * x->w,
                                     .eps = norm_eps };
}

/* The sums of a batch norm are those of all processes before anything is made of them. */
static void sum_over_group(const struct tape *t, double *sums, uint32_t c)
{
    if (t->o.process_group.sum) t->o.process_group.sum(t->o.process_group.ctx, sums, 2 * (size_t)c);
}

static enum status run_batch_norm(struct tape *t, uint32_t i, struct error *err)
{
    const struct batch_norm_args a = batch_args(t, i);
    enum status s = t->b->ops->gradients->batch_norm_sums(t->b, &a.x, t->at[i].sums, err);
    if (s) return s;
    sum_over_group(t, t->at[i].sums, a.x.c);
    return t->b->ops->gradients->batch_norm(t->b, &a, &t->at[i].value, err);
}

static enum status run_node(struct tape *t, uint32_t i, bool recomputed, struct error *err)
{
    const struct backend_ops *ops = t->b->ops;
    const struct node *n = &t->g->nodes[i];
    const struct tensor *y = read_of(t, (int32_t)i, recomputed);
    const struct tensor *x = read_of(t, n->in[0], recomputed),
                        *other = read_of(t, n->in[1], recomputed);
    struct group_norm_args norm;
    switch (n->op) {
    case OP_INPUT: return ST_OK; /* filled by tape_forward */
    case OP_TIMESTEP: return ops->timestep(t->b, t->scalar[n->scalar], y, err);
    case OP_LABEL: return ops->label(t->b, param_of(t, n->weight), t->label, y, err);
    case OP_LINEAR:
        return ops->gradients->linear(t->b, param_of(t, n->weight), param_of(t, n->bias), x, y,
                                      err);
    case OP_SILU: return ops->silu(t->b, x, y, err);
    case OP_ADD: return ops->add(t->b, x, other, y, err);
    case OP_ADD_CHANNEL: return ops->add_channel(t->b, x, other, y, err);
    case OP_CONV:
        return ops->gradients->conv(t->b, t->at[i].conv, x, read_of(t, n->residual, recomputed), y,
                                    err);
    case OP_GROUP_NORM:
        norm = norm_args(t, n, y, recomputed);
        return ops->gradients->group_norm(t->b, &norm, t->at[i].moments, err);
    case OP_ATTENTION: return ops->attention(t->b, t->at[i].attention, x, y, err);
    case OP_UPSAMPLE: return ops->upsample(t->b, x, y, err);
    case OP_DOWNSAMPLE: return ops->downsample(t->b, x, y, err);
    case OP_SPACE_TO_DEPTH: return ops->space_to_depth(t->b, x, y, err);
    case OP_DEPTH_TO_SPACE: return ops->depth_to_space(t->b, x, y, err);
    case OP_CONCAT: return ops->concat(t->b, x, other, y, err);
    case OP_BATCH_NORM: return run_batch_norm(t, i, err);
    case OP_LEAKY_RELU: return ops->gradients->leaky_relu(t->b, x, n->slope, y, err);
    case OP_COUNT: break;
    }
    return error_set(err, ST_INTERNAL, "op %d", (int)n->op);
}

/* A tight F32 feature map of the caller's, shaped as `like`. */
static struct tensor outside(const float *data, const struct tensor *like)
{
    struct tensor t = *like;
    t.data = (void *)data;
    t.dtype = DT_F32;
    t.ld = t.c;
    return t;
}

static enum status take_conditions(struct tape *t, const struct tape_input *in, struct error *err)
{
    for (uint32_t i = 0; i < t->g->n_nodes; i++) {
        const struct node *n = &t->g->nodes[i];
        const float *from = n->scalar == SCALAR_SIGMA   ? in->sigma
                            : n->scalar == SCALAR_LEVEL ? in->level
                                                        : in->t;
        for (uint32_t row = 0; n->op == OP_TIMESTEP && row < t->o.rows; row++) {
            if (!from || !isfinite(from[row]))
                return error_set(err, ST_BAD_PARAMETER, "row %u has no finite %s", row,
                                 n->scalar == SCALAR_SIGMA   ? "sigma"
                                 : n->scalar == SCALAR_LEVEL ? "level"
                                                             : "t");
            t->scalar[n->scalar][row] = from[row];
        }
        for (uint32_t row = 0; n->op == OP_LABEL && row < t->o.rows; row++) {
            if (!in->label || in->label[row] >= t->g->params[n->weight].shape[0])
                return error_set(err, ST_BAD_PARAMETER, "row %u has no label below %u", row,
                                 t->g->params[n->weight].shape[0]);
            t->label[row] = in->label[row];
        }
    }
    return ST_OK;
}

enum status tape_forward(struct tape *t, const struct tape_input *in, struct error *err)
{
    const struct tensor *first = &t->at[t->g->input].value;
    struct tensor x = outside(in->x, first);
    enum status s = take_conditions(t, in, err);
    if (!s) s = t->b->ops->cast(t->b, &x, first, err);
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        uint64_t start = now_ns();
        s = run_node(t, i, false, err);
        t->forward_ns[t->g->nodes[i].op] += now_ns() - start;
    }
    return s;
}

enum status tape_value(struct tape *t, int32_t node, float *y, struct error *err)
{
    const struct node *n = node >= 0 && node < (int32_t)t->g->n_nodes ? &t->g->nodes[node] : NULL;
    if (!n || (node != t->g->output && !(t->o.keep_taps && n->tap[0])))
        return error_set(err, ST_INTERNAL, "the value of node %d is not kept", (int)node);
    struct tensor to = outside(y, &t->at[node].value);
    return t->b->ops->cast(t->b, &t->at[node].value, &to, err);
}

/* ---- backward ---- */

/* Where the gradient of a node that is read goes. */
static struct into into_of(const struct tape *t, int32_t node, enum flow flow)
{
    struct into to = { { 0 }, flow == FLOW_ADD };
    if (flow == FLOW_WRITE || flow == FLOW_ADD) to.dst = t->at[node].gradient;
    return to;
}

static float *gradient_of(const struct tape *t, float *gradients, int32_t param)
{
    return gradients && param != NODE_NONE ? gradients + t->layout.offset[param] : NULL;
}

/* What passes a gradient on as it is: to another place, or to a slice of the output's channels. */
static enum status route_gradient(struct tape *t, struct tensor dy, int32_t to, enum flow flow,
                                  uint32_t channel, struct error *err)
{
    struct into into = into_of(t, to, flow);
    if (!into.dst.data) return ST_OK;
    dy.data = (char *)dy.data + channel * dtype_size(dy.dtype);
    dy.c = into.dst.c;
    return t->b->ops->gradients->copy_into(t->b, &dy, &into, err);
}

static enum status conv_back(struct tape *t, uint32_t i, float *dweight, float *dbias,
                             struct error *err)
{
    const struct gradient_ops *ops = t->b->ops->gradients;
    const struct node *n = &t->g->nodes[i];
    const struct backward_node *b = &t->plan.nodes[i];
    const struct tensor *dy = &t->at[i].gradient;
    enum status s = ST_OK;
    if (dweight)
        s = ops->conv_weights(t->b, t->at[i].conv, read_of(t, n->in[0], true), dy, dweight, dbias,
                              err);
    if (!s && b->in[0] != FLOW_NONE)
        s = ops->conv_data(t->b, t->at[i].conv, dy, &t->at[n->in[0]].gradient, err);
    return s ? s : route_gradient(t, *dy, n->residual, b->residual, 0, err);
}

static enum status norm_back(struct tape *t, uint32_t i, float *dgamma, float *dbeta,
                             struct error *err)
{
    const struct node *n = &t->g->nodes[i];
    const struct backward_node *b = &t->plan.nodes[i];
    struct group_norm_gradient_args a = {
        .forward = norm_args(t, n, &t->at[i].gradient, true),
        .moments = t->at[i].moments,
        .dy = t->at[i].gradient,
        .dx = into_of(t, n->in[0], b->in[0]),
        .dscale_shift = into_of(t, n->in[1], b->in[1]),
        .dgamma = dgamma,
        .dbeta = dbeta,
    };
    return t->b->ops->gradients->group_norm_gradient(t->b, &a, err);
}

static enum status batch_norm_back(struct tape *t, uint32_t i, float *dgamma, float *dbeta,
                                   struct error *err)
{
    const struct gradient_ops *ops = t->b->ops->gradients;
    const struct batch_norm_args a = batch_args(t, i);
    const struct tensor *dy = &t->at[i].gradient;
    const struct into dx = into_of(t, t->g->nodes[i].in[0], t->plan.nodes[i].in[0]);
    double *dsums = t->at[i].sums + 2 * (size_t)a.x.c;
    enum status s = ops->batch_norm_gradient_sums(t->b, &a, dy, dsums, dgamma, dbeta, err);
    if (s || !dx.dst.data) return s;
    sum_over_group(t, dsums, a.x.c);
    return ops->batch_norm_gradient(t->b, &a, dy, dsums, &dx, err);
}

static enum status back_node(struct tape *t, uint32_t i, float *gradients, struct error *err)
{
    const struct gradient_ops *ops = t->b->ops->gradients;
    const struct node *n = &t->g->nodes[i];
    const struct backward_node *b = &t->plan.nodes[i];
    const struct tensor *dy = &t->at[i].gradient, *x = read_of(t, n->in[0], true);
    const struct into dx = into_of(t, n->in[0], b->in[0]), dother = into_of(t, n->in[1], b->in[1]);
    float *dweight = gradient_of(t, gradients, n->weight);
    float *dbias = gradient_of(t, gradients, n->bias);
    enum status s;
    switch (n->op) {
    case OP_INPUT:
    case OP_TIMESTEP: return ST_OK;
    case OP_LABEL: return dweight ? ops->label_gradient(t->b, t->label, dy, dweight, err) : ST_OK;
    case OP_LINEAR:
        return ops->linear_gradient(t->b, param_of(t, n->weight), x, dy, &dx, dweight, dbias, err);
    case OP_SILU: return dx.dst.data ? ops->silu_gradient(t->b, x, dy, &dx, err) : ST_OK;
    case OP_ADD:
    case OP_ADD_CHANNEL:
        s = route_gradient(t, *dy, n->in[0], b->in[0], 0, err);
        if (s || !dother.dst.data) return s;
        return n->op == OP_ADD ? ops->copy_into(t->b, dy, &dother, err)
                               : ops->channel_sums(t->b, dy, &dother, err);
    case OP_CONV: return conv_back(t, i, dweight, dbias, err);
    case OP_GROUP_NORM: return norm_back(t, i, dweight, dbias, err);
    case OP_ATTENTION:
        return dx.dst.data
                   ? ops->attention_gradient(t->b, t->at[i].attention_gradient, x, dy, &dx.dst, err)
                   : ST_OK;
    case OP_UPSAMPLE: return dx.dst.data ? ops->upsample_gradient(t->b, dy, &dx, err) : ST_OK;
    case OP_DOWNSAMPLE: return dx.dst.data ? ops->downsample_gradient(t->b, dy, &dx, err) : ST_OK;
    case OP_SPACE_TO_DEPTH:
        return dx.dst.data ? t->b->ops->depth_to_space(t->b, dy, &dx.dst, err) : ST_OK;
    case OP_DEPTH_TO_SPACE:
        return dx.dst.data ? t->b->ops->space_to_depth(t->b, dy, &dx.dst, err) : ST_OK;
    case OP_CONCAT:
        s = route_gradient(t, *dy, n->in[0], b->in[0], 0, err);
        return s ? s
                 : route_gradient(t, *dy, n->in[1], b->in[1], n->c - t->g->nodes[n->in[1]].c, err);
    case OP_BATCH_NORM: return batch_norm_back(t, i, dweight, dbias, err);
    case OP_LEAKY_RELU:
        return dx.dst.data ? ops->leaky_relu_gradient(t->b, &t->at[i].value, n->slope, dy, &dx, err)
                           : ST_OK;
    case OP_COUNT: break;
    }
    return error_set(err, ST_INTERNAL, "op %d", (int)n->op);
}

/* The caller's gradient of node i, and the making again of what node i's gradient reads. */
static enum status prepare(struct tape *t, uint32_t i, const struct upstream_gradient *upstream,
                           uint32_t n_upstream, struct error *err)
{
    const struct backward_node *b = &t->plan.nodes[i];
    bool is_written = b->is_fed;
    enum status s = ST_OK;
    for (uint32_t k = 0; !s && k < n_upstream; k++) {
        if (upstream[k].node != (int32_t)i) continue;
        struct tensor dy = outside(upstream[k].dy, &t->at[i].gradient);
        struct into to = { t->at[i].gradient, is_written };
        s = t->b->ops->gradients->copy_into(t->b, &dy, &to, err);
        is_written = true;
    }
    if (!s && !is_written)
        return error_set(err, ST_INTERNAL, "nothing gives node %u a gradient", i);
    for (uint32_t k = b->recompute_first; !s && k < b->recompute_end; k++)
        s = run_node(t, t->plan.recomputed[k], true, err);
    return s;
}

static enum status check_backward(const struct tape *t, struct error *err)
{
    return t->o.forward_only ? error_set(err, ST_INTERNAL, "a tape that only runs forward") : ST_OK;
}

enum status tape_backward(struct tape *t, const struct upstream_gradient *upstream,
                          uint32_t n_upstream, float *gradients, float *dx, struct error *err)
{
    enum status s = check_backward(t, err);
    for (uint32_t i = t->g->n_nodes; !s && i-- > 0;) {
        if (!t->plan.nodes[i].has_gradient) continue;
        uint64_t start = now_ns();
        s = prepare(t, i, upstream, n_upstream, err);
        if (!s) s = back_node(t, i, gradients, err);
        t->backward_ns[t->g->nodes[i].op] += now_ns() - start;
    }
    if (s || !dx) return s;
    if (!t->o.input_gradient)
        return error_set(err, ST_INTERNAL, "a tape without an input gradient");
    struct tensor to = outside(dx, &t->at[t->g->input].gradient);
    return t->b->ops->cast(t->b, &t->at[t->g->input].gradient, &to, err);
}

enum status tape_probe(struct tape *t, const struct upstream_gradient *upstream,
                       uint32_t n_upstream, float *dweight, struct error *err)
{
    enum status s = check_backward(t, err);
    for (uint32_t i = t->g->n_nodes; !s && i-- > 0;) {
        const struct node *n = &t->g->nodes[i];
        if (!t->plan.nodes[i].has_gradient) continue;
        s = prepare(t, i, upstream, n_upstream, err);
        if (s) return s;
        if (i == t->plan.probe)
            return t->b->ops->gradients->conv_weights(t->b, t->at[i].conv,
                                                      read_of(t, n->in[0], true),
                                                      &t->at[i].gradient, dweight, NULL, err);
        s = back_node(t, i, NULL, err);
    }
    return s ? s : error_set(err, ST_INTERNAL, "a tape without a probe");
}

void tape_times(struct tape *t, uint64_t *forward_ns, uint64_t *backward_ns)
{
    memcpy(forward_ns, t->forward_ns, sizeof t->forward_ns);
    memcpy(backward_ns, t->backward_ns, sizeof t->backward_ns);
    memset(t->forward_ns, 0, sizeof t->forward_ns);
    memset(t->backward_ns, 0, sizeof t->backward_ns);
}
