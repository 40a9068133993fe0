/* The ops of training on the CPU (engine/graph/backend/losses.h): noise, the generator's input and
 * answer, the short losses. */
#include "engine/cpu/losses.h"

#include <math.h>

static int threads_of(struct backend *b)
{
    return ((struct cpu_backend *)b)->threads;
}

/* ---- noise ---- */

static enum status diffuse(struct backend *b, const struct diffuse_args *a, struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = a->px * LOSS_CHANNELS;
    for (uint32_t n = 0; n < a->rows; n++)
        for (size_t i = n * count; i < (n + 1) * count; i++)
            a->x_t[i] = a->keep[n] * a->x0[i] + a->add[n] * a->noise[i];
    return ST_OK;
}

static enum status clean(struct backend *b, const struct clean_args *a, struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = a->px * LOSS_CHANNELS;
    for (uint32_t n = 0; n < a->rows; n++) {
        const double signal = a->alpha_bar[n];
        for (size_t i = n * count; i < (n + 1) * count; i++) {
            double eps = (double)a->out[i / 3 * OUTPUT_CHANNELS + i % 3];
            a->x0[i] = (float)(((double)a->x_t[i] - sqrt(1 - signal) * eps) / sqrt(signal));
        }
    }
    return ST_OK;
}

/* ---- the generator ---- */

static void bridge_row(const struct bridge_args *a, uint32_t row)
{
    const size_t each = a->px * LOSS_CHANNELS, first = row * each;
    const float of_x = a->of_x[row], of_y = a->of_y[row], of_z = a->of_z[row];
    for (size_t i = first; i < first + each; i++)
        a->x_q[i] = a->x ? of_x * a->x[i] + of_y * a->y_in[i] : a->y_in[i];
    if (!a->joined) {
        for (size_t i = first; a->z && i < first + each; i++)
            a->x_q[i] = a->x_q[i] + of_z * a->z[i];
        return;
    }
    for (size_t i = first; i < first + each; i++) {
        float *to = a->joined + i / LOSS_CHANNELS * 2 * LOSS_CHANNELS + i % LOSS_CHANNELS;
        to[0] = a->x_q[i];
        to[LOSS_CHANNELS] = a->z ? of_z * a->z[i] : 0;
    }
}

static enum status bridge(struct backend *b, const struct bridge_args *a, struct error *err)
{
    (void)err;
#pragma omp parallel for schedule(static) num_threads(threads_of(b))
    for (uint32_t n = 0; n < a->rows; n++)
        bridge_row(a, n);
    return ST_OK;
}

static enum status answer(struct backend *b, const struct answer_args *a, struct error *err)
{
    const size_t each = a->px * LOSS_CHANNELS;
    enum status s =
        cpu_expect(a->channels >= LOSS_CHANNELS, "an answer without three channels", err);
    if (s) return s;
#pragma omp parallel for schedule(static) num_threads(threads_of(b))
    for (uint32_t n = 0; n < a->rows; n++) {
        const float by = a->std[n];
        for (size_t i = n * each; i < (n + 1) * each; i++) {
            const size_t eps = i / LOSS_CHANNELS * a->channels + i % LOSS_CHANNELS;
            const float v = a->x_q[i] - by * a->out[eps];
            a->pred[i] = a->is_linear ? v : tanhf(v);
        }
    }
    return ST_OK;
}

static enum status answer_gradient(struct backend *b, const struct answer_gradient_args *a,
                                   struct error *err)
{
    const size_t each = a->px * LOSS_CHANNELS;
    enum status s = cpu_expect(a->channels == LOSS_CHANNELS || a->channels == OUTPUT_CHANNELS,
                               "an answer's gradient of other than 3 or 6 channels", err);
    if (s) return s;
#pragma omp parallel for schedule(static) num_threads(threads_of(b))
    for (uint32_t n = 0; n < a->rows; n++) {
        const float slope = a->slope[n];
        for (size_t i = n * each; i < (n + 1) * each; i++) {
            float *to = a->d_out + i / LOSS_CHANNELS * a->channels + i % LOSS_CHANNELS;
            to[0] = slope * a->d_pred[i];
            if (!a->is_linear) to[0] *= 1 - a->pred[i] * a->pred[i];
            if (a->channels > LOSS_CHANNELS) to[LOSS_CHANNELS] = 0;
        }
    }
    return ST_OK;
}

/* ---- terms of the objective davi ---- */

static enum status ikl(struct backend *b, const struct ikl_args *a, double *value,
                       struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = a->rows * a->px * LOSS_CHANNELS;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = i / 3 * OUTPUT_CHANNELS + i % 3;
        float f = a->out_theta[at] - a->out_psi[at];
        sum += (double)f * (double)a->pred[i];
        a->field[i] = f / (float)count;
    }
    *value = sum / (double)count;
    return ST_OK;
}

static enum status consistency(struct backend *b, float *ax, const float *y, size_t count,
                               double *value, struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double off = (double)ax[i] - (double)y[i];
        sum += off * off;
        ax[i] = (float)(2 * off / (double)count);
    }
    *value = sum / (double)count;
    return ST_OK;
}

static enum status count_observed(struct backend *b, const uint8_t *observed_mask, size_t px,
                                  double *value, struct error *err)
{
    (void)b;
    (void)err;
    size_t observed = 0;
    for (size_t i = 0; i < px; i++)
        observed += observed_mask[i] ? LOSS_CHANNELS : 0;
    *value = (double)observed;
    return ST_OK;
}

static enum status truth(struct backend *b, const struct truth_args *a, double *value,
                         struct error *err)
{
    (void)b;
    (void)err;
    const size_t count = a->rows * a->px * LOSS_CHANNELS;
    double sum = 0, sum_observed = 0;
    const double by_all = (a->observed_mask ? 0.1 : 1.0) / (double)count;
    const double by_observed = a->observed > 0 ? 1.0 / a->observed : 0;
    for (size_t i = 0; i < count; i++) {
        double off = (double)a->pred[i] - (double)a->x[i], by = by_all;
        sum += off * off;
        if (a->observed_mask && a->observed_mask[i / 3]) {
            sum_observed += off * off;
            by += by_observed;
        }
        a->dpred[i] = (float)(2 * off * by);
    }
    *value = sum * by_all + sum_observed * by_observed;
    return ST_OK;
}

static enum status hinge(struct backend *b, const float *d, size_t count, double sign, double scale,
                         float *dd, double *value, struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double short_of = 1 - sign * (double)d[i];
        sum += short_of > 0 ? short_of : 0;
        dd[i] = short_of > 0 ? (float)(-0.5 * sign * scale / (double)count) : 0;
    }
    *value = 0.5 * sum / (double)count;
    return ST_OK;
}

static enum status adversarial(struct backend *b, const float *d, size_t count, float *dd,
                               double *value, struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum -= (double)d[i] / (double)count;
        dd[i] = -1.0f / (float)count;
    }
    *value = sum;
    return ST_OK;
}

static enum status features(struct backend *b, const float *f, const float *true_f, size_t count,
                            float *df, double *value, struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double off = (double)f[i] - (double)true_f[i];
        sum += fabs(off);
        df[i] = (float)((off > 0) - (off < 0)) / (float)count;
    }
    *value = sum / (double)count;
    return ST_OK;
}

static enum status weighted_sum(struct backend *b, const float *const terms[WEIGHTED_TERMS],
                                const float weights[WEIGHTED_TERMS], size_t count, float *out,
                                struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++) {
        float sum = weights[0] * terms[0][i];
        for (int k = 1; k < WEIGHTED_TERMS; k++)
            sum = sum + weights[k] * terms[k][i];
        out[i] = sum;
    }
    return ST_OK;
}

/* ---- objectives that compare answers with the truth alone ---- */

static enum status regression(struct backend *b, const struct regression_args *a, double *value,
                              struct error *err)
{
    (void)b;
    (void)err;
    const float each = (float)(a->weight / (double)a->count);
    const bool is_l2 = a->kind == REGRESSION_L2;
    double sum = 0;
    for (size_t i = 0; i < a->count; i++) {
        const float off = a->pred[i] - a->x[i];
        sum += is_l2 ? (double)off * (double)off : (double)fabsf(off);
        a->d_pred[i] += each * (is_l2 ? 2 * off : (float)((off > 0) - (off < 0)));
    }
    *value = sum / (double)a->count;
    return ST_OK;
}

/* No operate and adjoint: the loops of engine/davi/operators are the CPU's too. */
const struct loss_ops cpu_losses = {
    .diffuse = diffuse,
    .clean = clean,
    .hybrid = cpu_hybrid_loss,
    .bridge = bridge,
    .answer = answer,
    .answer_gradient = answer_gradient,
    .ikl = ikl,
    .consistency = consistency,
    .count_observed = count_observed,
    .truth = truth,
    .hinge = hinge,
    .adversarial = adversarial,
    .features = features,
    .weighted_sum = weighted_sum,
    .regression = regression,
    .energy_scratch = cpu_energy_scratch,
    .energy = cpu_energy_score,
};
