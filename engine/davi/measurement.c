/* Simulated measurements: y = A x + n on floats, without clipping (engine/README.md section 4). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/restoration.h"
#include "engine/graph/philox.h"
#include "engine/graph/pixels.h"

struct degraded {
    const struct image *img;
    struct extent x;
    float *y; /* [h'][w'][c'] */
    size_t y_row;
};

static void image_row(void *ctx, uint32_t y, float *row)
{
    const struct degraded *d = ctx;
    const struct image *img = d->img;
    for (size_t p = 0; p < d->x.w; p++)
        for (uint32_t c = 0; c < d->x.c; c++) {
            const size_t i = ((size_t)y * img->width + p) * img->channels + c;
            row[p * d->x.c + c] = value_of_level(level_at(img->pixels, img->depth, i), img->depth);
        }
}

static void keep_row(void *ctx, uint32_t y, const float *row)
{
    struct degraded *d = ctx;
    memcpy(d->y + y * d->y_row, row, d->y_row * sizeof *row);
}

static void add_noise(float *y, struct extent m, double sigma, uint64_t seed)
{
    for (uint32_t row = 0; row < m.h; row++)
        for (uint32_t c = 0; c < m.c; c++)
            for (uint32_t x = 0; x < m.w; x += 4) {
                float n[4];
                philox_normals4(n, seed, NOISE_MEASUREMENT, 0, c, x / 4, row);
                for (uint32_t i = 0; i < 4 && x + i < m.w; i++)
                    y[((size_t)row * m.w + x + i) * m.c + c] += (float)sigma * n[i];
            }
}

enum status measurement_make(struct measurement *out, const char *task, double sigma, double level,
                             uint64_t seed, const struct image *img, const struct image *mask,
                             struct error *err)
{
    const struct task_desc *t = task_find(task);
    if (!t) return error_set(err, ST_UNKNOWN_TASK, "there is no task \"%.32s\"", task);
    const struct operator_traits *op = operator_of(t->op);
    const uint32_t most = op->most_side ? op->most_side : RESTORE_MAX_SIDE;
    if (sigma < 0) sigma = t->sigma;
    if (level == 0) level = t->level;
    if (!isfinite(sigma) || sigma > 10)
        return error_set(err, ST_BAD_PARAMETER, "sigma = %g is not in 0..10", sigma);
    if (img->width < RESTORE_MIN_SIDE || img->height < RESTORE_MIN_SIDE)
        return error_set(err, ST_TOO_FEW_PX, "the image is %u x %u px; at least %d x %d are needed",
                         img->width, img->height, RESTORE_MIN_SIDE, RESTORE_MIN_SIDE);
    if (img->width > most || img->height > most)
        return error_set(err, ST_TOO_MANY_PX, "the image is %u x %u px; a side has at most %u px",
                         img->width, img->height, most);
    enum status s = task_check_level(t, level, err);
    if (!s && mask) s = task_check_mask(t->name, err);
    if (s) return s;

    struct degraded d = { .img = img, .x = { img->width, img->height, img->channels < 3 ? 1 : 3 } };
    struct extent m = operator_extent(t->op, d.x);
    d.y_row = (size_t)m.w * m.c;
    uint8_t *observed_mask = NULL;
    float *scratch = malloc(operator_scratch_floats(t->op, d.x) * sizeof *scratch);
    d.y = malloc(d.y_row * m.h * sizeof *d.y);
    if (op->needs_mask) observed_mask = malloc((size_t)img->width * img->height);
    if (!d.y || !scratch || (op->needs_mask && !observed_mask)) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a measurement of %u x %u px", m.w, m.h);
        goto done;
    }
    if (observed_mask) {
        s = hole_read(observed_mask, img, mask, t->name, err);
        if (s) goto done;
    }
    const struct operation a = {
        .op = t->op, .level = level, .x = d.x, .observed_mask = observed_mask
    };
    s = operator_rows(&a, (struct row_source){ image_row, &d }, (struct row_sink){ keep_row, &d },
                      scratch, err);
    if (s) goto done;
    add_noise(d.y, m, sigma, seed);
    *out = (struct measurement){ .y = d.y, .width = m.w, .height = m.h, .channels = m.c };
    d.y = NULL;
done:
    free(d.y);
    free(observed_mask);
    free(scratch);
    return s;
}

void measurement_done(struct measurement *m)
{
    free(m->y);
    memset(m, 0, sizeof *m);
}

enum status measurement_image(const struct measurement *m, struct image *out, struct error *err)
{
    struct image img = { 0 };
    enum status s = image_init(&img, m->width, m->height, m->channels, 8, err);
    if (s) return s;
    const size_t n = (size_t)m->width * m->height * m->channels;
    for (size_t i = 0; i < n; i++)
        level_put(img.pixels, 8, i, level_of_value(m->y[i], 8));
    *out = img;
    return ST_OK;
}
