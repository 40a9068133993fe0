#include "engine/train/crops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TRIES = 8, MOST_PHOTOS = 10000 };
static const double least_chance = 0.1;

struct square {
    uint32_t x, y, side;
};

/* A random square of the photo, accepted with a probability that grows with its texture; the last
 * try is always accepted. */
static struct square find_square(const struct photo *p, const struct crop_options *o,
                                 struct rng *rng)
{
    struct square s = { 0, 0, o->side };
    const uint32_t least = p->width < p->height ? p->width : p->height;
    for (int i = 0; i < MOST_TRIES; i++) {
        double side = o->side * (1 + rng_uniform(rng) * (o->jitter - 1));
        s.side = (uint32_t)side < least ? (uint32_t)side : least;
        s.x = rng_below(rng, p->width - s.side + 1);
        s.y = rng_below(rng, p->height - s.side + 1);
        double chance = o->texture > 0 ? photo_texture(p, s.x, s.y, s.side) / o->texture : 1;
        if (rng_uniform(rng) < fmax(chance, least_chance)) break;
    }
    return s;
}

/* Each output pixel is the mean of the photo over the box that it covers; a photo pixel at the edge
 * of the box has the weight of the covered part. */
static void shrink(const struct photo *p, const struct square *s, uint32_t side, float *x)
{
    const double step = (double)s->side / side;
    for (uint32_t oy = 0; oy < side; oy++)
        for (uint32_t ox = 0; ox < side; ox++) {
            double y0 = oy * step, y1 = y0 + step, x0 = ox * step, x1 = x0 + step;
            double sum[3] = { 0 }, weight = 0;
            for (uint32_t iy = (uint32_t)y0; iy < s->side && iy < y1; iy++)
                for (uint32_t ix = (uint32_t)x0; ix < s->side && ix < x1; ix++) {
                    double w =
                        (fmin(iy + 1, y1) - fmax(iy, y0)) * (fmin(ix + 1, x1) - fmax(ix, x0));
                    const uint8_t *from = p->rgb + ((size_t)(s->y + iy) * p->width + s->x + ix) * 3;
                    for (int c = 0; c < 3; c++)
                        sum[c] += w * from[c];
                    weight += w;
                }
            for (int c = 0; c < 3; c++)
                x[((size_t)oy * side + ox) * 3 + c] = (float)(sum[c] / weight / 127.5 - 1);
        }
}

/* One of the eight symmetries of a square: bit 0 flips y, bit 1 flips x, bit 2 transposes. */
static void orient(const float *from, float *to, uint32_t side, uint32_t symmetry)
{
    for (uint32_t y = 0; y < side; y++)
        for (uint32_t x = 0; x < side; x++) {
            uint32_t sy = symmetry & 1 ? side - 1 - y : y, sx = symmetry & 2 ? side - 1 - x : x;
            size_t at = symmetry & 4 ? (size_t)sx * side + sy : (size_t)sy * side + sx;
            memcpy(to + ((size_t)y * side + x) * 3, from + at * 3, 3 * sizeof *to);
        }
}

enum status crop_draw(struct dataset *d, const struct crop_options *o, uint64_t step, uint32_t row,
                      float *x, struct error *err)
{
    struct rng rng = rng_of(o->seed, step, DRAW_CROP, row);
    const struct photo *p = NULL;
    for (int i = 0; !p && i < MOST_PHOTOS; i++) {
        enum status s = dataset_take(d, rng_below(&rng, dataset_count(d)), &p, err);
        if (s) return s;
    }
    if (!p)
        return error_set(err, ST_BAD_FILE, "%u of the %u training images cannot be used",
                         dataset_unusable(d), dataset_count(d));
    const size_t floats = (size_t)o->side * o->side * 3;
    const struct square s = find_square(p, o, &rng);
    float *straight = malloc(floats * sizeof *straight);
    if (straight) {
        shrink(p, &s, o->side, straight);
        orient(straight, x, o->side, rng_below(&rng, 8));
    }
    dataset_return(d, p);
    free(straight);
    return straight ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for a crop");
}

/* ---- holes ---- */

static void box(uint8_t *observed_mask, uint32_t side, struct rng *rng)
{
    uint32_t w = 1 + (uint32_t)(side * (0.1 + 0.4 * rng_uniform(rng)));
    uint32_t h = 1 + (uint32_t)(side * (0.1 + 0.4 * rng_uniform(rng)));
    if (w > side) w = side;
    if (h > side) h = side;
    uint32_t x = rng_below(rng, side - w + 1), y = rng_below(rng, side - h + 1);
    for (uint32_t i = y; i < y + h; i++)
        memset(observed_mask + (size_t)i * side + x, 0, w);
}

/* Discs along a path whose direction changes by up to half a radian at each step. */
static void stroke(uint8_t *observed_mask, uint32_t side, struct rng *rng)
{
    double x = side * rng_uniform(rng), y = side * rng_uniform(rng);
    double angle = 6.283185307179586 * rng_uniform(rng),
           radius = side * (0.02 + 0.06 * rng_uniform(rng));
    uint32_t steps = 4 + rng_below(rng, 12);
    for (uint32_t i = 0; i < steps; i++) {
        for (uint32_t py = 0; py < side; py++)
            for (uint32_t px = 0; px < side; px++) {
                double dx = px + 0.5 - x, dy = py + 0.5 - y;
                if (dx * dx + dy * dy <= radius * radius) observed_mask[(size_t)py * side + px] = 0;
            }
        angle += rng_uniform(rng) - 0.5;
        x += radius * cos(angle);
        y += radius * sin(angle);
    }
}

void mask_draw(const struct crop_options *o, uint64_t step, uint32_t row, uint8_t *observed_mask)
{
    struct rng rng = rng_of(o->seed, step, DRAW_MASK, row);
    memset(observed_mask, 1, (size_t)o->side * o->side);
    uint32_t pieces = 1 + rng_below(&rng, 3);
    bool boxes = rng_uniform(&rng) < 0.5;
    for (uint32_t i = 0; i < pieces; i++) {
        if (boxes)
            box(observed_mask, o->side, &rng);
        else
            stroke(observed_mask, o->side, &rng);
    }
}

enum status measure(const struct crop_options *o, const struct operation *a, double sigma,
                    uint64_t step, uint32_t row, const float *x, float *y, float *scratch,
                    struct error *err)
{
    const struct extent m = operator_extent(a->op, a->x);
    enum status s = operator_apply(a, x, y, scratch, err);
    if (!s)
        draw_add_normals(o->seed, step, DRAW_MEASUREMENT, row, y, (size_t)m.w * m.h * m.c, sigma);
    return s;
}
