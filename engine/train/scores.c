#include "engine/train/scores.h"

#include <math.h>
#include <string.h>

enum { COLORS = 3 };

double regression_loss(const struct answers *a, enum regression kind, double weight, float *d_pred)
{
    const size_t count = (size_t)a->rows * a->w * a->h * COLORS;
    const float each = (float)(weight / (double)count);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        const float off = a->pred[i] - a->x[i];
        sum += kind == REGRESSION_L2 ? (double)off * (double)off : (double)fabsf(off);
        d_pred[i] += each * (kind == REGRESSION_L2 ? 2 * off : (float)((off > 0) - (off < 0)));
    }
    return sum / (double)count;
}

/* ---- the energy score ---- */

/* to: [h / s][w / s][3], means over s x s. */
static void shrink(const float *from, uint32_t w, uint32_t h, uint32_t s, float *to)
{
    const uint32_t sw = w / s;
    memset(to, 0, (size_t)sw * (h / s) * COLORS * sizeof *to);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (int c = 0; c < COLORS; c++)
                to[((size_t)(y / s) * sw + x / s) * COLORS + c] +=
                    from[((size_t)y * w + x) * COLORS + c];
    const float by = 1.0f / (float)(s * s);
    for (size_t i = 0; i < (size_t)sw * (h / s) * COLORS; i++)
        to[i] *= by;
}

/* d(a, b) over px pixels; da += by times its gradient by a, and db -= the same where db is given. */
static double distance(enum distance kind, const float *a, const float *b, size_t px, double by,
                       float *da, float *db)
{
    const double n = (double)px * (kind == DISTANCE_L1 ? COLORS : 1);
    double sum = 0;
    for (size_t p = 0; p < px; p++) {
        float off[COLORS], squares = 0;
        for (int c = 0; c < COLORS; c++) {
            off[c] = a[p * COLORS + c] - b[p * COLORS + c];
            squares += off[c] * off[c];
        }
        const float norm = sqrtf(squares);
        for (int c = 0; c < COLORS; c++) {
            /* At a difference of 0 both have a kink; 0 is one of its slopes. */
            float slope = (float)((off[c] > 0) - (off[c] < 0));
            if (kind == DISTANCE_NORM) slope = norm > 0 ? off[c] / norm : 0;
            slope *= (float)(by / n);
            da[p * COLORS + c] += slope;
            if (db) db[p * COLORS + c] -= slope;
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
            for (int c = 0; c < COLORS; c++)
                to[((size_t)y * w + x) * COLORS + c] +=
                    by * from[((size_t)(y / s) * (w / s) + x / s) * COLORS + c];
}

size_t energy_scratch(uint32_t w, uint32_t h)
{
    return (size_t)5 * w * h * COLORS;
}

static double energy_of_pair(const struct answers *a, uint32_t pair, enum distance kind, uint32_t s,
                             double weight, float *d_pred, float *scratch)
{
    const size_t each = (size_t)a->w * a->h * COLORS, px = (size_t)(a->w / s) * (a->h / s);
    const size_t first = 2 * (size_t)pair * each, count = px * COLORS;
    float *x = scratch, *p = x + count, *q = p + count, *dp = q + count, *dq = dp + count;
    shrink(a->x + first, a->w, a->h, s, x);
    shrink(a->pred + first, a->w, a->h, s, p);
    shrink(a->pred + first + each, a->w, a->h, s, q);
    memset(dp, 0, 2 * count * sizeof *dp);
    const double value = 0.5 * distance(kind, p, x, px, 0.5 * weight, dp, NULL) +
                         0.5 * distance(kind, q, x, px, 0.5 * weight, dq, NULL) -
                         0.5 * distance(kind, p, q, px, -0.5 * weight, dp, dq);
    spread(dp, a->w, a->h, s, d_pred + first);
    spread(dq, a->w, a->h, s, d_pred + first + each);
    return value;
}

double energy_loss(const struct answers *a, enum distance kind, const double weights[ENERGY_SCALES],
                   double weight, float *d_pred, float *scratch)
{
    const uint32_t pairs = a->rows / 2;
    double sum = 0;
    for (uint32_t i = 0; i < pairs; i++)
        for (int k = 0; k < ENERGY_SCALES; k++)
            sum += weights[k] * energy_of_pair(a, i, kind, 1u << k, weight * weights[k] / pairs,
                                               d_pred, scratch);
    return sum / pairs;
}
