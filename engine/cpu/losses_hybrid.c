/* The hybrid loss of denoising (engine/README.md section 5): squared error of eps, and the bound of
 * the learned variance. */
#include <math.h>

#include "engine/cpu/losses.h"

struct bound {
    double value, slope; /* nats; the slope by the log variance */
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
    const struct denoising_constants m = a->constants[n];
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
        struct bound b = m.is_first ? discrete(log_var, x0, guess)
                                    : kl(log_var, m.log_tilde, m.of_x0 * x0 + m.of_xt * xt - guess);
        squares += off * off;
        bound += b.value;
        a->dout[out] = (float)(2 * off * each);
        a->dout[out + 3] = (float)(b.slope * bits * 0.5 * (m.log_beta - m.log_tilde) * each);
    }
    a->mse[n] = squares / (double)count;
    a->vb[n] = bound * bits / (double)count;
}

enum status cpu_hybrid_loss(struct backend *b, const struct hybrid_args *a, struct error *err)
{
    (void)err;
#pragma omp parallel for schedule(static) num_threads(((struct cpu_backend *)b)->threads)
    for (uint32_t n = 0; n < a->rows; n++)
        hybrid_row(a, n);
    return ST_OK;
}
