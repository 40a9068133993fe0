#include "engine/train/rows.h"

#include <stdlib.h>
#include <string.h>

#include "engine/train/davi.h"

enum {
    MARGIN = 16
}; /* px: the largest cell, and 4 deviations of the widest blur that is trained */
static const double chance_of_side = 0.125; /* that a side has no margin */

enum status row_scratch_init(struct row_scratch *s, uint32_t side, const struct drawn_task *tasks,
                             uint32_t n_tasks, struct error *err)
{
    const uint32_t large = side + 2 * MARGIN;
    const struct extent x = { large, large, 3 };
    const size_t count = (size_t)large * large * 3;
    size_t most = 1;
    for (uint32_t i = 0; i < n_tasks; i++) {
        const size_t n = operator_scratch_floats(tasks[i].task->op, x);
        if (n > most) most = n;
    }
    *s = (struct row_scratch){ .memory = malloc((3 * count + most) * sizeof(float)) };
    if (!s->memory) return error_set(err, ST_NO_MEMORY_NOW, "no memory for rows of %u px", side);
    s->large = s->memory;
    s->blurred = s->large + count;
    s->operate = s->blurred + 2 * count;
    return ST_OK;
}

void row_scratch_done(struct row_scratch *s)
{
    free(s->memory);
    *s = (struct row_scratch){ 0 };
}

/* to: [h][w][3] from (x, y) of an image `stride` px wide. */
static void cut(const float *from, uint32_t stride, uint32_t x, uint32_t y, uint32_t w, uint32_t h,
                float *to)
{
    for (uint32_t i = 0; i < h; i++)
        memcpy(to + (size_t)i * w * 3, from + ((size_t)(y + i) * stride + x) * 3,
               (size_t)w * 3 * sizeof *to);
}

/* MARGIN, or for an operator with cells less by a random part of one, so that x begins anywhere in
 * a cell. */
static uint32_t margin_of(const struct operator_traits *op, struct rng *rng)
{
    return op->cell ? MARGIN - rng_below(rng, op->cell) : MARGIN;
}

/* x, and y of A applied to x with its margins. */
static enum status measure_with_surroundings(struct dataset *d, const struct crop_options *c,
                                             struct operation *a, uint64_t step, uint32_t row,
                                             struct row_scratch *s, const struct row_out *out,
                                             struct error *err)
{
    const uint32_t side = c->side, large = side + 2 * MARGIN;
    struct crop_options more = *c;
    struct rng rng = rng_of(c->seed, step, DRAW_MASK, row);
    uint32_t margin[4]; /* left, right, above, below */
    more.side = large;
    enum status status = crop_draw(d, &more, step, row, s->large, err);
    if (status) return status;
    for (int i = 0; i < 4; i++)
        margin[i] = rng_uniform(&rng) < chance_of_side ? 0 : margin_of(operator_of(a->op), &rng);
    a->x.w = side + margin[0] + margin[1];
    a->x.h = side + margin[2] + margin[3];
    float *part = s->blurred + (size_t)large * large * 3;
    cut(s->large, large, MARGIN, MARGIN, side, side, out->x);
    cut(s->large, large, MARGIN - margin[0], MARGIN - margin[2], a->x.w, a->x.h, part);
    status = operator_apply(a, part, s->blurred, s->operate, err);
    if (!status) cut(s->blurred, a->x.w, margin[0], margin[2], side, side, out->y);
    return status;
}

enum status row_draw(struct dataset *d, const struct crop_options *c, const struct drawn_task *task,
                     double sigma, double level, bool surroundings, uint64_t step, uint32_t row,
                     struct row_scratch *s, const struct row_out *out, struct error *err)
{
    const struct operator_traits *op = operator_of(task->task->op);
    const size_t px = (size_t)c->side * c->side;
    struct operation a = { .op = task->task->op, .level = level, .x = { c->side, c->side, 3 } };
    enum status status;
    memset(out->observed_mask, 1, px);
    if ((op->taps || op->cell) && surroundings) {
        status = measure_with_surroundings(d, c, &a, step, row, s, out, err);
        if (!status) draw_add_normals(c->seed, step, DRAW_MEASUREMENT, row, out->y, 3 * px, sigma);
    } else {
        status = crop_draw(d, c, step, row, out->x, err);
        if (!status && op->needs_mask) {
            mask_draw(c, step, row, out->observed_mask);
            a.observed_mask = out->observed_mask;
        }
        if (!status) status = measure(c, &a, sigma, step, row, out->x, out->y, s->operate, err);
    }
    if (!status) bridge_input(task->task->op, c->side, out->y, out->y_in);
    return status;
}
