/* The gradient of every op. Gradients of parameters are added to what is there; those of inputs are
 * written or added (struct into). */
#include "engine/graph/op_internal.h"

/* Copies the gradient of y, or the slice of its channels that begins at `channel`, to that of an
 * input. */
static enum status pass_on(struct backend *b, struct tensor dy, const struct into *dx,
                           uint32_t channel, struct error *err)
{
    if (!dx->dst.data) return ST_OK;
    dy.data = (char *)dy.data + channel * dtype_size(dy.dtype);
    dy.c = dx->dst.c;
    return b->ops->gradients->copy_into(b, &dy, dx, err);
}

static enum status add_back(struct backend *b, const struct op_step *st,
                            const struct op_gradients *g, struct error *err)
{
    const struct gradient_ops *ops = b->ops->gradients;
    enum status s = pass_on(b, g->dy, &g->dx, 0, err);
    if (s || !g->dother.dst.data) return s;
    return st->op == OP_ADD ? ops->copy_into(b, &g->dy, &g->dother, err)
                            : ops->channel_sums(b, &g->dy, &g->dother, err);
}

static enum status concat_back(struct backend *b, const struct op_step *st,
                               const struct op_gradients *g, struct error *err)
{
    enum status s = pass_on(b, g->dy, &g->dx, 0, err);
    return s ? s : pass_on(b, g->dy, &g->dother, st->y.c - st->in[1].c, err);
}

static enum status conv_back(struct backend *b, const struct op_step *st,
                             const struct op_gradients *g, struct error *err)
{
    const struct gradient_ops *ops = b->ops->gradients;
    enum status s = ST_OK;
    if (g->dweight)
        s = ops->conv_weights(b, st->trained_conv, &st->in[0], &g->dy, g->dweight, g->dbias, err);
    if (!s && g->dx.dst.data) s = ops->conv_data(b, st->trained_conv, &g->dy, &g->dx.dst, err);
    return s ? s : pass_on(b, g->dy, &g->dresidual, 0, err);
}

static enum status group_norm_back(struct backend *b, const struct op_step *st,
                                   const struct op_gradients *g, struct error *err)
{
    struct group_norm_gradient_args a = {
        .forward = op_group_norm_args(st),
        .moments = st->moments,
        .dy = g->dy,
        .dx = g->dx,
        .dscale_shift = g->dother,
        .dgamma = g->dweight,
        .dbeta = g->dbias,
    };
    a.forward.y = g->dy; /* y itself may be gone; it is not read */
    return b->ops->gradients->group_norm_gradient(b, &a, err);
}

static enum status batch_norm_back(struct backend *b, const struct op_step *st,
                                   const struct op_gradients *g, struct error *err)
{
    const struct gradient_ops *ops = b->ops->gradients;
    const struct batch_norm_args a = op_batch_norm_args(st);
    double *dsums = st->sums + 2 * (size_t)a.x.c;
    enum status s = ops->batch_norm_gradient_sums(b, &a, &g->dy, dsums, g->dweight, g->dbias, err);
    if (s || !g->dx.dst.data) return s;
    op_sum_over_group(st, dsums);
    return ops->batch_norm_gradient(b, &a, &g->dy, dsums, &g->dx, err);
}

enum status op_gradient(struct backend *b, const struct op_step *st, const struct op_gradients *g,
                        struct error *err)
{
    const struct gradient_ops *ops = b->ops->gradients;
    const struct tensor *x = &st->in[0], *dy = &g->dy;
    const struct into *dx = &g->dx;
    const bool has_dx = dx->dst.data != NULL;
    switch (st->op) {
    case OP_INPUT:
    case OP_TIMESTEP: return ST_OK;
    case OP_LABEL:
        return g->dweight ? ops->label_gradient(b, st->label, dy, g->dweight, err) : ST_OK;
    case OP_LINEAR:
        return ops->linear_gradient(b, st->weight, x, dy, dx, g->dweight, g->dbias, err);
    case OP_SILU: return has_dx ? ops->silu_gradient(b, x, dy, dx, err) : ST_OK;
    case OP_ADD:
    case OP_ADD_CHANNEL: return add_back(b, st, g, err);
    case OP_CONV: return conv_back(b, st, g, err);
    case OP_GROUP_NORM: return group_norm_back(b, st, g, err);
    case OP_ATTENTION:
        return has_dx ? ops->attention_gradient(b, st->trained_attention, x, dy, &dx->dst, err)
                      : ST_OK;
    case OP_UPSAMPLE: return has_dx ? ops->upsample_gradient(b, dy, dx, err) : ST_OK;
    case OP_DOWNSAMPLE: return has_dx ? ops->downsample_gradient(b, dy, dx, err) : ST_OK;
    case OP_SPACE_TO_DEPTH:
        return has_dx ? b->ops->net.depth_to_space(b, dy, &dx->dst, err) : ST_OK;
    case OP_DEPTH_TO_SPACE:
        return has_dx ? b->ops->net.space_to_depth(b, dy, &dx->dst, err) : ST_OK;
    case OP_CONCAT: return concat_back(b, st, g, err);
    case OP_BATCH_NORM: return batch_norm_back(b, st, g, err);
    case OP_LEAKY_RELU:
        return has_dx ? ops->leaky_relu_gradient(b, &st->y, st->slope, dy, dx, err) : ST_OK;
    default: break;
    }
    return error_set(err, ST_INTERNAL, "the op %s has no gradient", op_name(st->op));
}

bool op_has_gradient(const struct backend_ops *ops, enum op op)
{
    const struct gradient_ops *g = ops->gradients;
    switch (op) {
    case OP_INPUT:
    case OP_TIMESTEP: return true;
    case OP_LABEL: return g->label_gradient;
    case OP_LINEAR: return g->linear_gradient;
    case OP_SILU: return g->silu_gradient;
    case OP_ADD:
    case OP_CONCAT: return g->copy_into;
    case OP_ADD_CHANNEL: return g->copy_into && g->channel_sums;
    case OP_CONV: return g->conv_weights && g->conv_data && g->copy_into;
    case OP_GROUP_NORM: return g->group_norm_gradient;
    case OP_ATTENTION: return g->attention_new && g->attention_gradient;
    case OP_UPSAMPLE: return g->upsample_gradient;
    case OP_DOWNSAMPLE: return g->downsample_gradient;
    case OP_SPACE_TO_DEPTH: return ops->net.depth_to_space;
    case OP_DEPTH_TO_SPACE: return ops->net.space_to_depth;
    case OP_BATCH_NORM: return g->batch_norm_gradient_sums && g->batch_norm_gradient;
    case OP_LEAKY_RELU: return g->leaky_relu_gradient;
    default: return false; /* an op of inference alone */
    }
}
