/* Ops that read an image or an embedding once. */
#include <math.h>

#include "tests/reference/reference.h"

static double silu(double v)
{
    return v / (1.0 + exp(-v));
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c;
}

struct group_moments {
    double mean, rstd;
};

static struct group_moments group_moments(const struct tensor *x, uint32_t n, uint32_t first,
                                          uint32_t width, double eps)
{
    double sum = 0, squares = 0, count = (double)x->h * x->w * width;
    for (uint32_t i = 0; i < x->h * x->w; i++)
        for (uint32_t c = first; c < first + width; c++)
            sum += (double)pixel(x, n, 0, i)[c];
    double mean = sum / count;
    for (uint32_t i = 0; i < x->h * x->w; i++)
        for (uint32_t c = first; c < first + width; c++) {
            double d = (double)pixel(x, n, 0, i)[c] - mean;
            squares += d * d;
        }
    return (struct group_moments){ mean, 1.0 / sqrt(squares / count + eps) };
}

enum status reference_group_norm(struct backend *b, const struct group_norm_args *a,
                                 struct error *err)
{
    (void)b;
    const struct tensor *x = &a->x, *y = &a->y;
    uint32_t c = x->c, width = a->groups ? c / a->groups : 0;
    bool possible = same_shape(x, y) && width > 0 && width * a->groups == c;
    if (!possible)
        return expect(possible, "a group norm whose groups do not divide the channels", err);
    for (uint32_t n = 0; n < x->n; n++) {
        const float *gamma = a->gamma + (size_t)(a->condition ? a->condition[n] : 0) * c;
        const float *beta = a->beta + (size_t)(a->condition ? a->condition[n] : 0) * c;
        const float *ss = a->scale_shift ? pixel(a->scale_shift, n, 0, 0) : NULL;
        struct group_moments m = { 0 };
        for (uint32_t k = 0; k < c; k++) {
            /* Computed before the group's first channel is overwritten (y may be x), and kept for
             * the others. */
            if (k % width == 0) m = group_moments(x, n, k, width, (double)a->eps);
            for (uint32_t i = 0; i < x->h * x->w; i++) {
                double v = ((double)pixel(x, n, 0, i)[k] - m.mean) * m.rstd;
                v = v * (double)gamma[k] + (double)beta[k];
                if (ss) v = v * (1.0 + (double)ss[k]) + (double)ss[c + k];
                pixel(y, n, 0, i)[k] = (float)(a->silu ? silu(v) : v);
            }
        }
    }
    return ST_OK;
}

enum status reference_upsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                               struct error *err)
{
    (void)b;
    enum status s = expect(y->h == 2 * x->h && y->w == 2 * x->w && y->c == x->c && y->n == x->n,
                           "upsampling to another size than twice", err);
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (uint32_t i = 0; i < y->h; i++)
            for (uint32_t j = 0; j < y->w; j++)
                for (uint32_t c = 0; c < y->c; c++)
                    pixel(y, n, i, j)[c] = pixel(x, n, i / 2, j / 2)[c];
    return s;
}

enum status reference_downsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                                 struct error *err)
{
    (void)b;
    enum status s = expect(x->h == 2 * y->h && x->w == 2 * y->w && y->c == x->c && y->n == x->n,
                           "downsampling to another size than half", err);
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (uint32_t i = 0; i < y->h; i++)
            for (uint32_t j = 0; j < y->w; j++)
                for (uint32_t c = 0; c < y->c; c++) {
                    double sum = 0;
                    for (uint32_t k = 0; k < 4; k++)
                        sum += (double)pixel(x, n, 2 * i + k / 2, 2 * j + k % 2)[c];
                    pixel(y, n, i, j)[c] = (float)(sum / 4);
                }
    return s;
}

/* Every value of the image of pixels, and its place in the image of cells. */
static enum status permute(const struct tensor *pixels, const struct tensor *cells, bool to_cells,
                           struct error *err)
{
    const uint32_t p = cells->h ? pixels->h / cells->h : 0, c = pixels->c;
    enum status s = expect(p > 0 && pixels->h == p * cells->h && pixels->w == p * cells->w &&
                               cells->c == p * p * c && pixels->n == cells->n,
                           "cells that do not hold their pixels", err);
    for (uint32_t n = 0; !s && n < pixels->n; n++)
        for (uint32_t y = 0; y < pixels->h; y++)
            for (uint32_t x = 0; x < pixels->w; x++)
                for (uint32_t k = 0; k < c; k++) {
                    float *in_pixel = pixel(pixels, n, y, x) + k;
                    float *in_cell =
                        pixel(cells, n, y / p, x / p) + (y % p * p + x % p) * (size_t)c + k;
                    *(to_cells ? in_cell : in_pixel) = *(to_cells ? in_pixel : in_cell);
                }
    return s;
}

enum status reference_space_to_depth(struct backend *b, const struct tensor *x,
                                     const struct tensor *y, struct error *err)
{
    (void)b;
    return permute(x, y, true, err);
}

enum status reference_depth_to_space(struct backend *b, const struct tensor *x,
                                     const struct tensor *y, struct error *err)
{
    (void)b;
    return permute(y, x, false, err);
}

static void copy_channels(const struct tensor *from, const struct tensor *to, uint32_t first)
{
    for (uint32_t n = 0; n < from->n; n++)
        for (uint32_t i = 0; i < from->h * from->w; i++)
            for (uint32_t c = 0; c < from->c; c++)
                pixel(to, n, 0, i)[first + c] = pixel(from, n, 0, i)[c];
}

enum status reference_concat(struct backend *b, const struct tensor *a, const struct tensor *c,
                             const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(a->h == y->h && a->w == y->w && c->h == y->h && c->w == y->w &&
                               a->c + c->c == y->c && a->n == y->n && c->n == y->n,
                           "a concat of images that do not fit", err);
    if (s) return s;
    copy_channels(a, y, 0);
    copy_channels(c, y, a->c);
    return ST_OK;
}

enum status reference_add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                                  const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, y) && e->n == x->n && e->c == x->c,
                           "a sum of an image and an embedding of different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t i = 0; i < x->h * x->w; i++)
            for (uint32_t c = 0; c < x->c; c++)
                pixel(y, n, 0, i)[c] =
                    (float)((double)pixel(x, n, 0, i)[c] + (double)pixel(e, n, 0, 0)[c]);
    return s;
}

enum status reference_cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                           struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, y) && x->dtype == DT_F32 && y->dtype == DT_F32,
                           "a cast between different shapes", err);
    if (!s) copy_channels(x, y, 0);
    return s;
}

/* The angle is rounded to float32 as in the published code: at t = 999 the difference from exact
 * arithmetic is visible. */
enum status reference_timestep(struct backend *b, const float *t, const struct tensor *y,
                               struct error *err)
{
    (void)b;
    uint32_t half = y->c / 2;
    enum status s = expect(half > 0 && y->c % 2 == 0, "an embedding of odd width", err);
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (uint32_t i = 0; i < half; i++) {
            float frequency = (float)exp(-log(1e4) * i / half);
            float angle = t[n] * frequency;
            pixel(y, n, 0, 0)[i] = (float)cos((double)angle);
            pixel(y, n, 0, 0)[half + i] = (float)sin((double)angle);
        }
    return s;
}

enum status reference_label(struct backend *b, const float *table, const uint32_t *label,
                            const struct tensor *y, struct error *err)
{
    (void)b;
    (void)err;
    for (uint32_t n = 0; n < y->n; n++)
        for (uint32_t c = 0; c < y->c; c++)
            pixel(y, n, 0, 0)[c] = table[(size_t)label[n] * y->c + c];
    return ST_OK;
}

enum status reference_silu(struct backend *b, const struct tensor *x, const struct tensor *y,
                           struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, y), "SiLU between different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t c = 0; c < x->c; c++)
            pixel(y, n, 0, 0)[c] = (float)silu((double)pixel(x, n, 0, 0)[c]);
    return s;
}

enum status reference_add(struct backend *b, const struct tensor *x, const struct tensor *e,
                          const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, y) && same_shape(x, e), "a sum of different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t c = 0; c < x->c; c++)
            pixel(y, n, 0, 0)[c] =
                (float)((double)pixel(x, n, 0, 0)[c] + (double)pixel(e, n, 0, 0)[c]);
    return s;
}
