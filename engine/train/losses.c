#include "engine/train/losses.h"

#include <math.h>
#include <string.h>

#include "engine/graph/backend/gradients.h"

/* ---- the ops that a run needs ---- */

static const struct {
    const char *name;
    size_t offset; /* in struct loss_ops */
    unsigned needs;
} loss_op_table[] = {
#define LOSS_OP(op, needs)                                                                         \
    {                                                                                              \
#op, offsetof(struct loss_ops, op), needs                                                  \
    }
    LOSS_OP(diffuse, NEED_DENOISING | NEED_DAVI),
    LOSS_OP(hybrid, NEED_DENOISING | NEED_DAVI),
    LOSS_OP(clean, NEED_SHEETS),
    LOSS_OP(bridge, NEED_ANSWERS),
    LOSS_OP(answer, NEED_ANSWERS),
    LOSS_OP(answer_gradient, NEED_GRADIENTS),
    LOSS_OP(ikl, NEED_DAVI),
    LOSS_OP(operate, NEED_ADJOINT),
    LOSS_OP(adjoint, NEED_ADJOINT),
    LOSS_OP(consistency, NEED_ADJOINT),
    LOSS_OP(count_observed, NEED_MASK),
    LOSS_OP(truth, NEED_DAVI),
    LOSS_OP(hinge, NEED_DAVI),
    LOSS_OP(adversarial, NEED_DAVI),
    LOSS_OP(features, NEED_DAVI),
    LOSS_OP(weighted_sum, NEED_DAVI),
    LOSS_OP(regression, NEED_REGRESSION),
    LOSS_OP(energy_scratch, NEED_ENERGY),
    LOSS_OP(energy, NEED_ENERGY),
#undef LOSS_OP
};

static bool has_op(const struct loss_ops *ops, size_t offset)
{
    void (*op)(void) = NULL;
    if (ops) memcpy(&op, (const char *)ops + offset, sizeof op);
    return op != NULL;
}

/* The host computes A and its adjoint where it may touch the back end's memory. */
static bool has_host_loops(const struct backend *b, size_t offset)
{
    return b->ops->device.host_memory && (offset == offsetof(struct loss_ops, operate) ||
                                          offset == offsetof(struct loss_ops, adjoint));
}

enum status losses_check(const struct backend *b, unsigned needs, struct error *err)
{
    const char *name = b->ops->device.name;
    if (!b->ops->gradients)
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot train: it has no gradients",
                         name);
    for (size_t i = 0; i < sizeof loss_op_table / sizeof *loss_op_table; i++)
        if ((loss_op_table[i].needs & needs) && !has_op(b->ops->losses, loss_op_table[i].offset) &&
            !has_host_loops(b, loss_op_table[i].offset))
            return error_set(err, ST_UNSUPPORTED,
                             "the back end %s cannot train with this objective: it has no loss op "
                             "%s",
                             name, loss_op_table[i].name);
    return ST_OK;
}

enum status losses_check_rows(uint32_t rows, struct error *err)
{
    if (rows <= MOST_ROWS) return ST_OK;
    return error_set(err, ST_BAD_PARAMETER, "a micro-batch of %u rows; the most is %d", rows,
                     MOST_ROWS);
}

/* ---- denoising ---- */

enum status diffuse(struct backend *b, const struct schedule *s, uint32_t rows, size_t px,
                    const uint32_t *t, const float *x0, const float *noise, float *x_t,
                    struct error *err)
{
    float keep[MOST_ROWS], add[MOST_ROWS];
    for (uint32_t n = 0; n < rows; n++) {
        keep[n] = (float)sqrt(s->alpha_bar[t[n]]);
        add[n] = (float)sqrt(1 - s->alpha_bar[t[n]]);
    }
    const struct diffuse_args a = {
        .rows = rows, .px = px, .keep = keep, .add = add, .x0 = x0, .noise = noise, .x_t = x_t
    };
    return b->ops->losses->diffuse(b, &a, err);
}

static struct denoising_constants constants_of(const struct schedule *s, uint32_t t)
{
    double before = t ? s->alpha_bar[t - 1] : 1.0, now = s->alpha_bar[t], beta = s->beta[t];
    return (struct denoising_constants){ .is_first = t == 0,
                                         .log_beta = log(beta),
                                         .log_tilde = log(s->posterior_var[t]),
                                         .of_x0 = beta * sqrt(before) / (1 - now),
                                         .of_xt = (1 - before) * sqrt(1 - beta) / (1 - now),
                                         .predict_xt = sqrt(1 / now),
                                         .predict_eps = sqrt(1 / now - 1) };
}

void denoising_constants_of(const struct schedule *s, const uint32_t *t, uint32_t rows,
                            struct denoising_constants *out)
{
    for (uint32_t n = 0; n < rows; n++)
        out[n] = constants_of(s, t[n]);
}

/* ---- the consistency ---- */

static size_t values_of(struct extent e)
{
    return (size_t)e.w * e.h * e.c;
}

/* A pred of all rows, then the operator's scratch for one row. */
size_t consistency_scratch(enum operator_kind op, uint32_t rows, uint32_t w, uint32_t h)
{
    const struct extent x = { w, h, LOSS_CHANNELS };
    const size_t host = operator_scratch_floats(op, x), device = values_of(x);
    return rows * values_of(operator_extent(op, x)) + (host > device ? host : device);
}

static struct operation operation_of(const struct consistency *c, uint32_t n)
{
    const size_t px = (size_t)c->w * c->h;
    return (struct operation){ .op = c->op,
                               .level = c->levels ? c->levels[n] : c->level,
                               .x = { c->w, c->h, LOSS_CHANNELS },
                               .observed_mask =
                                   c->observed_mask ? c->observed_mask + n * px : NULL };
}

static struct rows_operator rows_operator_of(const struct consistency *c, float *scratch)
{
    const struct operator_traits *op = operator_of(c->op);
    for (uint32_t n = 0; op->taps && n < c->rows; n++)
        op->taps(operation_of(c, n).level, c->taps + (size_t)n * BLUR_TAPS);
    return (struct rows_operator){ .rows = c->rows,
                                   .w = c->w,
                                   .h = c->h,
                                   .scale = op->scale,
                                   .is_gray = op->is_gray,
                                   .observed_mask = op->needs_mask ? c->observed_mask : NULL,
                                   .taps = op->taps ? c->taps : NULL,
                                   .scratch = scratch };
}

/* Forward: ax = A pred. Else dpred = A^T ax. */
static enum status operate_rows(struct backend *b, const struct consistency *c, bool is_forward,
                                float *ax, float *dpred, float *scratch, struct error *err)
{
    const struct loss_ops *ops = b->ops->losses;
    const struct operator_traits *op = operator_of(c->op);
    const size_t each = (size_t)c->w * c->h * LOSS_CHANNELS;
    const size_t each_y = values_of(operator_extent(c->op, operation_of(c, 0).x));
    if (ops->operate && ops->adjoint) {
        const struct rows_operator a = rows_operator_of(c, scratch);
        return is_forward ? ops->operate(b, &a, c->pred, ax, err)
                          : ops->adjoint(b, &a, ax, dpred, err);
    }
    enum status s = ST_OK;
    for (uint32_t n = 0; !s && n < c->rows; n++) {
        const struct operation a = operation_of(c, n);
        if (is_forward)
            s = operator_apply(&a, c->pred + n * each, ax + n * each_y, scratch, err);
        else
            op->transpose(&a, ax + n * each_y, dpred + n * each, scratch);
    }
    return s;
}

enum status consistency_loss(struct backend *b, const struct consistency *c, double *value,
                             float *dpred, struct error *err)
{
    const struct extent x = { c->w, c->h, LOSS_CHANNELS };
    const size_t count = c->rows * values_of(operator_extent(c->op, x));
    float *ax = c->scratch, *scratch = ax + count;
    *value = 0;
    if (!operator_of(c->op)->transpose)
        return b->ops->gradients->fill(b, dpred, c->rows * values_of(x), 0, err);
    enum status s = operate_rows(b, c, true, ax, NULL, scratch, err);
    if (!s) s = b->ops->losses->consistency(b, ax, c->y, count, value, err);
    return s ? s : operate_rows(b, c, false, ax, dpred, scratch, err);
}
