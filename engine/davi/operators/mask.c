/* The pixels that the mask keeps; 0 in the hole. */
#include "engine/davi/operators/rows.h"

static enum status rows(const struct operation *a, struct row_source from, struct row_sink to,
                        float *memory, struct error *err)
{
    (void)err;
    const struct extent x = a->x;
    for (uint32_t y = 0; y < x.h; y++) {
        const uint8_t *observed_mask = a->observed_mask + (size_t)y * x.w;
        from.get(from.ctx, y, memory);
        for (size_t p = 0; p < x.w; p++)
            for (size_t c = 0; c < x.c; c++)
                if (!observed_mask[p]) memory[p * x.c + c] = 0;
        to.put(to.ctx, y, memory);
    }
    return ST_OK;
}

static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    (void)operator_apply(a, y, x, memory, NULL);
}

static void pinv(const struct operation *a, const float *y, float *x)
{
    const size_t n = (size_t)a->x.w * a->x.h * a->x.c;
    for (size_t i = 0; i < n; i++)
        x[i] = a->observed_mask[i / a->x.c] ? y[i] : 0;
}

const struct operator_traits mask_operator = {
    .scale = 1,
    .needs_mask = true,
    .keeps_values = true,
    .on_device = IMAGE_OPERATOR_MASK,
    .scratch = two_rows,
    .rows = rows,
    .transpose = transpose,
    .pinv = pinv,
};
