#include "engine/cpu/bf16_shape.h"

enum {
    CACHED_WEIGHT_BYTES = 768 << 10,
    /* at this size it shares two megabytes of L2 with the weights */
    TILE_BUFFER_BYTES = 1000 << 10,
    FLOWING_WEIGHT_BYTES = 1300 << 10,
    WHOLE_TILE_BUFFER_BYTES = 1300 << 10,
    LINEAR_ROWS = 512
};

static uint32_t round_up(uint32_t n, uint32_t to)
{
    return (n + to - 1) / to * to;
}

struct bf16_shape bf16_shape_of(const struct conv_desc *d, int threads)
{
    struct bf16_shape s = { 0 };
    uint32_t oh = (d->h + d->stride - 1) / d->stride, ow = (d->w + d->stride - 1) / d->stride;
    uint32_t all = d->kernel * d->kernel * d->ic;
    s.unrolled = d->stride != 1 || (d->kernel == 3 && d->ic < BF16_DEPTH);
    s.padded = d->kernel == 3 && !s.unrolled;
    s.raw = d->kernel == 1 && !s.unrolled && !d->prologue.norm && d->ic % BF16_DEPTH == 0 &&
            (size_t)oh * ow % BF16_PIXELS == 0;
    s.taps = s.padded ? 9 : 1;
    s.k = round_up(s.unrolled ? all : d->ic, BF16_DEPTH);
    s.panels = round_up(d->oc, BF16_PANEL) / BF16_PANEL;
    s.oh = s.padded ? oh : oh * ow;
    s.ow = s.padded ? ow : 1;
    s.width = s.padded ? ow + 2 : 1;
    s.exact = s.padded && ow % BF16_PIXELS == 0;
    /* The odd cache line spreads the pixels over the cache's sets. */
    s.pitch = s.raw ? d->x_ld : s.k + BF16_DEPTH;
    s.weight_elements = (size_t)s.panels * s.taps * s.k * BF16_PANEL;

    size_t weights = s.weight_elements * sizeof(uint16_t), halo = s.padded ? 2 : 0;
    size_t row = (size_t)s.width * s.pitch * sizeof(uint16_t);
    size_t whole = (s.oh + halo) * row;
    s.panels_outside = weights > CACHED_WEIGHT_BYTES;
    s.whole = whole <= WHOLE_TILE_BUFFER_BYTES && whole < weights;
    s.flowing = s.exact && !s.whole && weights <= FLOWING_WEIGHT_BYTES;
    if (s.whole) {
        s.rows = s.oh;
    } else if (s.flowing) {
        s.rows = 1;
    } else if (!s.padded) {
        s.rows = LINEAR_ROWS;
    } else {
        s.rows = (s.oh + (uint32_t)threads - 1) / (uint32_t)threads;
        while (s.rows > 1 && (s.rows + halo) * row > TILE_BUFFER_BYTES)
            s.rows--;
    }
    s.blocks = (s.oh + s.rows - 1) / s.rows;
    /* The last tile of a block may reach a tile's width beyond its last pixel. */
    if (s.flowing)
        s.tile_buffer_elements = 4 * s.width * s.pitch;
    else if (!s.raw)
        s.tile_buffer_elements = ((s.rows + halo) * s.width + BF16_PIXELS + halo) * s.pitch;
    return s;
}

void bf16_pack(const struct bf16_shape *s, const struct conv_desc *d, const float *weight,
               uint16_t *to)
{
    size_t taps = (size_t)d->kernel * d->kernel, depth = s->k / BF16_DEPTH;
    for (size_t o = 0; o < d->oc; o++)
        for (size_t i = 0; i < d->ic; i++)
            for (size_t t = 0; t < taps; t++) {
                size_t k = s->unrolled ? t * d->ic + i : i, tap = s->unrolled ? 0 : t;
                size_t panel = o / BF16_PANEL, half = o % BF16_PANEL / BF16_CHANNELS;
                size_t tile = ((panel * depth + k / BF16_DEPTH) * s->taps + tap) * 2 + half;
                size_t at = k % BF16_DEPTH / 2 * BF16_CHANNELS * 2 + o % BF16_CHANNELS * 2 + k % 2;
                to[tile * BF16_TILE + at] = bf16_of_f32(weight[(o * d->ic + i) * taps + t]);
            }
}
