/* Convolution of any stride, and the phases of a transposed one: the inputs of an output pixel are
 * copied into one row (im2col), and blocks of rows are multiplied by panels of packed weights. For
 * the shapes that conv.c does not support. */
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/vec.h"

enum { COPIED_AT_ONCE = 64 }; /* from so many floats on a call of memcpy pays */

INLINE void copy_floats(float *dst, const void *src, size_t at, size_t n, bool bf16)
{
    if (!bf16 && n > COPIED_AT_ONCE) {
        memcpy(dst, (const float *)src + at, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i += VEC)
        vstore(dst, i, n - i, vload(src, at + i, n - i, bf16), false);
}

/* Writes lattice pixels first .. first + count of row n, as [count][taps * c]. */
INLINE void put_side_by_side(const struct im2col_job *j, float *a, uint32_t n, size_t first,
                             size_t count, bool bf16)
{
    for (size_t r = first; r < first + count; r++)
        for (uint32_t t = 0; t < j->taps; t++, a += j->c) {
            int64_t y = (int64_t)(r / j->cols * j->in_step) + j->dy[t];
            int64_t x = (int64_t)(r % j->cols * j->in_step) + j->dx[t];
            if (y < 0 || y >= j->h || x < 0 || x >= j->w)
                memset(a, 0, j->c * sizeof *a);
            else
                copy_floats(a, j->x, (((size_t)n * j->h + (size_t)y) * j->w + (size_t)x) * j->x_ld,
                            j->c, bf16);
        }
}

INLINE void finish(const struct im2col_job *j, const float *c, uint32_t n, size_t first,
                   size_t count, size_t o0, bool bf16)
{
    size_t width = j->o - o0 < NR ? j->o - o0 : NR;
    for (size_t r = 0; r < count; r++) {
        size_t y = j->y0 + (first + r) / j->cols * j->step;
        size_t x = j->x0 + (first + r) % j->cols * j->step;
        size_t pixel = ((size_t)n * j->oh + y) * j->ow + x;
        for (size_t i = 0; i < width; i += VEC) {
            vf v = vget(c + r * NR + i);
            if (j->bias) v += vload(j->bias, o0 + i, width - i, false);
            if (j->residual) v += vload(j->residual, pixel * j->r_ld + o0 + i, width - i, bf16);
            vstore(j->y, pixel * j->y_ld + o0 + i, width - i, v, bf16);
        }
    }
}

INLINE void piece(const struct im2col_job *j, float *scratch, uint32_t n, size_t first, bool bf16)
{
    enum { DEPTH = 512 };
    size_t pixels = (size_t)j->rows * j->cols, k = (size_t)j->taps * j->c;
    size_t count = pixels - first < IM2COL_PIXELS ? pixels - first : IM2COL_PIXELS;
    size_t padded = (count + MR - 1) / MR * MR;
    put_side_by_side(j, scratch, n, first, count, bf16);
    memset(scratch + count * k, 0, (padded - count) * k * sizeof *scratch);
    for (size_t o0 = 0; o0 < j->o; o0 += NR) {
        float c[IM2COL_PIXELS * NR] __attribute__((aligned(64)));
        const float *b = j->weight + o0 * k;
        for (size_t r = 0; r < count; r += MR)
            micro(scratch + r * k, k, b, k < DEPTH ? k : DEPTH, c + r * NR, NR, false);
        for (size_t k0 = DEPTH; k0 < k; k0 += DEPTH)
            for (size_t r = 0; r < count; r += MR)
                micro(scratch + r * k + k0, k, b + k0 * NR, k - k0 < DEPTH ? k - k0 : DEPTH,
                      c + r * NR, NR, true);
        finish(j, c, n, first, count, o0, bf16);
    }
}

/* A few output channels of many taps and channels are dot products of long vectors: x is read in
 * place, and its neighbours' pixels come from the cache. w: [o][taps * c]. */
INLINE void narrow_pixel(const struct im2col_job *j, const float *w, uint32_t n, size_t r, float *c,
                         bool bf16)
{
    vf sum[IM2COL_NARROW] = { vsplat(0), vsplat(0) };
    const size_t k = (size_t)j->taps * j->c;
    for (uint32_t t = 0; t < j->taps; t++) {
        int64_t y = (int64_t)(r / j->cols * j->in_step) + j->dy[t];
        int64_t x = (int64_t)(r % j->cols * j->in_step) + j->dx[t];
        if (y < 0 || y >= j->h || x < 0 || x >= j->w) continue;
        size_t at = (((size_t)n * j->h + (size_t)y) * j->w + (size_t)x) * j->x_ld;
        for (size_t i = 0; i < j->c; i += VEC) {
            vf v = vload(j->x, at + i, j->c - i, bf16);
            for (size_t o = 0; o < j->o; o++)
                sum[o] += v * vload(w, o * k + t * j->c + i, j->c - i, false);
        }
    }
    for (size_t o = 0; o < j->o; o++) {
        c[o] = 0;
        for (int l = 0; l < VEC; l++)
            c[o] += sum[o][l];
    }
}

INLINE void narrow_piece(const struct im2col_job *j, float *w, uint32_t n, size_t first, bool bf16)
{
    size_t pixels = (size_t)j->rows * j->cols, k = (size_t)j->taps * j->c;
    size_t count = pixels - first < IM2COL_PIXELS ? pixels - first : IM2COL_PIXELS;
    float c[IM2COL_PIXELS * NR] __attribute__((aligned(64)));
    for (size_t o = 0; o < j->o; o++)
        for (size_t i = 0; i < k; i++)
            w[o * k + i] = j->weight[i * NR + o];
    for (size_t r = 0; r < count; r++)
        narrow_pixel(j, w, n, first + r, c + r * NR, bf16);
    finish(j, c, n, first, count, 0, bf16);
}

INLINE void any_piece(const struct im2col_job *j, float *scratch, uint32_t n, size_t first,
                      bool bf16)
{
    if (j->o <= IM2COL_NARROW && j->c >= VEC)
        narrow_piece(j, scratch, n, first, bf16);
    else
        piece(j, scratch, n, first, bf16);
}

void ISA_FN(im2col)(const struct im2col_job *j)
{
    size_t pixels = (size_t)j->rows * j->cols;
    size_t blocks = (pixels + IM2COL_PIXELS - 1) / IM2COL_PIXELS;
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t i = 0; i < blocks * j->n; i++) {
        float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
        if (j->dtype == DT_BF16)
            any_piece(j, scratch, (uint32_t)(i / blocks), i % blocks * IM2COL_PIXELS, true);
        else
            any_piece(j, scratch, (uint32_t)(i / blocks), i % blocks * IM2COL_PIXELS, false);
    }
}
