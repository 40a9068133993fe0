#include "proto/images/formats.h"

#include <stdlib.h>
#include <string.h>

bool byte_sink_reserve(struct byte_sink *sink, size_t more)
{
    if (more <= sink->cap - sink->len) return true;
    size_t need = add_saturated(sink->len, more);
    size_t cap = sink->cap < 4096 ? 4096 : mul_saturated(sink->cap, 2);
    if (cap < need) cap = need;
    void *grown = realloc(sink->data, cap);
    if (!grown) return false;
    sink->data = grown;
    sink->cap = cap;
    return true;
}

bool byte_sink_put(struct byte_sink *sink, const void *bytes, size_t len)
{
    if (!byte_sink_reserve(sink, len)) return false;
    memcpy(sink->data + sink->len, bytes, len);
    sink->len += len;
    return true;
}

size_t mul_saturated(size_t a, size_t b)
{
    size_t r;
    return __builtin_mul_overflow(a, b, &r) ? SIZE_MAX : r;
}

size_t add_saturated(size_t a, size_t b)
{
    size_t r;
    return __builtin_add_overflow(a, b, &r) ? SIZE_MAX : r;
}

struct turn {
    uint8_t *to;      /* destination of the strip's first pixel */
    ptrdiff_t dx, dy; /* bytes in `to` between horizontal and vertical neighbours of `from` */
    const uint8_t *from;
    size_t stride; /* bytes between rows of `from` */
    uint32_t width, rows;
    bool columns_first; /* the image is written along the columns of the strip */
};

/* `px` is a constant in every caller, so that memcpy compiles to one or two moves. */
static inline __attribute__((always_inline)) void turn_strip(const struct turn *t, size_t px)
{
    if (t->columns_first) {
        for (uint32_t x = 0; x < t->width; x++) {
            uint8_t *to = t->to + (ptrdiff_t)x * t->dx;
            const uint8_t *from = t->from + (size_t)x * px;
            for (uint32_t y = 0; y < t->rows; y++) {
                memcpy(to + (ptrdiff_t)y * t->dy, from + y * t->stride, px);
            }
        }
        return;
    }
    for (uint32_t y = 0; y < t->rows; y++) {
        uint8_t *to = t->to + (ptrdiff_t)y * t->dy;
        const uint8_t *from = t->from + y * t->stride;
        if (t->dx == (ptrdiff_t)px) {
            memcpy(to, from, (size_t)t->width * px);
            continue;
        }
        for (uint32_t x = 0; x < t->width; x++) {
            memcpy(to + (ptrdiff_t)x * t->dx, from + (size_t)x * px, px);
        }
    }
}

/* The displayed position of the stored pixel (x, y) of a w x h image, by orientation: 1 (x, y), 2
 * (w-1-x, y), 3 (w-1-x, h-1-y), 4 (x, h-1-y), 5 (y, x), 6 (h-1-y, x), 7 (h-1-y, w-1-x), 8 (y,
 * w-1-x). */
void orient_rows(struct image *img, unsigned orientation, const void *rows, size_t stride_bytes,
                 uint32_t y0, uint32_t n)
{
    bool swaps = orientation_swaps(orientation);
    uint32_t w = swaps ? img->height : img->width;
    uint32_t h = swaps ? img->width : img->height;
    bool x_falls = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool y_falls = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    ptrdiff_t px = (ptrdiff_t)img->channels * (img->depth / 8);
    ptrdiff_t row = (ptrdiff_t)img->width * px;
    ptrdiff_t dx = swaps ? row : px;
    ptrdiff_t dy = swaps ? px : row;
    ptrdiff_t first =
        (x_falls ? (ptrdiff_t)(w - 1) * dx : 0) + (ptrdiff_t)(y_falls ? h - 1 - y0 : y0) * dy;
    struct turn t = { .to = (uint8_t *)img->pixels + first,
                      .dx = x_falls ? -dx : dx,
                      .dy = y_falls ? -dy : dy,
                      .from = rows,
                      .stride = stride_bytes,
                      .width = w,
                      .rows = n,
                      .columns_first = swaps };
    switch (px) {
    case 1: turn_strip(&t, 1); break;
    case 2: turn_strip(&t, 2); break;
    case 3: turn_strip(&t, 3); break;
    case 4: turn_strip(&t, 4); break;
    case 6: turn_strip(&t, 6); break;
    default: turn_strip(&t, 8); break;
    }
}
