/* Every op of engine/graph/backend/losses.h once more, in double (engine/README.md sections 4, 5
 * and 9). */
#include "tests/reference/losses.h"

#include <math.h>
#include <stdlib.h>

#include "tests/reference/reference.h"

static size_t values_of(uint32_t rows, size_t px)
{
    return (size_t)rows * px * LOSS_CHANNELS;
}

/* The place of image value i among `channels` a pixel. */
static size_t place(size_t i, uint32_t channels)
{
    return i / LOSS_CHANNELS * channels + i % LOSS_CHANNELS;
}

static double sign_of(double v)
{
    return v > 0 ? 1 : v < 0 ? -1 : 0;
}

/* ---- noise and denoising ---- */

static enum status diffuse(struct backend *b, const struct diffuse_args *a, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < values_of(a->rows, a->px); i++) {
        const size_t n = i / LOSS_CHANNELS / a->px;
        a->x_t[i] = (float)((double)a->keep[n] * (double)a->x0[i] +
                            (double)a->add[n] * (double)a->noise[i]);
    }
    return ST_OK;
}

static enum status clean(struct backend *b, const struct clean_args *a, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < values_of(a->rows, a->px); i++) {
        const double kept = a->alpha_bar[i / LOSS_CHANNELS / a->px];
        const double eps = (double)a->out[place(i, OUTPUT_CHANNELS)];
        a->x0[i] = (float)((double)a->x_t[i] / sqrt(kept) - sqrt(1 / kept - 1) * eps);
    }
    return ST_OK;
}

/* The published approximation of the normal distribution is (1 + tanh(u)) / 2 at this u. */
static double argument_of(double v)
{
    return sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v);
}

/* The probability of a bin whose ends are u and w, without the cancellation of a difference; open
 * at the ends of the range. */
static double probability(double u, double w, double x0)
{
    if (x0 > 0.999) return 1 / (1 + exp(2 * w));
    if (x0 < -0.999) return 1 / (1 + exp(-2 * u));
    return 0.5 * sinh(u - w) / cosh(u) / cosh(w);
}

/* The bound of one value in bits, with v free and all else fixed. */
static double bound(const struct denoising_constants *m, double x0, double xt, double eps, double v)
{
    const double f = (v + 1) / 2, log_var = f * m->log_beta + (1 - f) * m->log_tilde;
    const double guess = m->of_x0 * (m->predict_xt * xt - m->predict_eps * eps) + m->of_xt * xt;
    const double std = exp(0.5 * log_var);
    if (m->is_first) {
        const double p = probability(argument_of((x0 + 1.0 / 255 - guess) / std),
                                     argument_of((x0 - 1.0 / 255 - guess) / std), x0);
        return -log(fmax(p, 1e-12)) / log(2);
    }
    const double off = m->of_x0 * x0 + m->of_xt * xt - guess;
    return 0.5 * (log_var - m->log_tilde - 1 + (exp(m->log_tilde) + off * off) / (std * std)) /
           log(2);
}

static enum status hybrid(struct backend *b, const struct hybrid_args *a, struct error *err)
{
    (void)b;
    (void)err;
    const double count = (double)a->px * LOSS_CHANNELS, step = 1e-4;
    for (uint32_t n = 0; n < a->rows; n++) {
        const struct denoising_constants *m = &a->constants[n];
        a->mse[n] = a->vb[n] = 0;
        for (size_t i = values_of(n, a->px); i < values_of(n + 1, a->px); i++) {
            const size_t at = place(i, OUTPUT_CHANNELS);
            const double x0 = (double)a->x0[i], xt = (double)a->x_t[i];
            const double eps = (double)a->out[at], v = (double)a->out[at + LOSS_CHANNELS];
            const double off = eps - (double)a->noise[i];
            a->mse[n] += off * off / count;
            a->vb[n] += bound(m, x0, xt, eps, v) / count;
            a->dout[at] = (float)(2 * off * a->scale / count);
            a->dout[at + LOSS_CHANNELS] =
                (float)((bound(m, x0, xt, eps, v + step) - bound(m, x0, xt, eps, v - step)) /
                        (2 * step) * a->scale / count);
        }
    }
    return ST_OK;
}

/* ---- the generator ---- */

static enum status bridge(struct backend *b, const struct bridge_args *a, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < values_of(a->rows, a->px); i++) {
        const size_t n = i / LOSS_CHANNELS / a->px;
        const double noise = a->z ? (double)a->of_z[n] * (double)a->z[i] : 0;
        double at = (double)a->y_in[i];
        if (a->x) at = (double)a->of_x[n] * (double)a->x[i] + (double)a->of_y[n] * at;
        a->x_q[i] = (float)(a->joined ? at : at + noise);
        if (!a->joined) continue;
        a->joined[place(i, 2 * LOSS_CHANNELS)] = (float)at;
        a->joined[place(i, 2 * LOSS_CHANNELS) + LOSS_CHANNELS] = (float)noise;
    }
    return ST_OK;
}

static enum status answer(struct backend *b, const struct answer_args *a, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < values_of(a->rows, a->px); i++) {
        const double std = (double)a->std[i / LOSS_CHANNELS / a->px];
        const double v = (double)a->x_q[i] - std * (double)a->out[place(i, a->channels)];
        a->pred[i] = (float)(a->is_linear ? v : tanh(v));
    }
    return ST_OK;
}

static enum status answer_gradient(struct backend *b, const struct answer_gradient_args *a,
                                   struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < (size_t)a->rows * a->px * a->channels; i++)
        a->d_out[i] = 0;
    for (size_t i = 0; i < values_of(a->rows, a->px); i++) {
        const double pred = (double)a->pred[i], slope = (double)a->slope[i / LOSS_CHANNELS / a->px];
        a->d_out[place(i, a->channels)] =
            (float)(slope * (double)a->d_pred[i] * (a->is_linear ? 1 : 1 - pred * pred));
    }
    return ST_OK;
}

/* ---- terms of the objective davi ---- */

static enum status ikl(struct backend *b, const struct ikl_args *a, double *value,
                       struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = values_of(a->rows, a->px);
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t at = place(i, OUTPUT_CHANNELS);
        const double field = ((double)a->out_theta[at] - (double)a->out_psi[at]) / (double)count;
        *value += field * (double)a->pred[i];
        a->field[i] = (float)field;
    }
    return ST_OK;
}

static enum status consistency(struct backend *b, float *ax, const float *y, size_t count,
                               double *value, struct error *err)
{
    (void)b;
    (void)err;
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = (double)ax[i] - (double)y[i];
        *value += off * off / (double)count;
        ax[i] = (float)(2 * off / (double)count);
    }
    return ST_OK;
}

static enum status count_observed(struct backend *b, const uint8_t *observed_mask, size_t px,
                                  double *value, struct error *err)
{
    (void)b;
    (void)err;
    *value = 0;
    for (size_t i = 0; i < px; i++)
        if (observed_mask[i]) *value += LOSS_CHANNELS;
    return ST_OK;
}

static enum status truth(struct backend *b, const struct truth_args *a, double *value,
                         struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = values_of(a->rows, a->px);
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = (double)a->x[i] - (double)a->pred[i];
        double weight = (a->observed_mask ? 0.1 : 1) / (double)count;
        if (a->observed_mask && a->observed_mask[i / LOSS_CHANNELS] && a->observed > 0)
            weight += 1 / a->observed;
        *value += weight * off * off;
        a->dpred[i] = (float)(-2 * weight * off);
    }
    return ST_OK;
}

static enum status hinge(struct backend *b, const float *d, size_t count, double sign, double scale,
                         float *dd, double *value, struct error *err)
{
    (void)b;
    (void)err;
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        const double margin = 1 - sign * (double)d[i];
        *value += fmax(margin, 0) / 2 / (double)count;
        dd[i] = (float)(margin > 0 ? -sign * scale / 2 / (double)count : 0);
    }
    return ST_OK;
}

static enum status adversarial(struct backend *b, const float *d, size_t count, float *dd,
                               double *value, struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)d[i];
        dd[i] = (float)(-1 / (double)count);
    }
    *value = -sum / (double)count;
    return ST_OK;
}

static enum status features(struct backend *b, const float *f, const float *true_f, size_t count,
                            float *df, double *value, struct error *err)
{
    (void)b;
    (void)err;
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = (double)f[i] - (double)true_f[i];
        *value += fabs(off) / (double)count;
        df[i] = (float)(sign_of(off) / (double)count);
    }
    return ST_OK;
}

static enum status weighted_sum(struct backend *b, const float *const terms[WEIGHTED_TERMS],
                                const float weights[WEIGHTED_TERMS], size_t count, float *out,
                                struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int k = 0; k < WEIGHTED_TERMS; k++)
            sum += (double)weights[k] * (double)terms[k][i];
        out[i] = (float)sum;
    }
    return ST_OK;
}

/* ---- objectives that compare answers with the truth alone ---- */

static enum status regression(struct backend *b, const struct regression_args *a, double *value,
                              struct error *err)
{
    (void)b;
    (void)err;
    const double count = (double)a->count;
    *value = 0;
    for (size_t i = 0; i < a->count; i++) {
        const double off = (double)a->pred[i] - (double)a->x[i];
        const bool squares = a->kind == REGRESSION_L2;
        *value += (squares ? off * off : fabs(off)) / count;
        a->d_pred[i] =
            (float)((double)a->d_pred[i] + a->weight * (squares ? 2 * off : sign_of(off)) / count);
    }
    return ST_OK;
}

static size_t energy_scratch(uint32_t w, uint32_t h)
{
    (void)w;
    (void)h;
    return 0;
}

/* The index of pixel i of cell (row, column), s px a side, of an image w px wide. */
static size_t place_in_cell(uint32_t w, uint32_t s, uint32_t row, uint32_t column, uint32_t i)
{
    return ((size_t)row * s + i / s) * w + (size_t)column * s + i % s;
}

/* The mean over the s x s px of cell (row, column), channel c, of an image w px wide. */
static double cell_mean(const float *v, uint32_t w, uint32_t s, uint32_t row, uint32_t column,
                        uint32_t c)
{
    double sum = 0;
    for (uint32_t i = 0; i < s * s; i++)
        sum += (double)v[place_in_cell(w, s, row, column, i) * LOSS_CHANNELS + c];
    return sum / (s * s);
}

/* by d(p, q) at cells of s px, which is returned; its gradient by p is added to dp, and by q to dq
 * where it is given. */
static double distance(const struct energy_args *a, uint32_t s, double by, const float *p,
                       const float *q, float *dp, float *dq)
{
    const uint32_t h = a->h / s, w = a->w / s;
    const double cells = (double)h * w;
    double sum = 0;
    for (uint32_t cell = 0; cell < h * w; cell++) {
        const uint32_t row = cell / w, column = cell % w;
        double off[LOSS_CHANNELS], norm = 0;
        for (uint32_t c = 0; c < LOSS_CHANNELS; c++) {
            off[c] = cell_mean(p, a->w, s, row, column, c) - cell_mean(q, a->w, s, row, column, c);
            norm += off[c] * off[c];
        }
        norm = sqrt(norm);
        for (uint32_t c = 0; c < LOSS_CHANNELS; c++) {
            const double slope = a->kind == DISTANCE_L1 ? sign_of(off[c]) / LOSS_CHANNELS
                                 : norm > 0             ? off[c] / norm
                                                        : 0;
            if (a->kind == DISTANCE_L1) sum += by * fabs(off[c]) / LOSS_CHANNELS / cells;
            for (uint32_t i = 0; i < s * s; i++) {
                const size_t at = place_in_cell(a->w, s, row, column, i) * LOSS_CHANNELS + c;
                const double g = a->weight * by * slope / cells / (s * s);
                dp[at] = (float)((double)dp[at] + g);
                if (dq) dq[at] = (float)((double)dq[at] - g);
            }
        }
        if (a->kind == DISTANCE_NORM) sum += by * norm / cells;
    }
    return sum;
}

static enum status energy(struct backend *b, const struct energy_args *a, double *value,
                          struct error *err)
{
    (void)b;
    const uint32_t pairs = a->rows / 2;
    const size_t each = values_of(1, (size_t)a->w * a->h);
    enum status s = expect(pairs > 0 && a->rows % 2 == 0 && a->w % 8 == 0 && a->h % 8 == 0,
                           "an energy score of images that do not pair or divide", err);
    if (!s) *value = 0;
    for (uint32_t i = 0; !s && i < pairs * ENERGY_SCALES; i++) {
        const size_t at = 2 * (size_t)(i / ENERGY_SCALES) * each;
        const uint32_t cell = 1u << i % ENERGY_SCALES;
        const double by = a->weights[i % ENERGY_SCALES] / pairs;
        const float *p = a->pred + at, *q = p + each, *x = a->x + at;
        float *dp = a->d_pred + at, *dq = dp + each;
        *value += distance(a, cell, 0.5 * by, p, x, dp, NULL) +
                  distance(a, cell, 0.5 * by, q, x, dq, NULL) +
                  distance(a, cell, -0.5 * by, p, q, dp, dq);
    }
    return s;
}

const struct loss_ops reference_losses = {
    .diffuse = diffuse,
    .clean = clean,
    .hybrid = hybrid,
    .bridge = bridge,
    .answer = answer,
    .answer_gradient = answer_gradient,
    .ikl = ikl,
    .operate = reference_operate,
    .adjoint = reference_adjoint,
    .consistency = consistency,
    .count_observed = count_observed,
    .truth = truth,
    .hinge = hinge,
    .adversarial = adversarial,
    .features = features,
    .weighted_sum = weighted_sum,
    .regression = regression,
    .energy_scratch = energy_scratch,
    .energy = energy,
};
