/* Gray of colours. An image of one channel stays as it is. */
#include "engine/davi/operators/rows.h"
#include "engine/graph/pixels.h"

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
            out[p] = x.c < 3 ? v[0] : gray_of(v);
        }
        to.put(to.ctx, y, out);
    }
    return ST_OK;
}

static void ungray(struct extent x, const float *y, float *out, float scale)
{
    for (size_t p = 0; p < (size_t)x.w * x.h; p++)
        for (size_t c = 0; c < x.c; c++)
            out[p * x.c + c] = x.c < 3 ? y[p] : y[p] * scale * gray_weights[c % 3];
}

static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    (void)memory;
    ungray(a->x, y, x, 1);
}

static void pinv(const struct operation *a, const float *y, float *x)
{
    ungray(a->x, y, x, 1 / gray_of(gray_weights));
}

const struct operator_traits gray_operator = {
    .scale = 1,
    .is_gray = true,
    .on_device = IMAGE_OPERATOR_GRAY,
    .scratch = two_rows,
    .rows = rows,
    .transpose = transpose,
    .pinv = pinv,
};
