/* Gray of colours. A image that is gray already is taken as it is. */
#include "engine/davi/operators/rows.h"

static const float gray_of[3] = { 0.3333f, 0.3334f, 0.3333f };

static enum status rows(const struct operation *a, struct row_source from, struct row_sink to,
                        float *memory, struct error *err)
{
    (void)err;
    const struct extent x = a->x;
    float *in = memory, *out = memory + (size_t)x.w * x.c;
    for (uint32_t y = 0; y < x.h; y++) {
        from.get(from.ctx, y, in);
        for (size_t p = 0; p < x.w; p++) {
            const float *v = in + p * x.c;
            out[p] = x.c < 3 ? v[0] : gray_of[0] * v[0] + gray_of[1] * v[1] + gray_of[2] * v[2];
        }
        to.put(to.ctx, y, out);
    }
    return ST_OK;
}

static void ungray(struct extent x, const float *y, float *out, float scale)
{
    for (size_t p = 0; p < (size_t)x.w * x.h; p++)
        for (size_t c = 0; c < x.c; c++)
            out[p * x.c + c] = x.c < 3 ? y[p] : y[p] * scale * gray_of[c % 3];
}

static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    (void)memory;
    ungray(a->x, y, x, 1);
}

static void pinv(const struct operation *a, const float *y, float *x)
{
    const float norm2 = gray_of[0] * gray_of[0] + gray_of[1] * gray_of[1] + gray_of[2] * gray_of[2];
    ungray(a->x, y, x, 1 / norm2);
}

const struct operator_traits gray_operator = {
    .scale = 1,
    .is_gray = true,
    .scratch = two_rows,
    .rows = rows,
    .transpose = transpose,
    .pinv = pinv,
};
