/* Means of 2 x 2 and 4 x 4 pixels. Pixels beyond the last whole block are not measured. */
#include <string.h>

#include "engine/davi/operators/rows.h"

/* Inlined with a constant `side`. */
static inline void pool_rows(uint32_t side, const struct operation *a, struct row_source from,
                             struct row_sink to, float *memory)
{
    const struct extent x = a->x, y = { x.w / side, x.h / side, x.c };
    const float share = 1.0f / (float)(side * side);
    float *in = memory, *out = memory + (size_t)x.w * x.c;
    for (uint32_t row = 0; row < y.h; row++) {
        memset(out, 0, (size_t)y.w * y.c * sizeof *out);
        for (uint32_t i = 0; i < side; i++) {
            from.get(from.ctx, side * row + i, in);
            for (size_t p = 0; p < (size_t)side * y.w; p++)
                for (size_t c = 0; c < x.c; c++)
                    out[p / side * x.c + c] += in[p * x.c + c];
        }
        for (size_t p = 0; p < (size_t)y.w * y.c; p++)
            out[p] *= share;
        to.put(to.ctx, row, out);
    }
}

static enum status rows2(const struct operation *a, struct row_source from, struct row_sink to,
                         float *memory, struct error *err)
{
    (void)err;
    pool_rows(2, a, from, to, memory);
    return ST_OK;
}

static enum status rows4(const struct operation *a, struct row_source from, struct row_sink to,
                         float *memory, struct error *err)
{
    (void)err;
    pool_rows(4, a, from, to, memory);
    return ST_OK;
}

/* Every pixel of a block gets share * y; pixels beyond the last whole block get 0. */
static void spread(const struct operation *a, const float *y, float *out, float share)
{
    const uint32_t side = operator_of(a->op)->scale;
    const struct extent x = a->x, m = { x.w / side, x.h / side, x.c };
    for (uint32_t row = 0; row < x.h; row++)
        for (uint32_t p = 0; p < x.w; p++)
            for (uint32_t c = 0; c < x.c; c++) {
                bool observed = row / side < m.h && p / side < m.w;
                size_t from = ((size_t)(row / side) * m.w + p / side) * x.c + c;
                out[((size_t)row * x.w + p) * x.c + c] = observed ? share * y[from] : 0;
            }
}

static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    const uint32_t side = operator_of(a->op)->scale;
    (void)memory;
    spread(a, y, x, 1.0f / (float)(side * side));
}

static void pinv(const struct operation *a, const float *y, float *x)
{
    spread(a, y, x, 1);
}

const struct operator_traits pool2_operator = {
    .scale = 2,
    .on_device = IMAGE_OPERATOR_POOL,
    .scratch = two_rows,
    .rows = rows2,
    .transpose = transpose,
    .pinv = pinv,
};

const struct operator_traits pool4_operator = {
    .scale = 4,
    .on_device = IMAGE_OPERATOR_POOL,
    .scratch = two_rows,
    .rows = rows4,
    .transpose = transpose,
    .pinv = pinv,
};
