/* The same as backward_im2col.c on the tile registers: the inputs of a block of output pixels are
 * copied into rows of whole tiles, and pairs of tiles are multiplied by panels of packed weights. A
 * block may span the pixels of several feature maps. */
#include <immintrin.h>
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/bf16_shape.h"
#include "engine/cpu/tile_registers.h"

enum {
    PAIR = 2 * BF16_PIXELS,
    /* Bytes of a block's rows: they share a core's cache with a panel of weights. */
    BLOCK_BYTES = 1 << 20,
    MOST_PIXELS = 512
};

/* Elements between two rows: the odd cache line spreads them over the cache's sets. */
static size_t pitch_of(const struct im2col_job *j)
{
    return j->depth + BF16_DEPTH;
}

static size_t block_pixels(const struct im2col_job *j)
{
    size_t pixels = BLOCK_BYTES / (pitch_of(j) * sizeof(uint16_t)) / PAIR * PAIR;
    return pixels < PAIR ? PAIR : pixels > MOST_PIXELS ? MOST_PIXELS : pixels;
}

size_t ISA_FN(im2col_amx_scratch)(const struct im2col_job *j)
{
    return block_pixels(j) * pitch_of(j) / 2;
}

struct lattice_pixel {
    size_t n, row, col;
};

INLINE struct lattice_pixel pixel_of(const struct im2col_job *j, size_t i)
{
    size_t each = (size_t)j->rows * j->cols;
    return (struct lattice_pixel){ i / each, i % each / j->cols, i % each % j->cols };
}

/* Copies n elements, 32 at a time. */
INLINE void copy(uint16_t *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += 32) {
        __mmask32 m = n - i >= 32 ? (__mmask32)-1 : (__mmask32)((1u << (n - i)) - 1);
        _mm512_mask_storeu_epi16(to + i, m, _mm512_maskz_loadu_epi16(m, from + i));
    }
}

static void put_side_by_side(const struct im2col_job *j, uint16_t *to, size_t i)
{
    const struct lattice_pixel p = pixel_of(j, i);
    const uint16_t *image = (const uint16_t *)j->x + p.n * j->h * j->w * j->x_ld;
    uint16_t *end = to + j->depth;
    for (uint32_t t = 0; t < j->taps; t++, to += j->c) {
        int64_t y = (int64_t)(p.row * j->in_step) + j->dy[t];
        int64_t x = (int64_t)(p.col * j->in_step) + j->dx[t];
        if (y < 0 || y >= j->h || x < 0 || x >= j->w)
            memset(to, 0, j->c * sizeof *to);
        else
            copy(to, image + ((size_t)y * j->w + (size_t)x) * j->x_ld, j->c);
    }
    memset(to, 0, (size_t)(end - to) * sizeof *to);
}

/* c[32][32] = 32 pixels times a panel. `half`: the panel has at most 16 channels. */
INLINE void multiply(const struct im2col_job *j, const uint16_t *a, const uint16_t *w, float *c,
                     bool half)
{
    const size_t step = pitch_of(j) * sizeof *a, ldc = BF16_PANEL * sizeof *c;
    const uint16_t *second = a + BF16_PIXELS * pitch_of(j);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t k = 0; k < j->depth; k += BF16_DEPTH, w += 2 * BF16_TILE) {
        _tile_loadd(4, a + k, step);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, second + k, step);
        _tile_dpbf16ps(2, 5, 6);
        if (half) continue;
        _tile_loadd(7, w + BF16_TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc);
    _tile_stored(2, c + BF16_PIXELS * BF16_PANEL, ldc);
    if (half) return;
    _tile_stored(1, c + BF16_CHANNELS, ldc);
    _tile_stored(3, c + BF16_PIXELS * BF16_PANEL + BF16_CHANNELS, ldc);
}

INLINE void finish(const struct im2col_job *j, const float *c, size_t first, size_t count,
                   size_t o0)
{
    size_t width = j->o - o0 < BF16_PANEL ? j->o - o0 : BF16_PANEL;
    for (size_t r = 0; r < count; r++, c += BF16_PANEL) {
        const struct lattice_pixel p = pixel_of(j, first + r);
        size_t y = j->y0 + p.row * j->step, x = j->x0 + p.col * j->step;
        size_t pixel = (p.n * j->oh + y) * j->ow + x;
        for (size_t i = 0; i < width; i += VEC) {
            vf v = vget(c + i);
            if (j->bias) v += vload(j->bias, o0 + i, width - i, false);
            if (j->residual) v += vload(j->residual, pixel * j->r_ld + o0 + i, width - i, true);
            vstore(j->y, pixel * j->y_ld + o0 + i, width - i, v, true);
        }
    }
}

static void run_block(const struct im2col_job *j, uint16_t *tile_buffer, size_t first, size_t count)
{
    float c[PAIR * BF16_PANEL] __attribute__((aligned(64)));
    for (size_t i = 0; i < count; i++)
        put_side_by_side(j, tile_buffer + i * pitch_of(j), first + i);
    for (size_t o0 = 0; o0 < j->o; o0 += BF16_PANEL) {
        const uint16_t *w = j->tiles + o0 * j->depth;
        for (size_t r = 0; r < count; r += PAIR) {
            if (j->o - o0 > BF16_CHANNELS)
                multiply(j, tile_buffer + r * pitch_of(j), w, c, false);
            else
                multiply(j, tile_buffer + r * pitch_of(j), w, c, true);
            finish(j, c, first + r, count - r < PAIR ? count - r : PAIR, o0);
        }
    }
}

void ISA_FN(im2col_amx)(const struct im2col_job *j)
{
    size_t all = (size_t)j->n * j->rows * j->cols, most = block_pixels(j);
    size_t blocks = (all + most - 1) / most, threads = (size_t)j->threads;
    blocks = (blocks + threads - 1) / threads * threads; /* the same number for each thread */
    size_t each = ((all + blocks - 1) / blocks + PAIR - 1) / PAIR * PAIR;
#pragma omp parallel num_threads(j->threads)
    {
        configure_tiles();
#pragma omp for schedule(dynamic, 1)
        for (size_t first = 0; first < all; first += each) {
            float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
            run_block(j, (void *)scratch, first, all - first < each ? all - first : each);
        }
        release_tiles();
    }
}
