/* Gradient of a convolution's weights on the tile registers. For each tap it is a matrix product
 * over the pixels: x has channels as rows and pixels along them, dy has pairs of pixels
 * interleaved. All threads together pack a wave of bands of feature maps; then blocks of 32 by 32
 * channels are summed over the wave, tap by tap, and added to the weights. As in
 * backward_weights.c, x has a border and one plane per phase of a stride, and dy is zero where a
 * plane has its border, so that a tap is an offset. */
#include <immintrin.h>
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/tile_registers.h"

enum {
    LINE = 32,            /* pixels summed by one instruction; 64 bytes */
    PART = 16,            /* channels of a tile */
    BLOCK = 2 * PART,     /* channels of a block of weights, in both directions */
    BAND = 2048,          /* pixels of a band */
    GROUP = 4096,         /* pixels of the bands that one tap covers before the next tap starts */
    WAVE_BYTES = 8 << 20, /* bytes of packed feature maps */
    NOWHERE = -1
};

/* How a convolution is partitioned. Rows and pixels are those of dy. */
struct partition {
    size_t ow, oh, reach, width; /* reach: rows and columns of a plane beyond those of dy */
    size_t rows, bands;          /* rows of a band; bands of a feature map */
    size_t pixels;               /* of a band of dy, in whole lines */
    size_t pitch;                /* pixels between two channels of x */
    size_t planes, taps;
    size_t x_parts, dy_parts;   /* in units of PART channels */
    size_t x_band, dy_band;     /* elements of a band */
    size_t wave;                /* in bands */
    size_t x_blocks, dy_blocks; /* in units of BLOCK channels */
};

static size_t round_to(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct partition partition_of(const struct trained_conv_desc *d)
{
    struct partition c = { .planes = (size_t)d->stride * d->stride,
                           .taps = (size_t)d->kernel * d->kernel,
                           .reach = (d->kernel - 1) / d->stride };
    size_t border = 2 * (size_t)(d->kernel / 2);
    c.oh = (d->h + border - d->kernel) / d->stride + 1;
    c.ow = (d->w + border - d->kernel) / d->stride + 1;
    c.width = c.ow + c.reach;
    size_t most = c.width < BAND ? BAND / c.width : 1;
    c.bands = (c.oh + most - 1) / most;
    c.rows = (c.oh + c.bands - 1) / c.bands;
    c.bands = (c.oh + c.rows - 1) / c.rows;
    c.pixels = round_to(c.rows * c.width, LINE);
    /* An odd number of lines spreads the channels over the cache's sets. */
    c.pitch = round_to(c.pixels + c.reach * c.width + c.reach, LINE);
    if (c.pitch / LINE % 2 == 0) c.pitch += LINE;
    c.x_parts = (d->ic + PART - 1) / PART;
    c.dy_parts = (d->oc + PART - 1) / PART;
    c.x_band = c.planes * c.x_parts * PART * c.pitch;
    c.dy_band = c.dy_parts * PART * c.pixels;
    c.wave = WAVE_BYTES / ((c.x_band + c.dy_band) * sizeof(uint16_t));
    if (c.wave < 1) c.wave = 1;
    c.x_blocks = (c.x_parts + 1) / 2;
    c.dy_blocks = (c.dy_parts + 1) / 2;
    return c;
}

/* Sums of one block, [channel of x][tap][channel of dy], with padding that the last transposition
 * may read. */
static size_t sums_floats(const struct partition *c)
{
    return (BLOCK * c->taps + PART) * BLOCK;
}

/* Parts into which a block's sum is split: more than one where there are fewer blocks than
 * threads. */
static size_t splits_of(const struct partition *c, int threads)
{
    size_t blocks = c->x_blocks * c->dy_blocks, wanted = 2 * (size_t)threads;
    size_t splits = blocks < wanted ? (wanted + blocks - 1) / blocks : 1;
    return splits < c->wave ? splits : c->wave;
}

struct memory {
    uint16_t *x, *dy; /* [wave]: one entry per band */
    float *bias;      /* [wave][dy_parts][PART] */
    float *sums;      /* [blocks][splits], or [threads] where no block is split */
    int32_t *places;  /* [threads][pitch] */
};

/* Size of each part of the scratch, in floats. */
struct memory_need {
    size_t x, dy, bias, sums, places;
};

static struct memory_need memory_need_of(const struct partition *c, int threads)
{
    size_t splits = splits_of(c, threads), blocks = c->x_blocks * c->dy_blocks;
    return (struct memory_need){
        .x = round_to(c->wave * c->x_band / 2, PART),
        .dy = round_to(c->wave * c->dy_band / 2, PART),
        .bias = c->wave * c->dy_parts * PART,
        .sums = sums_floats(c) * (splits > 1 ? blocks * splits : (size_t)threads),
        .places = c->pitch * (size_t)threads,
    };
}

static struct memory lay_out(const struct partition *c, int threads, float *at)
{
    const struct memory_need r = memory_need_of(c, threads);
    return (struct memory){ .x = (void *)at,
                            .dy = (void *)(at + r.x),
                            .bias = at + r.x + r.dy,
                            .sums = at + r.x + r.dy + r.bias,
                            .places = (void *)(at + r.x + r.dy + r.bias + r.sums) };
}

size_t ISA_FN(weights_amx_scratch)(const struct trained_conv_desc *d, int threads)
{
    const struct partition c = partition_of(d);
    const struct memory_need r = memory_need_of(&c, threads);
    return r.x + r.dy + r.bias + r.sums + r.places;
}

/* ---- packing ---- */

/* Transposes 16 by 16 numbers. */
INLINE void transpose16(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

INLINE __mmask16 lanes(size_t n)
{
    return n >= 16 ? (__mmask16)-1 : (__mmask16)((1u << n) - 1);
}

INLINE __m512i pixel_or_zero(const uint16_t *x, int32_t place, size_t ld, __mmask16 m)
{
    if (place == NOWHERE) return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x + (size_t)place * ld));
}

/* The channels of two pixels, interleaved. */
INLINE __m512i pair(const uint16_t *x, const int32_t *places, size_t ld, __mmask16 m)
{
    __m512i second = _mm512_slli_epi32(pixel_or_zero(x, places[1], ld, m), 16);
    return _mm512_or_si512(pixel_or_zero(x, places[0], ld, m), second);
}

/* Finds the offsets of a plane's pixels in the feature map. */
static void find_places(const struct weights_job *j, const struct partition *c, int32_t *places,
                        size_t y0, size_t plane)
{
    const struct trained_conv_desc *d = j->d;
    int64_t s = d->stride, pad = d->kernel / 2;
    size_t q = 0;
    for (size_t row = y0; row < y0 + c->rows + c->reach && q < c->pitch; row++) {
        int64_t y = (int64_t)row * s + (int64_t)plane / s - pad;
        bool inside = y >= 0 && y < d->h;
        for (size_t col = 0; col < c->width && q < c->pitch; col++) {
            int64_t x = (int64_t)col * s + (int64_t)plane % s - pad;
            places[q++] = inside && x >= 0 && x < d->w ? (int32_t)(y * d->w + x) : NOWHERE;
        }
    }
    while (q < c->pitch)
        places[q++] = NOWHERE;
}

static void pack_x(const struct weights_job *j, const struct partition *c, uint16_t *to,
                   int32_t *places, size_t n, size_t y0)
{
    const struct trained_conv_desc *d = j->d;
    const uint16_t *image = (const uint16_t *)j->x + n * d->h * d->w * d->x_ld;
    for (size_t plane = 0; plane < c->planes; plane++) {
        find_places(j, c, places, y0, plane);
        for (size_t part = 0; part < c->x_parts; part++, to += PART * c->pitch) {
            const uint16_t *from = image + part * PART;
            const __mmask16 m = lanes(d->ic - part * PART);
            for (size_t q = 0; q < c->pitch; q += LINE) {
                __m512i r[16];
                for (size_t i = 0; i < 16; i++)
                    r[i] = pair(from, places + q + 2 * i, d->x_ld, m);
                transpose16(r);
                for (size_t i = 0; i < 16; i++)
                    _mm512_storeu_si512(to + i * c->pitch + q, r[i]);
            }
        }
    }
}

static void pack_dy(const struct weights_job *j, const struct partition *c, uint16_t *to,
                    float *bias, int32_t *places, size_t n, size_t y0)
{
    const struct trained_conv_desc *d = j->d;
    const uint16_t *image = (const uint16_t *)j->dy + n * c->oh * c->ow * d->dy_ld;
    for (size_t q = 0; q < c->pixels; q++) {
        size_t y = y0 + q / c->width, x = q % c->width;
        bool inside = q / c->width < c->rows && y < c->oh && x < c->ow;
        places[q] = inside ? (int32_t)(y * c->ow + x) : NOWHERE;
    }
    for (size_t part = 0; part < c->dy_parts; part++, bias += PART) {
        const __mmask16 m = lanes(d->oc - part * PART);
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (size_t q = 0; q < c->pixels; q += 2, to += 2 * PART) {
            __m512i two = pair(image + part * PART, places + q, d->dy_ld, m);
            even = _mm512_add_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(two, 16)));
            odd = _mm512_add_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(
                                         two, _mm512_set1_epi32((int)0xffff0000u))));
            _mm512_storeu_si512(to, two);
        }
        _mm512_storeu_ps(bias, _mm512_add_ps(even, odd));
    }
}

/* ---- multiplying ---- */

/* The registers: 0-3 sums, 4-5 x, 6-7 dy. */

/* The tiles of a block: one or two in each direction. */
struct tiles {
    const uint16_t *x, *dy; /* of the first band of the wave */
    size_t x_step, dy_step; /* bytes between the rows of a tile */
    size_t x_next, dy_next; /* elements to the second tile */
    bool two_x, two_dy;
};

/* Adds one band's lines to the sums. */
INLINE void add_lines(const struct tiles *t, const uint16_t *x, const uint16_t *dy, size_t lines,
                      bool two_x, bool two_dy)
{
    for (size_t i = 0; i < lines; i++, x += LINE, dy += PART * LINE) {
        _tile_loadd(4, x, t->x_step);
        _tile_loadd(6, dy, t->dy_step);
        _tile_dpbf16ps(0, 4, 6);
        if (two_dy) {
            _tile_loadd(7, dy + t->dy_next, t->dy_step);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two_x) {
            _tile_loadd(5, x + t->x_next, t->x_step);
            _tile_dpbf16ps(2, 5, 6);
            if (two_dy) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

INLINE void load_sums(const float *sums, size_t step, size_t next, bool two_x, bool two_dy)
{
    _tile_loadd(0, sums, step);
    if (two_dy) _tile_loadd(1, sums + PART, step);
    if (two_x) _tile_loadd(2, sums + next, step);
    if (two_x && two_dy) _tile_loadd(3, sums + next + PART, step);
}

INLINE void store_sums(float *sums, size_t step, size_t next, bool two_x, bool two_dy)
{
    _tile_stored(0, sums, step);
    if (two_dy) _tile_stored(1, sums + PART, step);
    if (two_x) _tile_stored(2, sums + next, step);
    if (two_x && two_dy) _tile_stored(3, sums + next + PART, step);
}

INLINE void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Sums the bands from .. to of the wave, group by group, and tap by tap within a group. */
INLINE void sum_bands(const struct partition *c, const struct trained_conv_desc *d,
                      const struct tiles *t, size_t from, size_t to, float *sums, bool two_x,
                      bool two_dy)
{
    size_t group = GROUP / c->pixels ? GROUP / c->pixels : 1;
    size_t step = c->taps * BLOCK * sizeof *sums, next = PART * c->taps * BLOCK;
    for (size_t first = from; first < to; first += group) {
        size_t end = first + group < to ? first + group : to;
        for (uint32_t tap = 0; tap < c->taps; tap++) {
            uint32_t ky = tap / d->kernel, kx = tap % d->kernel, s = d->stride;
            size_t at =
                (ky % s * s + kx % s) * c->x_parts * PART * c->pitch + ky / s * c->width + kx / s;
            float *into = sums + tap * BLOCK;
            if (first == from)
                zero_sums();
            else
                load_sums(into, step, next, two_x, two_dy);
            for (size_t band = first; band < end; band++)
                add_lines(t, t->x + band * c->x_band + at, t->dy + band * c->dy_band,
                          c->pixels / LINE, two_x, two_dy);
            store_sums(into, step, next, two_x, two_dy);
        }
    }
}

static void sum_block(const struct partition *c, const struct trained_conv_desc *d,
                      const struct memory *m, size_t x_block, size_t dy_block, size_t from,
                      size_t to, float *sums)
{
    const struct tiles t = { .x = m->x + x_block * BLOCK * c->pitch,
                             .dy = m->dy + dy_block * BLOCK * c->pixels,
                             .x_step = c->pitch * sizeof *m->x,
                             .dy_step = 2 * PART * sizeof *m->dy,
                             .x_next = PART * c->pitch,
                             .dy_next = PART * c->pixels,
                             .two_x = 2 * x_block + 1 < c->x_parts,
                             .two_dy = 2 * dy_block + 1 < c->dy_parts };
    if (t.two_x && t.two_dy)
        sum_bands(c, d, &t, from, to, sums, true, true);
    else if (t.two_x)
        sum_bands(c, d, &t, from, to, sums, true, false);
    else if (t.two_dy)
        sum_bands(c, d, &t, from, to, sums, false, true);
    else
        sum_bands(c, d, &t, from, to, sums, false, false);
}

/* Adds sums, [channel of x][tap][channel of dy], to dweight[channel of dy][channel of x][tap]. */
static void put_away(const struct weights_job *j, const struct partition *c, const float *sums,
                     size_t x_block, size_t dy_block)
{
    const struct trained_conv_desc *d = j->d;
    size_t c0 = x_block * BLOCK, depth = d->ic - c0 < BLOCK ? d->ic - c0 : BLOCK;
    size_t count = depth * c->taps;
    for (size_t half = 0; half < 2; half++) {
        size_t o0 = dy_block * BLOCK + half * PART;
        if (o0 >= d->oc) return;
        size_t width = d->oc - o0 < PART ? d->oc - o0 : PART;
        float *to = j->dweight + (o0 * d->ic + c0) * c->taps;
        for (size_t k = 0; k < count; k += 16) {
            __m512i r[16];
            const __mmask16 m = lanes(count - k);
            for (size_t i = 0; i < 16; i++)
                r[i] = _mm512_loadu_si512(sums + (k + i) * BLOCK + half * PART);
            transpose16(r);
            for (size_t o = 0; o < width; o++) {
                float *at = to + o * d->ic * c->taps + k;
                __m512 v = _mm512_maskz_loadu_ps(m, at);
                _mm512_mask_storeu_ps(at, m, _mm512_add_ps(v, _mm512_castsi512_ps(r[o])));
            }
        }
    }
}

static void add_into(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] += from[i];
}

/* ---- all of it, by all threads ---- */

struct wave {
    size_t first, bands; /* over all feature maps */
};

static void pack_wave(const struct weights_job *j, const struct partition *c,
                      const struct memory *m, const struct wave *w)
{
    int32_t *places = m->places + c->pitch * (size_t)omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < 2 * w->bands; i++) {
        size_t band = i / 2, n = (w->first + band) / c->bands;
        size_t y0 = (w->first + band) % c->bands * c->rows;
        if (i % 2)
            pack_x(j, c, m->x + band * c->x_band, places, n, y0);
        else
            pack_dy(j, c, m->dy + band * c->dy_band, m->bias + band * c->dy_parts * PART, places, n,
                    y0);
    }
}

static void add_bias(const struct weights_job *j, const struct partition *c, const struct memory *m,
                     const struct wave *w)
{
    for (size_t band = 0; j->dbias && band < w->bands; band++)
        add_into(j->dbias, m->bias + band * c->dy_parts * PART, j->d->oc);
}

static void multiply_wave(const struct weights_job *j, const struct partition *c,
                          const struct memory *m, const struct wave *w, size_t splits)
{
    size_t blocks = c->x_blocks * c->dy_blocks, floats = sums_floats(c);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (size_t block = 0; block < blocks; block++)
        for (size_t split = 0; split < splits; split++) {
            size_t place = splits > 1 ? block * splits + split : (size_t)omp_get_thread_num();
            float *sums = m->sums + place * floats;
            size_t from = split * w->bands / splits, to = (split + 1) * w->bands / splits;
            if (from == to)
                memset(sums, 0, floats * sizeof *sums);
            else
                sum_block(c, j->d, m, block / c->dy_blocks, block % c->dy_blocks, from, to, sums);
            if (splits == 1) put_away(j, c, sums, block / c->dy_blocks, block % c->dy_blocks);
        }
    if (splits == 1) return;
#pragma omp for schedule(dynamic, 1)
    for (size_t block = 0; block < blocks; block++) {
        float *sums = m->sums + block * splits * floats;
        for (size_t k = 1; k < splits; k++)
            add_into(sums, sums + k * floats, BLOCK * c->taps * BLOCK);
        put_away(j, c, sums, block / c->dy_blocks, block % c->dy_blocks);
    }
}

void ISA_FN(weights_amx)(const struct weights_job *j)
{
    const struct partition c = partition_of(j->d);
    const struct memory m = lay_out(&c, j->threads, j->scratch);
    const size_t splits = splits_of(&c, j->threads), all = j->n * c.bands;
#pragma omp parallel num_threads(j->threads)
    {
        configure_tiles();
        for (size_t first = 0; first < all; first += c.wave) {
            const struct wave w = { first, all - first < c.wave ? all - first : c.wave };
            pack_wave(j, &c, &m, &w);
#pragma omp single nowait
            add_bias(j, &c, &m, &w);
            multiply_wave(j, &c, &m, &w, splits);
        }
        release_tiles();
    }
}
