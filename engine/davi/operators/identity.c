/* The image itself: a measurement only adds noise. */
#include <string.h>

#include "engine/davi/operators/rows.h"

static enum status rows(const struct operation *a, struct row_source from, struct row_sink to,
                        float *memory, struct error *err)
{
    (void)err;
    for (uint32_t y = 0; y < a->x.h; y++) {
        from.get(from.ctx, y, memory);
        to.put(to.ctx, y, memory);
    }
    return ST_OK;
}

static void copy(const struct operation *a, const float *y, float *x)
{
    memcpy(x, y, (size_t)a->x.w * a->x.h * a->x.c * sizeof *x);
}

static void transpose(const struct operation *a, const float *y, float *x, float *memory)
{
    (void)memory;
    copy(a, y, x);
}

const struct operator_traits identity_operator = {
    .scale = 1,
    .keeps_values = true,
    .on_device = IMAGE_OPERATOR_KEEP,
    .scratch = two_rows,
    .rows = rows,
    .transpose = transpose,
    .pinv = copy,
};
