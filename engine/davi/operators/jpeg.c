/* The image rounded to 8 bits, encoded and decoded by libjpeg; its level is the quality. Not
 * linear: it has no transpose and no inverse. */
#include <math.h>

#include "engine/davi/operators/rows.h"
#include "engine/graph/pixels.h"
#include "proto/images/jpeg_rows.h"

struct trip {
    struct row_source from;
    struct row_sink to;
    float *row; /* one in or out */
    size_t n;   /* floats of it */
};

static void get(void *ctx, uint32_t y, uint8_t *levels)
{
    struct trip *t = ctx;
    t->from.get(t->from.ctx, y, t->row);
    for (size_t i = 0; i < t->n; i++)
        levels[i] = (uint8_t)level_of_value((double)t->row[i], 8);
}

static void put(void *ctx, uint32_t y, const uint8_t *levels)
{
    struct trip *t = ctx;
    for (size_t i = 0; i < t->n; i++)
        t->row[i] = value_of_level(levels[i], 8);
    t->to.put(t->to.ctx, y, t->row);
}

static enum status rows(const struct operation *a, struct row_source from, struct row_sink to,
                        float *scratch, struct error *err)
{
    struct trip t = { .from = from, .to = to, .row = scratch, .n = (size_t)a->x.w * a->x.c };
    const struct jpeg_rows j = { .width = a->x.w,
                                 .height = a->x.h,
                                 .channels = a->x.c,
                                 .quality = (int)lrint(a->level),
                                 .get = get,
                                 .put = put,
                                 .ctx = &t };
    return jpeg_rows_run(&j, err);
}

static size_t working_bytes(struct extent x)
{
    return jpeg_rows_bytes(x.w, x.c);
}

static double level_of(const struct image *img)
{
    return img->jpeg_quality;
}

const struct operator_traits jpeg_operator = {
    .scale = 1,
    .cell = 16,
    .level = "quality",
    .level_least = 1,
    .level_most = 100,
    .level_of = level_of,
    .most_side = JPEG_ROWS_MAX_SIDE,
    .scratch = two_rows,
    .working_bytes = working_bytes,
    .rows = rows,
};
