/* The energy score at several scales (engine/README.md section 9). */
#include <math.h>
#include <string.h>

#include "engine/cpu/losses.h"

/* to: [h / s][w / s][3], means over s x s. */
static void shrink(const float *from, uint32_t w, uint32_t h, uint32_t s, float *to)
{
    const uint32_t sw = w / s;
    memset(to, 0, (size_t)sw * (h / s) * LOSS_CHANNELS * sizeof *to);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (int c = 0; c < LOSS_CHANNELS; c++)
                to[((size_t)(y / s) * sw + x / s) * LOSS_CHANNELS + c] +=
                    from[((size_t)y * w + x) * LOSS_CHANNELS + c];
    const float by = 1.0f / (float)(s * s);
    for (size_t i = 0; i < (size_t)sw * (h / s) * LOSS_CHANNELS; i++)
        to[i] *= by;
}

/* d(a, b) over px pixels; da += by times its gradient by a, and db -= the same where db is
 * given. */
static double distance(enum distance kind, const float *a, const float *b, size_t px, double by,
                       float *da, float *db)
{
    const double n = (double)px * (kind == DISTANCE_L1 ? LOSS_CHANNELS : 1);
    double sum = 0;
    for (size_t p = 0; p < px; p++) {
        float off[LOSS_CHANNELS], squares = 0;
        for (int c = 0; c < LOSS_CHANNELS; c++) {
            off[c] = a[p * LOSS_CHANNELS + c] - b[p * LOSS_CHANNELS + c];
            squares += off[c] * off[c];
        }
        const float norm = sqrtf(squares);
        for (int c = 0; c < LOSS_CHANNELS; c++) {
            /* At a difference of 0 both have a kink; 0 is one of its slopes. */
            float slope = (float)((off[c] > 0) - (off[c] < 0));
            if (kind == DISTANCE_NORM) slope = norm > 0 ? off[c] / norm : 0;
            slope *= (float)(by / n);
            da[p * LOSS_CHANNELS + c] += slope;
            if (db) db[p * LOSS_CHANNELS + c] -= slope;
            if (kind == DISTANCE_L1) sum += (double)fabsf(off[c]);
        }
        if (kind == DISTANCE_NORM) sum += (double)norm;
    }
    return sum / n;
}

/* Each pixel of the large image has a share of 1 / s^2 in its mean. */
static void spread(const float *from, uint32_t w, uint32_t h, uint32_t s, float *to)
{
    const float by = 1.0f / (float)(s * s);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (int c = 0; c < LOSS_CHANNELS; c++)
                to[((size_t)y * w + x) * LOSS_CHANNELS + c] +=
                    by * from[((size_t)(y / s) * (w / s) + x / s) * LOSS_CHANNELS + c];
}

static double energy_of_pair(const struct energy_args *a, uint32_t pair, uint32_t s, double weight)
{
    const size_t each = (size_t)a->w * a->h * LOSS_CHANNELS;
    const size_t px = (size_t)(a->w / s) * (a->h / s);
    const size_t first = 2 * (size_t)pair * each, count = px * LOSS_CHANNELS;
    float *x = a->scratch, *p = x + count, *q = p + count, *dp = q + count, *dq = dp + count;
    shrink(a->x + first, a->w, a->h, s, x);
    shrink(a->pred + first, a->w, a->h, s, p);
    shrink(a->pred + first + each, a->w, a->h, s, q);
    memset(dp, 0, 2 * count * sizeof *dp);
    const double value = 0.5 * distance(a->kind, p, x, px, 0.5 * weight, dp, NULL) +
                         0.5 * distance(a->kind, q, x, px, 0.5 * weight, dq, NULL) -
                         0.5 * distance(a->kind, p, q, px, -0.5 * weight, dp, dq);
    spread(dp, a->w, a->h, s, a->d_pred + first);
    spread(dq, a->w, a->h, s, a->d_pred + first + each);
    return value;
}

size_t cpu_energy_scratch(uint32_t w, uint32_t h)
{
    return (size_t)5 * w * h * LOSS_CHANNELS;
}

enum status cpu_energy_score(struct backend *b, const struct energy_args *a, double *value,
                             struct error *err)
{
    (void)b;
    const uint32_t pairs = a->rows / 2, coarsest = 1u << (ENERGY_SCALES - 1);
    enum status s =
        cpu_expect(pairs > 0 && a->rows % 2 == 0 && a->w % coarsest == 0 && a->h % coarsest == 0,
                   "an energy score of images that do not pair or divide", err);
    if (s) return s;
    double sum = 0;
    for (uint32_t i = 0; i < pairs; i++)
        for (int k = 0; k < ENERGY_SCALES; k++)
            sum += a->weights[k] * energy_of_pair(a, i, 1u << k, a->weight * a->weights[k] / pairs);
    *value = sum / pairs;
    return ST_OK;
}
