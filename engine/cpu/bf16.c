/* Convolution in BF16. The input, normalised and padded on the way, is held in a tile_buffer that
 * stays in L2; pairs of its tiles are multiplied by panels of packed weights, on the tile registers
 * (AMX) where the instruction set has them, else in vectors (AVX512-BF16). Sums are F32, in an
 * order that follows from the shape alone. */
#include <immintrin.h>
#include <omp.h>

#include "engine/cpu/bf16_tile_buffer.h"
#include "engine/cpu/tables.h"

enum { PAIR = 2 * BF16_PIXELS };

#ifdef __AMX_BF16__
#include "engine/cpu/tile_registers.h" /* 0-3 sums, 4-5 input, 6-7 weights */
#else
static void configure_tiles(void)
{
}

static void release_tiles(void)
{
}
#endif

/* Fills lines first .. first + rows of the output; where there is a border the tile_buffer begins
 * with the line above. `follows`: the tile_buffer still holds the previous block, whose last two
 * lines are the first two of this one. */
static void fill_tile_buffer(const struct conv_job *j, uint16_t *tile_buffer, size_t first,
                             size_t rows, bool follows)
{
    const struct bf16_shape *s = j->bf16;
    size_t line = s->width * s->pitch, halo = s->padded ? 2 : 0, from = 0;
    int64_t top = (int64_t)first - (s->padded ? 1 : 0);
    if (follows && s->padded) {
        memmove(tile_buffer, tile_buffer + s->rows * line, halo * line * sizeof *tile_buffer);
        from = halo;
    }
    for (size_t r = from; r < rows + halo; r++) {
        int64_t y = top + (int64_t)r;
        if (j->d->prologue.resample == RESAMPLE_UP && r > 0 && y > 0 && y % 2 == 1 && y < j->d->h)
            memcpy(tile_buffer + r * line, tile_buffer + (r - 1) * line,
                   line * sizeof *tile_buffer);
        else
            fill_line(j, y, tile_buffer + r * line);
    }
}

/* A line of a tile_buffer that is filled between multiplications, 32 channels of a pixel at a
 * time. */
struct prefetch {
    const uint16_t *from;
    uint16_t *to;
    size_t c, left; /* current channel; remaining pixels */
};

struct block {
    size_t first, rows; /* lines of the output */
    size_t tiles;
    const uint16_t *tap[9];    /* addresses of the taps of its first pixel */
    struct prefetch *prefetch; /* a line of the next block */
};

INLINE size_t tile_origin(const struct bf16_shape *s, size_t tile)
{
    if (!s->exact) return tile * BF16_PIXELS;
    size_t per_row = s->ow / BF16_PIXELS;
    return tile / per_row * s->width + tile % per_row * BF16_PIXELS;
}

/* Finished sums: two tiles of pixels by one panel, [32][32]. Bias, residual, rounding and moments
 * are applied row by row between the next pair's multiplications, which leave the vector units
 * idle. */
struct products {
    const float *c;
    uint16_t *y[2]; /* first pixel of each tile */
    const uint16_t *residual[2];
    float *partial[2];
    size_t count[2]; /* pixels of each tile */
    const float *bias;
};

INLINE void finish_row(const struct conv_job *j, const struct products *p, size_t r, __m512 sum[4],
                       bool residual, bool moments)
{
    size_t tile = r / BF16_PIXELS, at = r % BF16_PIXELS;
    if (at < p->count[tile]) {
        const float *c = p->c + r * BF16_PANEL;
        __m512 v0 = _mm512_add_ps(_mm512_load_ps(c), _mm512_loadu_ps(p->bias));
        __m512 v1 = _mm512_add_ps(_mm512_load_ps(c + 16), _mm512_loadu_ps(p->bias + 16));
        if (residual) {
            const uint16_t *from = p->residual[tile] + at * j->d->r_ld;
            v0 = _mm512_add_ps(v0, widen(from, (__mmask16)-1));
            v1 = _mm512_add_ps(v1, widen(from + 16, (__mmask16)-1));
        }
        _mm512_storeu_si512(p->y[tile] + at * j->d->y_ld, (__m512i)_mm512_cvtne2ps_pbh(v1, v0));
        if (moments) {
            sum[0] = _mm512_add_ps(sum[0], v0);
            sum[1] = _mm512_add_ps(sum[1], v1);
            sum[2] = _mm512_fmadd_ps(v0, v0, sum[2]);
            sum[3] = _mm512_fmadd_ps(v1, v1, sum[3]);
        }
    }
    if (moments && at == BF16_PIXELS - 1) {
        size_t ld = j->bf16->panels * (size_t)BF16_PANEL;
        float *to = p->partial[tile];
        for (int i = 0; i < 4; i++) {
            float *part = to + (i / 2 ? ld : 0) + (i % 2 ? 16 : 0);
            _mm512_storeu_ps(part, _mm512_add_ps(_mm512_loadu_ps(part), sum[i]));
            sum[i] = _mm512_setzero_ps();
        }
    }
}

INLINE void fill_step(const struct conv_job *j, struct prefetch *f)
{
    __m512 a = prologue_value(j, f->from, f->c, (__mmask16)-1, true);
    __m512 b = prologue_value(j, f->from, f->c + 16, (__mmask16)-1, true);
    _mm512_storeu_si512(f->to + f->c, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    f->c += BF16_DEPTH;
    if (f->c < j->d->ic) return;
    f->c = 0;
    f->from += j->d->x_ld;
    f->to += j->bf16->pitch;
    f->left--;
}

#ifdef __AMX_BF16__
/* c[32][32] = two tiles of pixels times one panel, over all taps and channels; in between, the
 * previous pair's products are finished. `half`: the panel has at most 16 channels. */
INLINE void multiply(const struct conv_job *j, const uint16_t *const *a0, const uint16_t *const *a1,
                     const uint16_t *w, float *c, bool half, const struct products *before,
                     struct prefetch *f, bool residual, bool moments)
{
    const struct bf16_shape *s = j->bf16;
    size_t stride = s->pitch * sizeof *w, row = before ? 0 : PAIR;
    size_t per_step = (PAIR - 1) / (s->k / BF16_DEPTH * s->taps) + 1;
    __m512 sum[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                      _mm512_setzero_ps() };
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t k = 0; k < s->k; k += BF16_DEPTH)
        for (uint32_t t = 0; t < s->taps; t++, w += 2 * BF16_TILE) {
            _tile_loadd(4, a0[t] + k, stride);
            _tile_loadd(6, w, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (!half) {
                _tile_loadd(7, w + BF16_TILE, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            _tile_loadd(5, a1[t] + k, stride);
            _tile_dpbf16ps(2, 5, 6);
            if (!half) _tile_dpbf16ps(3, 5, 7);
            for (size_t i = 0; i < per_step && row < PAIR; i++)
                finish_row(j, before, row++, sum, residual, moments);
            if (f->left) fill_step(j, f);
        }
    size_t ldc = BF16_PANEL * sizeof *c;
    _tile_stored(0, c, ldc);
    _tile_stored(2, c + BF16_PIXELS * BF16_PANEL, ldc);
    if (half) return;
    _tile_stored(1, c + BF16_CHANNELS, ldc);
    _tile_stored(3, c + BF16_PIXELS * BF16_PANEL + BF16_CHANNELS, ldc);
}
#else
enum { ROWS = 8 }; /* rows of the input per panel: 16 sums stay in registers */

/* The same without tile registers, and without other work in between: the vector units are busy. */
INLINE void multiply(const struct conv_job *j, const uint16_t *const *a0, const uint16_t *const *a1,
                     const uint16_t *w, float *c, bool half, const struct products *before,
                     struct prefetch *f, bool residual, bool moments)
{
    const struct bf16_shape *s = j->bf16;
    (void)half;
    (void)f;
    for (size_t r0 = 0; r0 < PAIR; r0 += ROWS, c += ROWS * BF16_PANEL) {
        const uint16_t *const *a = r0 < BF16_PIXELS ? a0 : a1;
        const uint16_t *b = w;
        __m512 sum[ROWS][2];
        for (int r = 0; r < ROWS; r++)
            sum[r][0] = sum[r][1] = _mm512_setzero_ps();
        for (size_t k = 0; k < s->k; k += BF16_DEPTH)
            for (uint32_t t = 0; t < s->taps; t++, b += 2 * BF16_TILE) {
                const uint16_t *from = a[t] + r0 % BF16_PIXELS * s->pitch + k;
                for (size_t i = 0; i < BF16_DEPTH; i += 2) {
                    __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + i * BF16_CHANNELS);
                    __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + BF16_TILE + i * BF16_CHANNELS);
#pragma GCC unroll 8
                    for (size_t r = 0; r < ROWS; r++) {
                        int32_t two;
                        memcpy(&two, from + r * s->pitch + i, sizeof two);
                        __m512bh x = (__m512bh)_mm512_set1_epi32(two);
                        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, b0);
                        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, b1);
                    }
                }
            }
        for (size_t r = 0; r < ROWS; r++) {
            _mm512_store_ps(c + r * BF16_PANEL, sum[r][0]);
            _mm512_store_ps(c + r * BF16_PANEL + BF16_CHANNELS, sum[r][1]);
        }
    }
    __m512 total[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                        _mm512_setzero_ps() };
    for (size_t r = 0; before && r < PAIR; r++)
        finish_row(j, before, r, total, residual, moments);
}
#endif

INLINE __m512 with_residual(const struct conv_job *j, size_t pixel, size_t c, __mmask16 m, __m512 v)
{
    if (!j->residual || !m) return v;
    return _mm512_add_ps(v, widen((const uint16_t *)j->residual + pixel * j->d->r_ld + c, m));
}

INLINE float *partial_of(const struct conv_job *j, const struct block *b, size_t tile, size_t panel)
{
    const struct bf16_shape *s = j->bf16;
    size_t line = s->exact ? b->first + tile_origin(s, tile) / s->width : b->first / s->rows;
    return j->partial ? j->partial + (2 * line * s->panels + panel) * BF16_PANEL : NULL;
}

/* A tile whose pixels are not contiguous, or whose panel is partial: finished pixel by pixel, at
 * once. */
static void finish_ragged(const struct conv_job *j, const struct block *b, const float *c,
                          size_t tile, size_t panel)
{
    const struct conv_desc *d = j->d;
    const struct bf16_shape *s = j->bf16;
    size_t oc0 = panel * BF16_PANEL, n = d->oc - oc0, q = tile_origin(s, tile);
    __mmask16 m0 = lanes(n), m1 = n > 16 ? lanes(n - 16) : 0;
    __m512 bias0 = _mm512_maskz_loadu_ps(m0, j->bias + oc0);
    __m512 bias1 = _mm512_maskz_loadu_ps(m1, j->bias + oc0 + 16);
    size_t y = q / s->width, x = q % s->width, ld = s->panels * (size_t)BF16_PANEL;
    float *partial = partial_of(j, b, tile, panel);
    for (size_t r = 0; r < BF16_PIXELS; r++, c += BF16_PANEL, x++) {
        if (x == s->width) {
            x = 0;
            y++;
        }
        if (x >= s->ow || y >= b->rows) continue;
        size_t pixel = (b->first + y) * s->ow + x;
        __m512 v0 = with_residual(j, pixel, oc0, m0, _mm512_add_ps(_mm512_load_ps(c), bias0));
        __m512 v1 =
            with_residual(j, pixel, oc0 + 16, m1, _mm512_add_ps(_mm512_load_ps(c + 16), bias1));
        uint16_t *to = (uint16_t *)j->y + pixel * d->y_ld + oc0;
        _mm512_mask_storeu_epi16(to, (__mmask32)m1 << 16 | m0,
                                 (__m512i)_mm512_cvtne2ps_pbh(v1, v0));
        if (!partial) continue;
        __m512 v[2] = { v0, v1 };
        for (int i = 0; i < 4; i++) {
            float *part = partial + (i / 2 ? ld : 0) + (i % 2 ? 16 : 0);
            __m512 more = i / 2 ? _mm512_mul_ps(v[i % 2], v[i % 2]) : v[i % 2];
            more = _mm512_maskz_mov_ps(i % 2 ? m1 : m0, more);
            _mm512_storeu_ps(part, _mm512_add_ps(_mm512_loadu_ps(part), more));
        }
    }
}

static struct products products_of(const struct conv_job *j, const struct block *b, const float *c,
                                   size_t pair, size_t panel)
{
    const struct bf16_shape *s = j->bf16;
    size_t oc0 = panel * BF16_PANEL;
    struct products p = { .c = c, .bias = j->bias + oc0 };
    for (size_t i = 0; i < 2; i++) {
        size_t tile = 2 * pair + i, q = tile_origin(s, tile);
        if (tile >= b->tiles) break;
        size_t y = q / s->width, x = q % s->width, pixel = (b->first + y) * s->ow + x;
        p.count[i] = s->exact || b->rows - y > BF16_PIXELS ? BF16_PIXELS : b->rows - y;
        p.y[i] = (uint16_t *)j->y + pixel * j->d->y_ld + oc0;
        if (j->residual) p.residual[i] = (const uint16_t *)j->residual + pixel * j->d->r_ld + oc0;
        p.partial[i] = partial_of(j, b, tile, panel);
    }
    if (!p.partial[1]) p.partial[1] = p.partial[0];
    return p;
}

/* Multiplies pairs of tiles by panels; `panels_outside` selects the outer loop. */
INLINE void run_pairs(const struct conv_job *j, const struct block *b, size_t from, size_t to,
                      bool residual, bool moments)
{
    const struct bf16_shape *s = j->bf16;
    float c[2][PAIR * BF16_PANEL] __attribute__((aligned(64)));
    size_t pairs = (b->tiles + 1) / 2, steps = pairs * (to - from);
    bool tight = s->exact || !s->padded, waits = false;
    struct products before;
    for (size_t i = 0; i < steps; i++) {
        size_t pair = s->panels_outside ? i % pairs : i / (to - from);
        size_t panel = from + (s->panels_outside ? i / pairs : i % (to - from));
        size_t first = 2 * pair, second = first + 1 < b->tiles ? first + 1 : first;
        size_t n = j->d->oc - panel * BF16_PANEL;
        const uint16_t *a0[9], *a1[9];
        for (size_t t = 0; t < s->taps; t++) {
            a0[t] = b->tap[t] + tile_origin(s, first) * s->pitch;
            a1[t] = b->tap[t] + tile_origin(s, second) * s->pitch;
        }
        const uint16_t *w = (const uint16_t *)j->weight + panel * (s->weight_elements / s->panels);
        const struct products *waiting = waits ? &before : NULL;
        if (n > BF16_CHANNELS)
            multiply(j, a0, a1, w, c[i % 2], false, waiting, b->prefetch, residual, moments);
        else
            multiply(j, a0, a1, w, c[i % 2], true, waiting, b->prefetch, residual, moments);
        waits = tight && n >= BF16_PANEL;
        if (waits) {
            before = products_of(j, b, c[i % 2], pair, panel);
        } else {
            finish_ragged(j, b, c[i % 2], first, panel);
            if (second != first)
                finish_ragged(j, b, c[i % 2] + BF16_PIXELS * BF16_PANEL, second, panel);
        }
    }
    __m512 sum[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                      _mm512_setzero_ps() };
    for (size_t r = 0; waits && r < PAIR; r++)
        finish_row(j, &before, r, sum, residual, moments);
}

static struct block block_of(const struct bf16_shape *s, const uint16_t *tile_buffer, size_t first,
                             struct prefetch *prefetch)
{
    struct block b = { .first = first, .rows = s->rows, .prefetch = prefetch };
    if (b.rows > s->oh - first) b.rows = s->oh - first;
    b.tiles = s->exact ? b.rows * (s->ow / BF16_PIXELS)
                       : ((b.rows - 1) * s->width + s->ow + BF16_PIXELS - 1) / BF16_PIXELS;
    for (size_t t = 0; t < s->taps; t++)
        b.tap[t] = tile_buffer + (t / 3 * s->width + t % 3) * s->pitch;
    return b;
}

static void run_block(const struct conv_job *j, const struct block *b, size_t from, size_t to)
{
    if (j->residual)
        j->partial ? run_pairs(j, b, from, to, true, true) : run_pairs(j, b, from, to, true, false);
    else
        j->partial ? run_pairs(j, b, from, to, false, true)
                   : run_pairs(j, b, from, to, false, false);
}

static void run_whole(const struct conv_job *j)
{
    const struct bf16_shape *s = j->bf16;
    uint16_t *tile_buffer = (void *)j->scratch;
    size_t halo = s->padded ? 2 : 0, line = s->width * s->pitch;
    if (!s->raw) {
#pragma omp for schedule(static)
        for (size_t r = 0; r < s->oh + halo; r++)
            fill_line(j, (int64_t)r - (s->padded ? 1 : 0), tile_buffer + r * line);
    }
    struct prefetch nothing = { 0 };
    struct block b = block_of(s, s->raw ? j->x : tile_buffer, 0, &nothing);
#pragma omp for schedule(dynamic, 1)
    for (size_t panel = 0; panel < s->panels; panel++)
        run_block(j, &b, panel, panel + 1);
}

/* Each thread takes vertically adjacent blocks, so that a tile_buffer keeps its border lines for
 * the next block. */
static void run_blocks(const struct conv_job *j)
{
    const struct bf16_shape *s = j->bf16;
    size_t me = (size_t)omp_get_thread_num(), n_threads = (size_t)omp_get_num_threads();
    uint16_t *tile_buffer = (void *)(j->scratch + me * j->scratch_stride);
    size_t begin = s->blocks * me / n_threads, end = s->blocks * (me + 1) / n_threads;
    for (size_t i = begin; i < end; i++) {
        size_t first = i * s->rows;
        struct prefetch nothing = { 0 };
        const uint16_t *from = s->raw ? (const uint16_t *)j->x + first * s->pitch : tile_buffer;
        struct block b = block_of(s, from, first, &nothing);
        if (!s->raw) fill_tile_buffer(j, tile_buffer, first, b.rows, i > begin);
        run_block(j, &b, 0, s->panels);
    }
}

/* Begins a line of the ring: sets its border; its pixels follow. */
static struct prefetch begin_line(const struct conv_job *j, size_t y, uint16_t *to)
{
    const struct conv_desc *d = j->d;
    size_t pitch = j->bf16->pitch, bytes = j->bf16->k * sizeof *to;
    memset(to, 0, bytes);
    memset(to + (d->w + 1) * pitch, 0, bytes);
    return (struct prefetch){ (const uint16_t *)j->x + y * d->w * d->x_ld, to + pitch, 0, d->w };
}

/* Row by row over a ring of four lines: while one row is computed, which reads three lines, the
 * fourth is filled for the next row. Only a plain norm is interleaved; other prologues fill their
 * line at once. */
static void run_flowing(const struct conv_job *j)
{
    const struct bf16_shape *s = j->bf16;
    const struct conv_desc *d = j->d;
    size_t me = (size_t)omp_get_thread_num(), n_threads = (size_t)omp_get_num_threads();
    size_t begin = s->oh * me / n_threads, end = s->oh * (me + 1) / n_threads,
           size = s->width * s->pitch;
    uint16_t *ring = (void *)(j->scratch + me * j->scratch_stride);
    bool between = j->scale && d->prologue.resample == RESAMPLE_NONE && d->ic % BF16_DEPTH == 0;
    for (size_t y = begin; y < begin + 3 && begin < end; y++) /* lines begin - 1 to begin + 1 */
        fill_line(j, (int64_t)y - 1, ring + y % 4 * size);
    for (size_t y = begin; y < end; y++) {
        struct prefetch f = { 0 };
        struct block b = block_of(s, ring, y, &f);
        uint16_t *next = ring + (y + 3) % 4 * size;
        for (size_t t = 0; t < s->taps; t++)
            b.tap[t] = ring + (y + t / 3) % 4 * size + t % 3 * s->pitch;
        if (y + 1 < end && y + 2 < d->h && between) f = begin_line(j, y + 2, next);
        run_block(j, &b, 0, s->panels);
        while (f.left)
            fill_step(j, &f);
        if (y + 1 == end || (between && y + 2 < d->h)) continue;
        if (d->prologue.resample == RESAMPLE_UP && y % 2 == 1 && y + 2 < d->h)
            /* rows of an upsampled feature map come in pairs */
            memcpy(next, ring + (y + 2) % 4 * size, size * sizeof *ring);
        else
            fill_line(j, (int64_t)y + 2, next);
    }
}

/* Adds the lines' sums in order. */
static void gather_moments(const struct conv_job *j)
{
    const struct bf16_shape *s = j->bf16;
    size_t ld = s->panels * (size_t)BF16_PANEL, lines = s->exact ? s->oh : s->blocks;
#pragma omp for schedule(static)
    for (size_t c = 0; c < j->d->oc; c += 8) {
        __mmask8 m = (__mmask8)lanes(j->d->oc - c < 8 ? j->d->oc - c : 8);
        for (size_t k = 0; k < 2; k++) {
            __m512d sum = _mm512_setzero_pd();
            for (size_t i = 0; i < lines; i++)
                sum = _mm512_add_pd(
                    sum, _mm512_cvtps_pd(_mm256_loadu_ps(j->partial + (2 * i + k) * ld + c)));
            _mm512_mask_storeu_pd(j->moments + k * j->moments_ld + c, m, sum);
        }
    }
}

void ISA_FN(conv_bf16)(const struct conv_job *j)
{
#pragma omp parallel num_threads(j->threads)
    {
        configure_tiles();
        if (j->bf16->whole)
            run_whole(j);
        else if (j->bf16->flowing)
            run_flowing(j);
        else
            run_blocks(j);
        release_tiles();
        if (j->partial) {
#pragma omp barrier
            gather_moments(j);
        }
    }
}
