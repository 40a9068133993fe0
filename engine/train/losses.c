#include "engine/train/losses.h"

#include <math.h>
#include <string.h>

void diffuse(const struct schedule *s, uint32_t rows, size_t px, const uint32_t *t, const float *x0,
             const float *noise, float *x_t)
{
    size_t count = px * LOSS_CHANNELS;
    for (uint32_t n = 0; n < rows; n++) {
        float keep = (float)sqrt(s->alpha_bar[t[n]]), add = (float)sqrt(1 - s->alpha_bar[t[n]]);
        for (size_t i = n * count; i < (n + 1) * count; i++)
            x_t[i] = keep * x0[i] + add * noise[i];
    }
}

/* ---- the hybrid loss ---- */

/* Constants of one t: log variances between which v interpolates, and the posterior mean's two factors. */
struct moment {
    uint32_t t;
    double log_beta, log_tilde;
    double of_x0, of_xt;            /* mean = of_x0 x0 + of_xt x_t */
    double predict_xt, predict_eps; /* x0 = predict_xt x_t - predict_eps eps */
};

static struct moment moment_of(const struct schedule *s, uint32_t t)
{
    double before = t ? s->alpha_bar[t - 1] : 1.0, now = s->alpha_bar[t], beta = s->beta[t];
    return (struct moment){ .t = t,
                            .log_beta = log(beta),
                            .log_tilde = log(s->posterior_var[t]),
                            .of_x0 = beta * sqrt(before) / (1 - now),
                            .of_xt = (1 - before) * sqrt(1 - beta) / (1 - now),
                            .predict_xt = sqrt(1 / now),
                            .predict_eps = sqrt(1 / now - 1) };
}

struct bound {
    double value, slope; /* nats; by the log variance */
};

static struct bound kl(double log_var, double log_true, double difference)
{
    double ratio = exp(log_true - log_var), square = difference * difference * exp(-log_var);
    return (struct bound){ 0.5 * (-1 + log_var - log_true + ratio + square),
                           0.5 * (1 - ratio - square) };
}

/* The published approximation of the normal distribution, and its slope. */
static double phi(double u, double *slope)
{
    const double root = 0.79788456080286535588; /* sqrt(2 / pi) */
    double th = tanh(root * (u + 0.044715 * u * u * u));
    *slope = 0.5 * (1 - th * th) * root * (1 + 3 * 0.044715 * u * u);
    return 0.5 * (1 + th);
}

/* -log of the probability of x's bin, 2/255 wide, open at both ends of the range. */
static struct bound discrete(double log_var, double x, double mean)
{
    const double half = 1.0 / 255, floor_p = 1e-12;
    double inverse = exp(-0.5 * log_var), up = x - mean + half, low = x - mean - half;
    double slope_up, slope_low, above = phi(inverse * up, &slope_up);
    double below = phi(inverse * low, &slope_low), p, dp;
    /* d(inverse)/d(log_var) = -inverse / 2 */
    double d_above = -0.5 * inverse * up * slope_up, d_below = -0.5 * inverse * low * slope_low;
    if (x < -0.999) {
        p = above;
        dp = d_above;
    } else if (x > 0.999) {
        p = 1 - below;
        dp = -d_below;
    } else {
        p = above - below;
        dp = d_above - d_below;
    }
    if (p < floor_p) return (struct bound){ -log(floor_p), 0 };
    return (struct bound){ -log(p), -dp / p };
}

static void hybrid_row(const struct hybrid_args *a, uint32_t n)
{
    const struct moment m = moment_of(a->schedule, a->t[n]);
    const size_t count = a->px * LOSS_CHANNELS;
    const double bits = 1 / log(2.0), each = a->scale / (double)count;
    double squares = 0, bound = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = n * count + i, out = 2 * (n * count) + i / 3 * OUTPUT_CHANNELS + i % 3;
        double x0 = (double)a->x0[at], xt = (double)a->x_t[at];
        double eps = (double)a->out[out], v = (double)a->out[out + 3];
        double off = eps - (double)a->noise[at], f = (v + 1) / 2;
        double log_var = f * m.log_beta + (1 - f) * m.log_tilde;
        double guess = m.of_x0 * (m.predict_xt * xt - m.predict_eps * eps) + m.of_xt * xt;
        struct bound b = m.t == 0 ? discrete(log_var, x0, guess)
                                  : kl(log_var, m.log_tilde, m.of_x0 * x0 + m.of_xt * xt - guess);
        squares += off * off;
        bound += b.value;
        a->dout[out] = (float)(2 * off * each);
        a->dout[out + 3] = (float)(b.slope * bits * 0.5 * (m.log_beta - m.log_tilde) * each);
    }
    a->mse[n] = squares / (double)count;
    a->vb[n] = bound * bits / (double)count;
}

void hybrid_loss(const struct hybrid_args *a)
{
#pragma omp parallel for schedule(static)
    for (uint32_t n = 0; n < a->rows; n++)
        hybrid_row(a, n);
}

/* ---- the generator's terms ---- */

double ikl_loss(uint32_t rows, size_t px, const float *out_psi, const float *out_theta,
                const float *pred, float *field)
{
    const size_t count = rows * px * LOSS_CHANNELS;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = i / 3 * OUTPUT_CHANNELS + i % 3;
        float f = out_theta[at] - out_psi[at];
        sum += (double)f * (double)pred[i];
        field[i] = f / (float)count;
    }
    return sum / (double)count;
}

size_t consistency_scratch(enum operator_kind op, uint32_t w, uint32_t h)
{
    const struct extent x = { w, h, 3 }, y = operator_extent(op, x);
    return (size_t)y.w * y.h * y.c + operator_scratch_floats(op, x);
}

double consistency_loss(const struct images *p, float *dpred, float *scratch)
{
    const struct operator_traits *op = operator_of(p->op);
    const struct extent x = { p->w, p->h, 3 }, y = operator_extent(p->op, x);
    const size_t px = (size_t)p->w * p->h, each = (size_t)y.w * y.h * y.c, count = p->rows * each;
    float *residual = scratch + operator_scratch_floats(p->op, x);
    double sum = 0;
    if (!op->transpose) {
        memset(dpred, 0, p->rows * px * 3 * sizeof *dpred);
        return 0;
    }
    for (uint32_t n = 0; n < p->rows; n++) {
        const struct operation a = { .op = p->op,
                                     .level = p->levels ? p->levels[n] : p->level,
                                     .x = x,
                                     .observed_mask =
                                         p->observed_mask ? p->observed_mask + n * px : NULL };
        (void)operator_apply(&a, p->pred + n * px * 3, residual, scratch, NULL); /* linear */
        for (size_t i = 0; i < each; i++) {
            double off = (double)residual[i] - (double)p->y[n * each + i];
            sum += off * off;
            residual[i] = (float)(2 * off / (double)count);
        }
        op->transpose(&a, residual, dpred + n * px * 3, scratch);
    }
    return sum / (double)count;
}

double observed_values(const struct images *p)
{
    const size_t px = (size_t)p->w * p->h * p->rows;
    size_t observed = 0;
    for (size_t i = 0; p->observed_mask && i < px; i++)
        observed += p->observed_mask[i] ? LOSS_CHANNELS : 0;
    return (double)observed;
}

double truth_loss(const struct images *p, double observed, float *dpred)
{
    const size_t px = (size_t)p->w * p->h * p->rows, count = px * LOSS_CHANNELS;
    double sum = 0, sum_observed = 0;
    const double by_all = (p->observed_mask ? 0.1 : 1.0) / (double)count;
    const double by_observed = observed > 0 ? 1.0 / observed : 0;
    for (size_t i = 0; i < count; i++) {
        double off = (double)p->pred[i] - (double)p->x[i], by = by_all;
        sum += off * off;
        if (p->observed_mask && p->observed_mask[i / 3]) {
            sum_observed += off * off;
            by += by_observed;
        }
        dpred[i] = (float)(2 * off * by);
    }
    return sum * by_all + sum_observed * by_observed;
}

double hinge_loss(const float *d, size_t count, double sign, double scale, float *dd)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double short_of = 1 - sign * (double)d[i];
        sum += short_of > 0 ? short_of : 0;
        dd[i] = short_of > 0 ? (float)(-0.5 * sign * scale / (double)count) : 0;
    }
    return 0.5 * sum / (double)count;
}

double feature_loss(const float *a, const float *b, size_t count, float *da)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double off = (double)a[i] - (double)b[i];
        sum += fabs(off);
        da[i] = (float)((off > 0) - (off < 0)) / (float)count;
    }
    return sum / (double)count;
}
