/* The image ops over host memory: plain loops, one thread a call.
 *
 * They are compiled once and not per instruction set: the network takes the time, and the bytes
 * must be those of every processor. `operate` is missing: on the host engine/davi/operators applies
 * A row by row, so that no float image is held. */
#include <math.h>
#include <string.h>

#include "engine/graph/backend/images.h"
#include "engine/graph/philox.h"
#include "engine/graph/pixels.h"

static const double acc_unit = 1.0 / (double)((int64_t)1 << (VALUE_BITS + 2 * BLEND_BITS));
static const double fold_unit = 1.0 / (double)(1 << FOLD_BITS);

static enum status clear(struct backend *b, void *p, size_t bytes, struct error *err)
{
    (void)b;
    (void)err;
    memset(p, 0, bytes);
    return ST_OK;
}

/* ---- the measurement at a pixel ---- */

#define VALUES_4(i)                                                                                \
    (float)((i) / 127.5 - 1), (float)(((i) + 1) / 127.5 - 1), (float)(((i) + 2) / 127.5 - 1),      \
        (float)(((i) + 3) / 127.5 - 1)
#define VALUES_16(i) VALUES_4(i), VALUES_4((i) + 4), VALUES_4((i) + 8), VALUES_4((i) + 12)
#define VALUES_64(i) VALUES_16(i), VALUES_16((i) + 16), VALUES_16((i) + 32), VALUES_16((i) + 48)

/* value_of_level() of every level of 8 bits: a division for each sample would take longer. */
static const float values_of_8_bits[256] = { VALUES_64(0), VALUES_64(64), VALUES_64(128),
                                             VALUES_64(192) };

static inline float value_at(const struct observed *m, size_t i)
{
    if (m->depth == 32) return ((const float *)m->pixels)[i];
    if (m->depth == 16) return value_of_level(((const uint16_t *)m->pixels)[i], 16);
    return values_of_8_bits[((const uint8_t *)m->pixels)[i]];
}

/* v: [y_channels] */
static inline void observed_at(const struct observed *m, uint32_t x, uint32_t y, float *v)
{
    const size_t at = ((size_t)y * m->w + x) * m->channels;
    float rgb[3] = { 0 };
    const uint32_t colors = m->channels < 3 ? 1 : 3;
    for (uint32_t c = 0; c < colors; c++)
        rgb[c] = value_at(m, at + c);
    if (colors == 3 && m->y_channels == 1) rgb[0] = gray_of(rgb);
    for (uint32_t c = 0; c < m->y_channels; c++)
        v[c] = rgb[c];
}

/* ---- extracting ---- */

/* Normals of the hole for one row of the image, four pixels at a time. */
struct hole_noise {
    uint32_t x4, y;
    bool is_set;
    float n[3][4];
};

static void noise_at(const struct observed *m, struct hole_noise *h, uint32_t x, uint32_t y,
                     float *v)
{
    if (!h->is_set || h->x4 != x / 4 || h->y != y) {
        *h = (struct hole_noise){ .x4 = x / 4, .y = y, .is_set = true };
        for (uint32_t c = 0; c < m->y_channels; c++)
            philox_normals4(h->n[c], m->seed, NOISE_HOLE, 0, c, x / 4, y);
    }
    for (uint32_t c = 0; c < m->y_channels; c++)
        v[c] = m->sigma * h->n[c][x % 4];
}

static inline float between(float a, float b, float w)
{
    return (1 - w) * a + w * b;
}

static inline void enlarged_at(const struct observed *m, uint32_t x, uint32_t y, float *v)
{
    uint32_t xs[2], ys[2];
    float wx, wy, corner[2][2][3];
    resize_at(m->scale, x, m->w, &xs[0], &xs[1], &wx);
    resize_at(m->scale, y, m->h, &ys[0], &ys[1], &wy);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            observed_at(m, xs[j], ys[i], corner[i][j]);
    for (uint32_t c = 0; c < m->y_channels; c++)
        v[c] = between(between(corner[0][0][c], corner[0][1][c], wx),
                       between(corner[1][0][c], corner[1][1][c], wx), wy);
}

/* The network's input at one pixel of the restored image, in y_channels. */
static inline void input_at(const struct observed *m, struct hole_noise *h, uint32_t x, uint32_t y,
                            float *v)
{
    if (m->scale > 1) enlarged_at(m, x, y, v);
    /* A simulated measurement has noise in the hole; a user's image has nothing there. */
    else if (m->observed_mask && m->depth != 32 && !m->observed_mask[(size_t)y * m->w + x])
        noise_at(m, h, x, y, v);
    else
        observed_at(m, x, y, v);
}

/* The pixel of the image, n px long, at position `at` of the image with its margin. */
static inline uint32_t mirrored(uint32_t at, uint32_t margin, uint32_t n)
{
    return reflect(at < margin ? margin - at : at - margin, n);
}

static enum status extract(struct backend *b, const struct extract_args *a, struct error *err)
{
    const struct observed m = a->m;
    struct hole_noise h = { 0 };
    (void)b;
    (void)err;
    for (uint32_t ty = 0; ty < a->tile; ty++) {
        const uint32_t y = mirrored(a->y0 + ty, a->margin, a->out_h);
        for (uint32_t tx = 0; tx < a->tile; tx++) {
            float v[3] = { 0 }, *dst = a->y_in + ((size_t)ty * a->tile + tx) * 3;
            input_at(&m, &h, mirrored(a->x0 + tx, a->margin, a->out_w), y, v);
            for (uint32_t c = 0; c < 3; c++)
                dst[c] = v[m.y_channels == 3 ? c : 0];
        }
    }
    return ST_OK;
}

/* ---- blending ---- */

static enum status find_bad(struct backend *b, const float *x, uint32_t n, size_t count,
                            uint32_t *bad, struct error *err)
{
    (void)b;
    (void)err;
    for (uint32_t row = 0; row < n; row++) {
        size_t i = 0;
        while (i < count && isfinite(x[row * count + i]))
            i++;
        bad[row] = i < count;
    }
    return ST_OK;
}

static inline int64_t fixed(float v)
{
    const float in = v < -1  ? -1
                     : v > 1 ? 1
                             : v; /* the range of tanh; a bound on every sum below */
    return llrint((double)in * (1 << VALUE_BITS));
}

static enum status blend(struct backend *b, const struct blend_args *a, struct error *err)
{
    (void)b;
    (void)err;
    if (a->bad && *a->bad) return ST_OK;
    for (uint32_t y = 0; y < a->h; y++) {
        int64_t *dst = a->acc + ((size_t)(a->at_y + y) * a->out_w + a->at_x) * a->out_c;
        const float *v = a->x0 + (size_t)y * a->tile * 3;
        for (uint32_t x = 0; x < a->w; x++, v += 3, dst += a->out_c) {
            const int64_t weight = (int64_t)a->wy[y] * a->wx[x];
            if (a->out_c == 3) {
                for (uint32_t c = 0; c < 3; c++)
                    dst[c] += weight * fixed(v[c]);
            } else { /* a gray image: the mean of the channels, in integers */
                const int64_t sum = fixed(v[0]) + fixed(v[1]) + fixed(v[2]);
                *dst += weight * (sum / 3);
            }
        }
    }
    return ST_OK;
}

/* ---- over samples ---- */

static enum status accumulate(struct backend *b, int64_t *acc, int64_t *sum, int64_t *sum2,
                              size_t count, struct error *err)
{
    const int drop = VALUE_BITS + 2 * BLEND_BITS - FOLD_BITS;
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++) {
        const int64_t v = (acc[i] + ((int64_t)1 << (drop - 1))) >> drop;
        sum[i] += v;
        if (sum2) sum2[i] += v * v;
        acc[i] = 0;
    }
    return ST_OK;
}

static inline double mean_at(const struct finished *f, size_t i)
{
    return f->sum ? (double)f->sum[i] * fold_unit / f->samples : (double)f->acc[i] * acc_unit;
}

static enum status mean(struct backend *b, const struct finished *f, float *x, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < f->count; i++)
        x[i] = (float)mean_at(f, i);
    return ST_OK;
}

static enum status round_levels(struct backend *b, const struct finished *f, uint32_t depth,
                                void *pixels, struct error *err)
{
    (void)b;
    (void)err;
    const struct finished local = *f; /* pixels of 8 bits could alias *f, not this */
    for (size_t i = 0; i < local.count; i++)
        level_put(pixels, depth, i, level_of_value(mean_at(&local, i), depth));
    return ST_OK;
}

__extension__ typedef __int128 wide;

/* The difference of the two large terms is taken in integers, where nothing cancels. */
static double deviation_at(const struct finished *f, size_t i)
{
    const double n = f->samples;
    const wide spread = (wide)f->sum2[i] * f->samples - (wide)f->sum[i] * f->sum[i];
    return sqrt((double)spread / (n * (n - 1))) * fold_unit;
}

static enum status largest_deviation(struct backend *b, const struct finished *f, double *largest,
                                     struct error *err)
{
    (void)b;
    (void)err;
    *largest = 0;
    for (size_t i = 0; i < f->count; i++)
        *largest = fmax(*largest, deviation_at(f, i));
    return ST_OK;
}

static enum status deviation(struct backend *b, const struct finished *f, const double *largest,
                             uint8_t *pixels, struct error *err)
{
    const double white = *largest > 0 ? *largest : 1;
    (void)b;
    (void)err;
    for (size_t i = 0; i < f->count; i++)
        pixels[i] = (uint8_t)lrint(fmin(255, 255 * deviation_at(f, i) / white));
    return ST_OK;
}

/* ---- the residual ---- */

static size_t residual_scratch(size_t px)
{
    (void)px;
    return 0;
}

static enum status residual(struct backend *b, const struct residual_args *a, struct error *err)
{
    const struct observed m = a->m;
    const uint32_t channels = m.y_channels;
    const float *ax = a->ax;
    double sum = a->out[0], count = a->out[1];
    (void)b;
    (void)err;
    for (uint32_t y = 0; y < m.h; y++)
        for (uint32_t x = 0; x < m.w; x++, ax += channels) {
            float v[3];
            if (m.observed_mask && !m.observed_mask[(size_t)y * m.w + x]) continue;
            observed_at(&m, x, y, v);
            for (uint32_t c = 0; c < channels; c++) {
                const double d = (double)ax[c] - v[c];
                sum += d * d;
                count++;
            }
        }
    a->out[0] = sum;
    a->out[1] = count;
    return ST_OK;
}

const struct image_ops cpu_images = {
    .clear = clear,
    .extract = extract,
    .find_bad = find_bad,
    .blend = blend,
    .accumulate = accumulate,
    .mean = mean,
    .round = round_levels,
    .largest_deviation = largest_deviation,
    .deviation = deviation,
    .residual_scratch = residual_scratch,
    .residual = residual,
};
