/* bf16_tile_buffer.h - writes the input of a BF16 convolution into a tile_buffer: norm, SiLU,
 * resampling, border, channels rounded up to whole tiles (bf16_shape.h). Only for bf16.c, which is
 * compiled once per instruction set. */
#ifndef DAVID_CPU_BF16_TILE_BUFFER_H
#define DAVID_CPU_BF16_TILE_BUFFER_H

#include <immintrin.h>

#include "engine/cpu/bf16_shape.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/vec.h"

INLINE __mmask16 lanes(size_t n)
{
    return n >= 16 ? (__mmask16)-1 : (__mmask16)((1u << n) - 1);
}

INLINE __m512 widen(const uint16_t *x, __mmask16 m)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x)), 16));
}

/* x / (1 + e^-x) within 2^-13; the result is rounded to BF16, 2^-9. The polynomial is 2^f on [-1/2,
 * 1/2] within 8e-5. */
INLINE __m512 rough_silu(__m512 x)
{
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.05517167f), _mm512_set1_ps(0.24261112f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69326099f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992807f));
    __m512 e = _mm512_scalef_ps(p, n);
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))));
}

INLINE __m512 prologue_value(const struct conv_job *j, const uint16_t *x, size_t c, __mmask16 m,
                             bool norm)
{
    __m512 v = widen(x + c, m);
    if (!norm) return v;
    v = _mm512_fmadd_ps(v, _mm512_loadu_ps(j->scale + c), _mm512_loadu_ps(j->offset + c));
    return j->d->prologue.silu ? rough_silu(v) : v;
}

INLINE __m512 prologue_mean(const struct conv_job *j, const uint16_t *x, size_t below, size_t c,
                            __mmask16 m, bool norm, bool down)
{
    if (!down) return prologue_value(j, x, c, m, norm);
    size_t right = j->d->x_ld;
    __m512 top =
        _mm512_add_ps(prologue_value(j, x, c, m, norm), prologue_value(j, x + right, c, m, norm));
    __m512 low = _mm512_add_ps(prologue_value(j, x + below, c, m, norm),
                               prologue_value(j, x + below + right, c, m, norm));
    return _mm512_mul_ps(_mm512_set1_ps(0.25f), _mm512_add_ps(top, low));
}

/* Writes one pixel of a tile_buffer, and a second copy at `sibling` where that is not NULL. */
INLINE void fill_pixel(const struct conv_job *j, const uint16_t *x, size_t below, uint16_t *to,
                       uint16_t *sibling, bool norm, bool down)
{
    size_t ic = j->d->ic, k = j->bf16->k;
    for (size_t c = 0; c < k; c += BF16_DEPTH) {
        size_t n = ic - c;
        __m512 a = prologue_mean(j, x, below, c, lanes(n), norm, down);
        __m512 b = prologue_mean(j, x, below, c + 16, n > 16 ? lanes(n - 16) : 0, norm, down);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        _mm512_storeu_si512(to + c, both);
        if (sibling) _mm512_storeu_si512(sibling + c, both);
    }
}

/* Writes row y of the convolved feature map with its border, or a row of zeros outside of it. */
INLINE void fill_row(const struct conv_job *j, int64_t y, uint16_t *to, bool norm)
{
    const struct conv_desc *d = j->d;
    size_t pitch = j->bf16->pitch, bytes = j->bf16->k * sizeof *to;
    bool inside = y >= 0 && y < d->h;
    for (size_t x = 0; x < (inside ? 1 : d->w + 1); x++)
        memset(to + x * pitch, 0, bytes);
    memset(to + (d->w + 1) * pitch, 0, bytes);
    if (!inside) return;
    const uint16_t *from = j->x;
    uint16_t *at = to + pitch;
    switch (d->prologue.resample) {
    case RESAMPLE_NONE:
        from += (size_t)y * d->w * d->x_ld;
        for (size_t x = 0; x < d->w; x++)
            fill_pixel(j, from + x * d->x_ld, 0, at + x * pitch, NULL, norm, false);
        break;
    case RESAMPLE_UP:
        from += (size_t)(y / 2) * (d->w / 2) * d->x_ld;
        for (size_t x = 0; x < d->w / 2; x++)
            fill_pixel(j, from + x * d->x_ld, 0, at + 2 * x * pitch, at + (2 * x + 1) * pitch, norm,
                       false);
        break;
    case RESAMPLE_DOWN: {
        size_t below = (size_t)2 * d->w * d->x_ld;
        from += (size_t)(2 * y) * below;
        for (size_t x = 0; x < d->w; x++)
            fill_pixel(j, from + 2 * x * d->x_ld, below, at + x * pitch, NULL, norm, true);
        break;
    }
    }
}

/* Writes all taps of output pixel i, contiguous. */
static void fill_unrolled(const struct conv_job *j, size_t i, uint16_t *to)
{
    const struct conv_desc *d = j->d;
    size_t ow = (d->w + d->stride - 1) / d->stride, n = 0;
    int64_t pad = d->kernel / 2, oy = (int64_t)(i / ow), ox = (int64_t)(i % ow);
    int64_t left = ox * d->stride - pad;
    if (d->x_ld == d->ic && left >= 0 &&
        left + d->kernel <= d->w) { /* the taps of a row are contiguous in x */
        for (int64_t ky = 0; ky < d->kernel; ky++, n += (size_t)d->kernel * d->ic) {
            int64_t y = oy * d->stride + ky - pad;
            size_t bytes = (size_t)d->kernel * d->ic * sizeof *to;
            if (y < 0 || y >= d->h)
                memset(to + n, 0, bytes);
            else
                memcpy(to + n, (const uint16_t *)j->x + ((size_t)y * d->w + (size_t)left) * d->ic,
                       bytes);
        }
        memset(to + n, 0, (j->bf16->k - n) * sizeof *to);
        return;
    }
    for (int64_t ky = 0; ky < d->kernel; ky++)
        for (int64_t kx = 0; kx < d->kernel; kx++, n += d->ic) {
            int64_t y = oy * d->stride + ky - pad, x = ox * d->stride + kx - pad;
            if (y < 0 || y >= d->h || x < 0 || x >= d->w)
                memset(to + n, 0, d->ic * sizeof *to);
            else
                memcpy(to + n, (const uint16_t *)j->x + ((size_t)y * d->w + (size_t)x) * d->x_ld,
                       d->ic * sizeof *to);
        }
    memset(to + n, 0, (j->bf16->k - n) * sizeof *to);
}

/* Writes line y: of a padded tile_buffer a row of the feature map, of the others a pixel. */
INLINE void fill_line(const struct conv_job *j, int64_t y, uint16_t *to)
{
    const struct bf16_shape *s = j->bf16;
    if (s->unrolled) {
        fill_unrolled(j, (size_t)y, to);
    } else if (s->padded) {
        if (j->scale)
            fill_row(j, y, to, true);
        else
            fill_row(j, y, to, false);
    } else {
        const uint16_t *x = (const uint16_t *)j->x + (size_t)y * j->d->x_ld;
        if (j->scale)
            fill_pixel(j, x, 0, to, NULL, true, false);
        else
            fill_pixel(j, x, 0, to, NULL, false, false);
    }
}

#endif
