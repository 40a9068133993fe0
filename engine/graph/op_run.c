#include "engine/graph/op_internal.h"

static const struct tensor *given(const struct tensor *t)
{
    return t->data ? t : NULL;
}

static enum status run_linear(struct backend *b, const struct op_step *st, struct error *err)
{
    if (st->linear) return b->ops->net.linear(b, st->linear, &st->in[0], &st->y, err);
    return b->ops->gradients->linear(b, st->weight, st->bias, &st->in[0], &st->y, err);
}

/* An embedding that has taken over a convolution's bias (constant_folding.h) adds it first. */
static enum status run_add_channel(struct backend *b, const struct op_step *st, struct error *err)
{
    const struct tensor *e = &st->in[1];
    if (st->bias) {
        struct tensor bias = *e;
        bias.data = (void *)st->bias;
        bias.ld = bias.c;
        enum status s = b->ops->net.add(b, e, &bias, e, err);
        if (s) return s;
    }
    return b->ops->net.add_channel(b, &st->in[0], e, &st->y, err);
}

static enum status run_conv(struct backend *b, const struct op_step *st, struct error *err)
{
    const struct tensor *x = &st->in[0], *residual = given(&st->residual), *y = &st->y;
    if (st->trained_conv) return b->ops->gradients->conv(b, st->trained_conv, x, residual, y, err);
    if (st->has_prologue)
        return b->ops->net.conv_with_prologue(b, st->conv, x, &st->prologue, residual, y,
                                              st->condition, err);
    return b->ops->net.conv(b, st->conv, x, residual, y, st->condition, err);
}

struct group_norm_args op_group_norm_args(const struct op_step *st)
{
    return (struct group_norm_args){ .x = st->in[0],
                                     .y = st->y,
                                     .groups = NORM_GROUPS,
                                     .eps = NORM_EPS,
                                     .gamma = st->weight,
                                     .beta = st->bias,
                                     .condition = st->condition,
                                     .scale_shift = given(&st->in[1]),
                                     .silu = st->silu,
                                     .resample = st->resample,
                                     .x_too = st->x_too };
}

static enum status run_group_norm(struct backend *b, const struct op_step *st, struct error *err)
{
    const struct group_norm_args a = op_group_norm_args(st);
    if (st->moments) return b->ops->gradients->group_norm(b, &a, st->moments, err);
    return b->ops->net.group_norm(b, &a, err);
}

struct batch_norm_args op_batch_norm_args(const struct op_step *st)
{
    const struct tensor *x = &st->in[0];
    const double processes = st->group.sum ? st->group.processes : 1;
    return (struct batch_norm_args){ .x = *x,
                                     .gamma = st->weight,
                                     .beta = st->bias,
                                     .sums = st->sums,
                                     .count = processes * x->n * x->h * x->w,
                                     .eps = NORM_EPS };
}

void op_sum_over_group(const struct op_step *st, double *sums)
{
    if (st->group.sum) st->group.sum(st->group.ctx, sums, 2 * (size_t)st->in[0].c);
}

static enum status run_batch_norm(struct backend *b, const struct op_step *st, struct error *err)
{
    const struct batch_norm_args a = op_batch_norm_args(st);
    enum status s = b->ops->gradients->batch_norm_sums(b, &a.x, st->sums, err);
    if (s) return s;
    op_sum_over_group(st, st->sums);
    return b->ops->gradients->batch_norm(b, &a, &st->y, err);
}

enum status op_run(struct backend *b, const struct op_step *st, struct error *err)
{
    const struct backend_ops *ops = b->ops;
    const struct tensor *x = &st->in[0], *y = &st->y;
    switch (st->op) {
    case OP_INPUT: return ST_OK; /* filled before the first step runs */
    case OP_TIMESTEP: return ops->net.timestep(b, st->scalar, y, err);
    case OP_LABEL: return ops->net.label(b, st->weight, st->label, y, err);
    case OP_LINEAR: return run_linear(b, st, err);
    case OP_ADD_CHANNEL: return run_add_channel(b, st, err);
    case OP_CONV: return run_conv(b, st, err);
    case OP_GROUP_NORM: return run_group_norm(b, st, err);
    case OP_ATTENTION: return ops->net.attention(b, st->attention, x, y, err);
    case OP_BATCH_NORM: return run_batch_norm(b, st, err);
    case OP_LEAKY_RELU:
        return ops->gradients->leaky_relu(b, x, st->slope, y, err);
        /* clang-format off */
#define OP(name, traits, what)
#define UNARY_OP(name, function, traits, what) \
    case OP_##name: return ops->net.function(b, x, y, err);
#define BINARY_OP(name, function, traits, what) \
    case OP_##name: return ops->net.function(b, x, &st->in[1], y, err);
#include "engine/graph/ops.def"
    /* clang-format on */
    case OP_COUNT: break;
    }
    return error_set(err, ST_INTERNAL, "op %d", (int)st->op);
}

static bool has_op(const struct backend_ops *ops, enum op op, bool training)
{
    const struct gradient_ops *g = ops->gradients;
    switch (op) {
    case OP_INPUT: return true;
    case OP_TIMESTEP: return ops->net.timestep;
    case OP_LABEL: return ops->net.label;
    case OP_LINEAR: return training ? (bool)g->linear : ops->net.linear_plan && ops->net.linear;
    case OP_ADD_CHANNEL: return ops->net.add_channel;
    case OP_CONV: return training ? g->conv_new && g->conv : ops->net.conv_plan && ops->net.conv;
    case OP_GROUP_NORM: return training ? (bool)g->group_norm : (bool)ops->net.group_norm;
    case OP_ATTENTION: return ops->net.attention_plan && ops->net.attention;
    case OP_BATCH_NORM: return training && g->batch_norm_sums && g->batch_norm;
    case OP_LEAKY_RELU:
        return training && g->leaky_relu;
        /* clang-format off */
#define OP(name, traits, what)
#define UNARY_OP(name, function, traits, what) case OP_##name: return ops->net.function;
#define BINARY_OP(name, function, traits, what) case OP_##name: return ops->net.function;
#include "engine/graph/ops.def"
    /* clang-format on */
    case OP_COUNT: break;
    }
    return false;
}

enum status supports_op(const struct backend *b, enum op op, enum op_use use, struct error *err)
{
    if (use == OP_FOR_GRADIENT)
        return op_has_gradient(b->ops, op)
                   ? ST_OK
                   : error_set(err, ST_UNSUPPORTED, "the back end %s has no gradient of the op %s",
                               b->ops->device.name, op_name(op));
    return has_op(b->ops, op, use == OP_FOR_TRAINING)
               ? ST_OK
               : error_set(err, ST_UNSUPPORTED, "the back end %s has no op %s%s",
                           b->ops->device.name, op_name(op),
                           use == OP_FOR_TRAINING ? " for training" : "");
}
