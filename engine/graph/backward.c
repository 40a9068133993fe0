#include "engine/graph/backward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/graph/op_make.h"

/* ---- making ---- */

struct tape {
    struct backend *b;
    struct graph *g;
    struct param_layout layout;
    const float *params;
    struct backward_options o;
    struct backward_plan plan;
    /* [nodes] each. `again` is the step as its gradient finds it: its views are what has been
     * recomputed, where something has; plans are those of `steps`. */
    struct op_step *steps, *again;
    /* [nodes], without those of the parameters: the caller of a pass has them. */
    struct op_gradients *gradients;
    void *arena;
    struct row_values values; /* of the last forward pass */
    uint64_t forward_ns[OP_COUNT], backward_ns[OP_COUNT];
};

/* Views of all nodes, [nodes] each. */
struct views {
    struct tensor *value, *recomputed, *gradient;
};

static void views_done(struct views *v)
{
    free(v->value);
    free(v->recomputed);
    free(v->gradient);
}

static enum status views_init(struct views *out, const struct tape *t, struct error *err)
{
    const uint32_t n = t->g->n_nodes;
    struct views v = { calloc(n, sizeof *v.value), calloc(n, sizeof *v.recomputed),
                       calloc(n, sizeof *v.gradient) };
    if (!v.value || !v.recomputed || !v.gradient) {
        views_done(&v);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for the views of %u nodes", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct backward_node *b = &t->plan.nodes[i];
        const struct place *places[3] = { &b->value, b->is_recomputed ? &b->recomputed : &b->value,
                                          &b->gradient };
        struct tensor *to[3] = { &v.value[i], &v.recomputed[i], &v.gradient[i] };
        for (int k = 0; k < 3; k++)
            *to[k] = op_view(&t->g->nodes[i], (char *)t->arena + places[k]->offset_bytes,
                             places[k]->ld, t->o.rows, t->o.dtype);
    }
    *out = v;
    return ST_OK;
}

/* Where the gradient of a node that is read goes. */
static struct into into_of(const struct tensor *gradients, int32_t node, enum flow flow)
{
    struct into to = { { 0 }, flow == FLOW_ADD };
    if (flow == FLOW_WRITE || flow == FLOW_ADD) to.dst = gradients[node];
    return to;
}

static enum status make_step(struct tape *t, uint32_t i, const struct views *v, struct error *err)
{
    const struct node *n = &t->g->nodes[i];
    const struct backward_node *b = &t->plan.nodes[i];
    const struct op_trainer trainer = { .b = t->b,
                                        .g = t->g,
                                        .params = t->params,
                                        .offset = t->layout.offset,
                                        .rows = t->o.rows,
                                        .dtype = t->o.dtype,
                                        .group = t->o.process_group };
    struct op_gradients *gradients = &t->gradients[i];
    *gradients =
        (struct op_gradients){ .dy = v->gradient[i],
                               .dx = into_of(v->gradient, n->in[0], b->in[0]),
                               .dother = into_of(v->gradient, n->in[1], b->in[1]),
                               .dresidual = into_of(v->gradient, n->residual, b->residual) };
    op_connect(&t->steps[i], t->g, (int32_t)i, v->value, &t->values);
    enum status s = op_make_trained(&t->steps[i], &trainer, (int32_t)i,
                                    b->has_gradient ? gradients : NULL, err);
    t->again[i] = t->steps[i];
    op_connect(&t->again[i], t->g, (int32_t)i, v->recomputed, &t->values);
    return s;
}

static enum status make_steps(struct tape *t, struct error *err)
{
    struct views v = { 0 };
    enum status s = views_init(&v, t, err);
    if (s) return s;
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++)
        s = make_step(t, i, &v, err);
    views_done(&v);
    return s;
}

static enum status check_support(const struct tape *t, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        const enum op op = t->g->nodes[i].op;
        s = supports_op(t->b, op, OP_FOR_TRAINING, err);
        if (!s && t->plan.nodes[i].has_gradient) s = supports_op(t->b, op, OP_FOR_GRADIENT, err);
    }
    return s;
}

static enum status make(struct tape *t, struct error *err)
{
    enum status s = param_layout_init(&t->layout, t->g, err);
    if (!s) s = backward_plan_init(&t->plan, t->g, &t->o, err);
    if (!s) s = check_support(t, err);
    if (s) return s;
    t->steps = calloc(t->g->n_nodes, sizeof *t->steps);
    t->again = calloc(t->g->n_nodes, sizeof *t->again);
    t->gradients = calloc(t->g->n_nodes, sizeof *t->gradients);
    bool has_scalars = true;
    for (int i = 0; i < SCALARS; i++) {
        t->values.scalar[i] = calloc(t->o.rows, sizeof *t->values.scalar[i]);
        has_scalars = has_scalars && t->values.scalar[i];
    }
    t->values.label = calloc(t->o.rows, sizeof *t->values.label);
    if (!t->steps || !t->again || !t->gradients || !has_scalars || !t->values.label)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a tape of %u nodes", t->g->n_nodes);
    s = t->b->ops->device.alloc(t->b, t->plan.arena_bytes, &t->arena, err);
    return s ? s : make_steps(t, err);
}

enum status tape_new(struct tape **out, struct backend *b, const struct graph *g,
                     const float *params, const struct backward_options *o, struct error *err)
{
    if (!b->ops->gradients)
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot train", b->ops->device.name);
    if (!b->ops->device.has_dtype(b, o->dtype))
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot compute in %s",
                         b->ops->device.name, dtype_name(o->dtype));
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
    for (uint32_t i = 0; t->steps && i < t->g->n_nodes; i++)
        op_release(&t->steps[i], t->b);
    ops->device.free(t->b, t->arena);
    backward_plan_done(&t->plan);
    param_layout_done(&t->layout);
    graph_free(t->g);
    free(t->steps);
    free(t->again);
    free(t->gradients);
    for (int i = 0; i < SCALARS; i++)
        free(t->values.scalar[i]);
    free(t->values.label);
    free(t);
}

size_t tape_bytes(const struct tape *t)
{
    size_t bytes = t->plan.arena_bytes;
    for (uint32_t i = 0; i < t->g->n_nodes; i++)
        if (t->steps[i].trained_conv)
            bytes += t->b->ops->gradients->conv_bytes(t->steps[i].trained_conv);
    return bytes;
}

uint32_t tape_rows(const struct tape *t)
{
    return t->o.rows;
}

enum status tape_pack(struct tape *t, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        const struct op_step *st = &t->steps[i];
        if (st->trained_conv)
            s = t->b->ops->gradients->conv_pack(t->b, st->trained_conv, st->weight, st->bias, err);
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
            t->values.scalar[n->scalar][row] = from[row];
        }
        for (uint32_t row = 0; n->op == OP_LABEL && row < t->o.rows; row++) {
            if (!in->label || in->label[row] >= t->g->params[n->weight].shape[0])
                return error_set(err, ST_BAD_PARAMETER, "row %u has no label below %u", row,
                                 t->g->params[n->weight].shape[0]);
            t->values.label[row] = in->label[row];
        }
    }
    return ST_OK;
}

enum status tape_forward(struct tape *t, const struct tape_input *in, struct error *err)
{
    const struct tensor *first = &t->steps[t->g->input].y;
    struct tensor x = outside(in->x, first);
    enum status s = take_conditions(t, in, err);
    if (!s) s = t->b->ops->net.cast(t->b, &x, first, err);
    for (uint32_t i = 0; !s && i < t->g->n_nodes; i++) {
        uint64_t start = now_ns();
        s = op_run(t->b, &t->steps[i], err);
        t->forward_ns[t->g->nodes[i].op] += now_ns() - start;
    }
    return s;
}

enum status tape_value(struct tape *t, int32_t node, float *y, struct error *err)
{
    const struct node *n = node >= 0 && node < (int32_t)t->g->n_nodes ? &t->g->nodes[node] : NULL;
    if (!n || (node != t->g->output && !(t->o.keep_taps && n->tap[0])))
        return error_set(err, ST_INTERNAL, "the value of node %d is not kept", (int)node);
    struct tensor to = outside(y, &t->steps[node].y);
    return t->b->ops->net.cast(t->b, &t->steps[node].y, &to, err);
}

/* ---- backward ---- */

static float *gradient_of(const struct tape *t, float *gradients, int32_t param)
{
    return gradients && param != NODE_NONE ? gradients + t->layout.offset[param] : NULL;
}

static enum status back_node(struct tape *t, uint32_t i, float *gradients, struct error *err)
{
    struct op_gradients g = t->gradients[i];
    g.dweight = gradient_of(t, gradients, t->g->nodes[i].weight);
    g.dbias = gradient_of(t, gradients, t->g->nodes[i].bias);
    return op_gradient(t->b, &t->again[i], &g, err);
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
        struct tensor dy = outside(upstream[k].dy, &t->gradients[i].dy);
        struct into to = { t->gradients[i].dy, is_written };
        s = t->b->ops->gradients->copy_into(t->b, &dy, &to, err);
        is_written = true;
    }
    if (!s && !is_written)
        return error_set(err, ST_INTERNAL, "nothing gives node %u a gradient", i);
    for (uint32_t k = b->recompute_first; !s && k < b->recompute_end; k++)
        s = op_run(t->b, &t->again[t->plan.recomputed[k]], err);
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
    struct tensor to = outside(dx, &t->gradients[t->g->input].dy);
    return t->b->ops->net.cast(t->b, &t->gradients[t->g->input].dy, &to, err);
}

enum status tape_probe(struct tape *t, const struct upstream_gradient *upstream,
                       uint32_t n_upstream, float *dweight, struct error *err)
{
    enum status s = check_backward(t, err);
    for (uint32_t i = t->g->n_nodes; !s && i-- > 0;) {
        if (!t->plan.nodes[i].has_gradient) continue;
        s = prepare(t, i, upstream, n_upstream, err);
        if (s) return s;
        if (i == t->plan.probe)
            return t->b->ops->gradients->conv_weights(t->b, t->again[i].trained_conv,
                                                      &t->again[i].in[0], &t->gradients[i].dy,
                                                      dweight, NULL, err);
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
