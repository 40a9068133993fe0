/* A and its adjoint of the linear tasks (engine/README.md section 4), value by value in double. */
#include "tests/reference/losses.h"

/* Value (row, column, channel) of an image [h][w][3], 0 beyond its edges. */
static double value_at(const struct rows_operator *a, const float *x, int64_t row, int64_t column,
                       uint32_t c)
{
    if (row < 0 || column < 0 || row >= a->h || column >= a->w) return 0;
    return (double)x[((size_t)row * a->w + (size_t)column) * LOSS_CHANNELS + c];
}

static double blurred(const struct rows_operator *a, const float *taps, const float *x,
                      uint32_t row, uint32_t column, uint32_t c)
{
    double sum = 0;
    for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
        for (int k = -BLUR_REACH; k <= BLUR_REACH; k++)
            sum += (double)taps[i + BLUR_REACH] * (double)taps[k + BLUR_REACH] *
                   value_at(a, x, (int64_t)row + i, (int64_t)column + k, c);
    return sum;
}

static double block_mean(const struct rows_operator *a, const float *x, uint32_t row,
                         uint32_t column, uint32_t c)
{
    const uint32_t s = a->scale;
    double sum = 0;
    for (uint32_t i = 0; i < s * s; i++)
        sum += value_at(a, x, (int64_t)row * s + i / s, (int64_t)column * s + i % s, c);
    return sum / (s * s);
}

static const double gray_of[LOSS_CHANNELS] = { 0.3333, 0.3334, 0.3333 };

/* A value of A x where A is symmetric: a blur, a mask, the identity. */
static double symmetric(const struct rows_operator *a, uint32_t n, const float *x, uint32_t row,
                        uint32_t column, uint32_t c)
{
    const size_t at = ((size_t)n * a->h + row) * a->w + column;
    if (a->taps) return blurred(a, a->taps + (size_t)n * BLUR_TAPS, x, row, column, c);
    if (a->observed_mask && !a->observed_mask[at]) return 0;
    return value_at(a, x, row, column, c);
}

enum status reference_operate(struct backend *b, const struct rows_operator *a, const float *x,
                              float *y, struct error *err)
{
    (void)b;
    (void)err;
    const uint32_t s = a->scale;
    for (uint32_t n = 0; n < a->rows; n++) {
        const float *image = x + (size_t)n * a->h * a->w * LOSS_CHANNELS;
        for (uint32_t row = 0; row < a->h / s; row++)
            for (uint32_t column = 0; column < a->w / s; column++) {
                double gray = 0;
                for (uint32_t c = 0; c < LOSS_CHANNELS; c++) {
                    const double v = s > 1 ? block_mean(a, image, row, column, c)
                                           : symmetric(a, n, image, row, column, c);
                    gray += gray_of[c] * v;
                    if (!a->is_gray) *y++ = (float)v;
                }
                if (a->is_gray) *y++ = (float)gray;
            }
    }
    return ST_OK;
}

static double spread(const struct rows_operator *a, const float *y, uint32_t row, uint32_t column,
                     uint32_t c)
{
    const uint32_t s = a->scale, h = a->h / s, w = a->w / s;
    if (row / s >= h || column / s >= w) return 0;
    return (double)y[((size_t)(row / s) * w + column / s) * LOSS_CHANNELS + c] / (s * s);
}

enum status reference_adjoint(struct backend *b, const struct rows_operator *a, const float *y,
                              float *x, struct error *err)
{
    (void)b;
    (void)err;
    const uint32_t s = a->scale;
    const size_t each = (size_t)(a->h / s) * (a->w / s) * (a->is_gray ? 1 : 3);
    for (uint32_t n = 0; n < a->rows; n++, y += each)
        for (uint32_t row = 0; row < a->h; row++)
            for (uint32_t column = 0; column < a->w; column++)
                for (uint32_t c = 0; c < LOSS_CHANNELS; c++)
                    *x++ =
                        (float)(s > 1        ? spread(a, y, row, column, c)
                                : a->is_gray ? gray_of[c] * (double)y[(size_t)row * a->w + column]
                                             : symmetric(a, n, y, row, column, c));
    return ST_OK;
}
