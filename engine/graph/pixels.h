/* pixels.h - arithmetic of single pixels: levels and values, gray, enlarging, reflection.
 *
 * The CPU's image ops, the measurement operators, simulated measurements and training share this
 * code, so their bytes agree. A level is a sample of 8 or 16 bits (`depth`), a value is its float
 * in [-1,1]. Pure functions; any thread. */
#ifndef DAVID_GRAPH_PIXELS_H
#define DAVID_GRAPH_PIXELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* ---- levels ---- */

/* Sample i of pixels of `depth` bits. */
static inline uint32_t level_at(const void *pixels, uint32_t depth, size_t i)
{
    return depth == 16 ? ((const uint16_t *)pixels)[i] : ((const uint8_t *)pixels)[i];
}

static inline void level_put(void *pixels, uint32_t depth, size_t i, uint32_t level)
{
    if (depth == 16)
        ((uint16_t *)pixels)[i] = (uint16_t)level;
    else
        ((uint8_t *)pixels)[i] = (uint8_t)level;
}

static inline float value_of_level(uint32_t level, uint32_t depth)
{
    return (float)(level / (depth == 16 ? 32767.5 : 127.5) - 1);
}

/* The nearest level; a value outside [-1,1] is clamped. */
static inline uint32_t level_of_value(double value, uint32_t depth)
{
    const double half = depth == 16 ? 32767.5 : 127.5, level = (value + 1) * half;
    return (uint32_t)lrint(level < 0 ? 0 : level > 2 * half ? 2 * half : level);
}

/* ---- gray ---- */

static const float gray_weights[3] = { 0.3333f, 0.3334f, 0.3333f };

/* rgb: [3] */
static inline float gray_of(const float *rgb)
{
    return gray_weights[0] * rgb[0] + gray_weights[1] * rgb[1] + gray_weights[2] * rgb[2];
}

/* ---- bilinear enlarging: half-pixel centres, clamped edges ---- */

/* Output pixel `at` of a line of n pixels reads *i0 and *i1, with weight *w1 on the second. */
static inline void resize_at(uint32_t scale, uint32_t at, uint32_t n, uint32_t *i0, uint32_t *i1,
                             float *w1)
{
    /* (at + 0.5) / scale - 0.5 in parts of 2 scale: exact in integers */
    const int64_t whole = (int64_t)2 * scale;
    int64_t parts = 2 * (int64_t)at + 1 - scale;
    if (parts < 0) parts = 0;
    const uint32_t low = (uint32_t)(parts / whole);
    *i0 = low < n ? low : n - 1;
    *i1 = low + 1 < n ? low + 1 : n - 1;
    *w1 = (float)(parts % whole) / (float)whole;
}

/* ---- reflection ---- */

/* The pixel in [0, n) at position `at` when a line of n pixels is continued by reflection, as
 * often as needed. */
static inline uint32_t reflect(uint32_t at, uint32_t n)
{
    if (at < n) return at;
    if (n == 1) return 0;
    const uint32_t period = 2 * (n - 1), r = at % period;
    return r < n ? r : period - r;
}

#endif
