/* A separable Gaussian blur with zeros beyond the edge; its level is the deviation in px. */
#include <math.h>
#include <string.h>

#include "engine/davi/operators/rows.h"

static void fill_taps(double std, float *taps)
{
    double sum = 0;
    for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
        sum += exp(-0.5 * i * i / (std * std));
    for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
        taps[i + BLUR_REACH] = (float)(exp(-0.5 * i * i / (std * std)) / sum);
}

/* A ring of rows that are blurred along x, one row with its zero margins, one row out. */
static size_t scratch(struct extent x)
{
    return (BLUR_TAPS + 2) * (size_t)x.w * x.c + (size_t)2 * BLUR_REACH * x.c;
}

static void along_row(float *restrict out, const float *restrict in, size_t n, size_t c,
                      const float *k)
{
    const float *mid = in + BLUR_REACH * c; /* in has BLUR_REACH zero pixels at either end */
    for (size_t i = 0; i < n; i++)
        out[i] = k[BLUR_REACH] * mid[i];
    for (size_t j = 1; j <= BLUR_REACH; j++) {
        const float *a = mid - j * c, *b = mid + j * c;
        float w = k[BLUR_REACH + j];
        for (size_t i = 0; i < n; i++)
            out[i] += w * (a[i] + b[i]);
    }
}

static void add_scaled(float *restrict out, const float *restrict in, float w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] += w * in[i];
}

static enum status rows(const struct operation *a, struct row_source from, struct row_sink to,
                        float *memory, struct error *err)
{
    (void)err;
    const struct extent x = a->x;
    const size_t n = (size_t)x.w * x.c, margin = (size_t)BLUR_REACH * x.c;
    float k[BLUR_TAPS], *ring = memory, *padded = ring + BLUR_TAPS * n,
                        *out = padded + n + 2 * margin;
    fill_taps(a->level, k);
    memset(padded, 0, (n + 2 * margin) * sizeof *padded);
    uint32_t read = 0;
    for (uint32_t y = 0; y < x.h; y++) {
        for (; read < x.h && read <= y + BLUR_REACH; read++) {
            from.get(from.ctx, read, padded + margin);
            along_row(ring + (read % BLUR_TAPS) * n, padded, n, x.c, k);
        }
        uint32_t first = y < BLUR_REACH ? 0 : y - BLUR_REACH;
        memset(out, 0, n * sizeof *out);
        for (uint32_t s = first; s < read; s++)
            add_scaled(out, ring + (s % BLUR_TAPS) * n, k[BLUR_REACH + s - y], n);
        to.put(to.ctx, y, out);
    }
    return ST_OK;
}

/* A symmetric kernel with a zero boundary is a symmetric matrix. */
static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    (void)operator_apply(a, y, x, memory, NULL);
}

/* No pseudo-inverse: singular values are smaller than any rounding. */
const struct operator_traits blur_operator = {
    .scale = 1,
    .level = "standard deviation in px",
    .level_least = 0.5,
    .level_most = BLUR_REACH / 4.0, /* the taps end four deviations away */
    .on_device = IMAGE_OPERATOR_TAPS,
    .taps = fill_taps,
    .scratch = scratch,
    .rows = rows,
    .transpose = transpose,
};
