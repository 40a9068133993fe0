/* What is computed from the accumulators after the last row: the residual, the scale of the
 * deviation, and the images to return. A device has computed them already and copied them back. */
#include <math.h>
#include <string.h>

#include "engine/davi/restoration.h"
#include "engine/davi/restoration_device.h"
#include "engine/graph/pixels.h"

/* ---- residual ---- */

/* A x of the restored image against the measurement, row by row. */
struct comparison {
    const struct restoration *r;
    struct observed m; /* all of it */
    double out[2];     /* sum of squares, number of entries */
};

static void restored_row(void *ctx, uint32_t y, float *row)
{
    const struct restoration *r = ((const struct comparison *)ctx)->r;
    const size_t n = (size_t)r->shape.out.w * r->shape.out.c;
    struct finished f = restoration_finished(r);
    f.acc += y * n;
    if (f.sum) f.sum += y * n;
    if (f.sum2) f.sum2 += y * n;
    f.count = n;
    (void)r->ops->mean(r->backend, &f, row, NULL);
}

static void compare_row(void *ctx, uint32_t y, const float *row)
{
    struct comparison *c = ctx;
    struct residual_args a = { .ax = row, .m = c->m, .out = c->out };
    a.m.h = 1;
    a.m.pixels = (const char *)c->m.pixels + (size_t)y * c->m.w * c->m.channels * (c->m.depth / 8);
    if (a.m.observed_mask) a.m.observed_mask += (size_t)y * c->m.w;
    (void)c->r->ops->residual(c->r->backend, &a, NULL);
}

static enum status find_residual(double *rms, const struct restoration *r)
{
    struct comparison c = { .r = r };
    enum status status = ST_OK;
    if (restoration_is_on_device(r)) {
        c.out[0] = restoration_returned_number(r, RESIDUAL_SUM);
        c.out[1] = restoration_returned_number(r, RESIDUAL_COUNT);
    } else {
        const struct operation a = { .op = r->s.task->op,
                                     .level = r->s.level,
                                     .x = r->shape.out,
                                     .observed_mask = r->observed_mask };
        c.m = restoration_observed(r);
        status = operator_rows(&a, (struct row_source){ restored_row, &c },
                               (struct row_sink){ compare_row, &c }, r->scratch, NULL);
    }
    if (!status) *rms = c.out[1] > 0 ? sqrt(c.out[0] / c.out[1]) : 0;
    return status;
}

static double deviation_scale(const struct restoration *r)
{
    const struct finished f = restoration_finished(r);
    double largest = 0;
    if (r->sum2 && restoration_is_on_device(r))
        largest = restoration_returned_number(r, STD_LARGEST);
    else if (r->sum2)
        (void)r->ops->largest_deviation(r->backend, &f, &largest, NULL);
    return largest > 0 ? largest : 1;
}

const struct restoration_result *restoration_facts(struct restoration *r)
{
    pthread_mutex_lock(&r->lock);
    if (!r->has_result) {
        double rms = NAN;
        if (!r->failure) r->failure = find_residual(&rms, r);
        r->result =
            (struct restoration_result){ .width = r->shape.out.w,
                                         .height = r->shape.out.h,
                                         .h = r->s.h,
                                         .sigma = r->s.sigma,
                                         .level = r->s.level,
                                         .residual_rms = rms,
                                         .std_scale = r->failure ? NAN : deviation_scale(r) };
        r->has_result = true;
    }
    pthread_mutex_unlock(&r->lock);
    return &r->result;
}

/* ---- images ---- */

static uint32_t alpha_at(const struct image *img, uint32_t x, uint32_t y)
{
    return level_at(img->pixels, img->depth, ((size_t)y * img->width + x + 1) * img->channels - 1);
}

/* In double: a level of 16 bits must come out as it went in. */
static double between(double a, double b, double w)
{
    return (1 - w) * a + w * b;
}

/* Alpha at a pixel of the restored image: as it was, or enlarged like the network's input. */
static uint32_t alpha_of(const struct restoration *r, uint32_t x, uint32_t y)
{
    const struct image *img = r->s.img;
    if (r->op->scale == 1) return alpha_at(img, x, y);
    uint32_t xs[2], ys[2];
    float wx, wy;
    resize_at(r->op->scale, x, img->width, &xs[0], &xs[1], &wx);
    resize_at(r->op->scale, y, img->height, &ys[0], &ys[1], &wy);
    const double top =
        between(alpha_at(img, xs[0], ys[0]), alpha_at(img, xs[1], ys[0]), (double)wx);
    const double bottom =
        between(alpha_at(img, xs[0], ys[1]), alpha_at(img, xs[1], ys[1]), (double)wx);
    return (uint32_t)lrint(between(top, bottom, (double)wy));
}

/* Pixels of colours alone are at the beginning of img's memory: moves them apart and adds alpha.
 * From the last pixel to the first, since a pixel's destination lies behind its source. */
static void add_alpha(const struct restoration *r, struct image *img)
{
    const uint32_t colors = r->shape.out.c, depth = img->depth;
    size_t p = (size_t)img->width * img->height;
    for (uint32_t y = img->height; y-- > 0;)
        for (uint32_t x = img->width; x-- > 0;) {
            p--;
            for (uint32_t c = colors; c-- > 0;)
                level_put(img->pixels, depth, p * (colors + 1) + c,
                          level_at(img->pixels, depth, p * colors + c));
            level_put(img->pixels, depth, p * (colors + 1) + colors, alpha_of(r, x, y));
        }
}

/* Pixels of `depth` bits without alpha: of a kept sample, or of the mean (the only sample). */
static void fill_colors(const struct restoration *r, bool is_kept, uint32_t sample, void *pixels)
{
    const struct finished f = restoration_finished(r);
    const size_t bytes = restoration_values(r) * (r->shape.depth / 8);
    if (restoration_is_on_device(r))
        memcpy(pixels,
               is_kept ? restoration_returned_sample(r, sample) : restoration_returned_mean(r),
               bytes);
    else if (is_kept)
        memcpy(pixels, r->kept + sample * bytes, bytes);
    else
        (void)r->ops->round(r->backend, &f, r->shape.depth, pixels, NULL);
}

static void fill_std(const struct restoration *r, double scale, uint8_t *pixels)
{
    const struct finished f = restoration_finished(r);
    if (restoration_is_on_device(r))
        memcpy(pixels, restoration_returned_std(r), f.count);
    else
        (void)r->ops->deviation(r->backend, &f, &scale, pixels, NULL);
}

static bool offers(const struct restoration *r, enum output_kind kind, uint32_t sample)
{
    switch (kind) {
    case OUTPUT_IMAGE: return sample < r->s.samples && (!r->sum || r->kept);
    case OUTPUT_MEAN: return true;
    case OUTPUT_STD: return r->sum2 != NULL;
    default: return false;
    }
}

enum status restoration_image(struct restoration *r, enum output_kind kind, uint32_t sample,
                              struct image *out, struct error *err)
{
    if (r->failure) return error_set(err, r->failure, "a part of the image could not be restored");
    if (!restoration_is_done(r))
        return error_set(err, ST_INTERNAL, "the restoration has rows that are not back yet");
    if (!offers(r, kind, sample))
        return error_set(err, ST_BAD_PARAMETER,
                         "this restoration of %u samples has no such output (sample %u)",
                         r->s.samples, sample);
    const bool is_std = kind == OUTPUT_STD, has_alpha = r->shape.has_alpha && !is_std;
    struct image img = { 0 };
    enum status s = image_init(&img, r->shape.out.w, r->shape.out.h, r->shape.out.c + has_alpha,
                               is_std ? 8 : r->shape.depth, err);
    if (s) return s;
    if (is_std)
        fill_std(r, restoration_facts(r)->std_scale, img.pixels);
    else
        fill_colors(r, kind == OUTPUT_IMAGE && r->kept, sample, img.pixels);
    if (has_alpha) add_alpha(r, &img);
    *out = img;
    return ST_OK;
}
