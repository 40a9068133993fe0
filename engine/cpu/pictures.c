/* Loops that walk over a picture once or twice: norm, copies, resampling. */
#include <math.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

/* Sums of (x - shift) and its square over one chunk of pixels; shift = the picture's first pixel, so that a mean far from
 * zero costs no digits. */
INLINE void chunk_sums(const struct norm_job *j, const float *shift, float *sum, float *square,
                       size_t from, size_t to, bool bf16)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        vput(sum + c, vsplat(0));
        vput(square + c, vsplat(0));
    }
    for (size_t i = from; i < to; i += 4) {
        size_t rows = to - i < 4 ? to - i : 4;
        for (size_t c = 0; c < j->c; c += VEC) {
            vf k = vget(shift + c), s = vget(sum + c), q = vget(square + c);
            for (size_t r = 0; r < rows; r++) {
                vf v = vload(j->x, (i + r) * j->x_ld + c, j->c - c, bf16) - k;
                s += v;
                q += v * v;
            }
            vput(sum + c, s);
            vput(square + c, q);
        }
    }
}

/* y = scale[c] * (x - shift[c]) + offset[c] from the chunks' sums, always added in the same order. The mean is taken off
 * before anything is scaled: a small spread about a large mean keeps its digits. */
static void norm_constants(const struct norm_job *j, float *shift, const float *sums, size_t ld,
                           size_t chunks, float *scale, float *offset)
{
    uint32_t width = j->c / j->groups;
    for (uint32_t g = 0; g < j->groups; g++) {
        double n = (double)j->pixels, mean = 0, spread = 0;
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t c = g * width; c < (g + 1) * width; c++) {
                double s = 0, q = 0;
                for (size_t k = 0; k < chunks; k++) {
                    s += (double)sums[2 * k * ld + c];
                    q += (double)sums[(2 * k + 1) * ld + c];
                }
                double m = (double)shift[c] + s / n;
                if (pass == 0)
                    mean += m / width;
                else
                    spread += (q - s * s / n) / n + (m - mean) * (m - mean);
            }
        spread = spread / width;
        if (spread < 0) spread = 0; /* rounding; a NaN stays one */
        double rstd = 1.0 / sqrt(spread + (double)j->eps);
        float centre = (float)mean;
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            double gamma = (double)j->gamma[c], beta = (double)j->beta[c];
            if (j->scale_shift) { /* rounded where folding rounds: the two forms then agree to the bit */
                double by = 1.0 + (double)j->scale_shift[c];
                gamma = (double)(float)(gamma * by);
                beta = (double)(float)(beta * by + (double)j->scale_shift[j->c + c]);
            }
            double a = rstd * gamma, b = beta + ((double)centre - mean) * a;
            shift[c] = centre;
            scale[c] = (float)a;
            offset[c] = (float)b;
        }
    }
}

INLINE void norm_pixel(const struct norm_job *j, const float *shift, const float *scale,
                       const float *offset, size_t i, bool bf16)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        vf v = vload(j->x, i * j->x_ld + c, j->c - c, bf16) - vget(shift + c);
        v = v * vget(scale + c) + vget(offset + c);
        vstore(j->y, i * j->y_ld + c, j->c - c, j->silu ? vsilu(v) : v, bf16);
    }
}

void ISA_FN(group_norm)(const struct norm_job *j)
{
    size_t ld = (j->c + 15) / 16 * 16, chunks = j->pixels < NORM_CHUNKS ? j->pixels : NORM_CHUNKS;
    float *shift = j->scratch, *scale = shift + ld, *offset = scale + ld, *sums = offset + ld;
    bool bf16 = j->dtype == DT_BF16;
    for (size_t c = 0; c < j->c; c += VEC) {
        vput(shift + c, bf16 ? vload(j->x, c, j->c - c, true) : vload(j->x, c, j->c - c, false));
        vput(scale + c, vsplat(0));
        vput(offset + c, vsplat(0));
    }
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t k = 0; k < chunks; k++) {
        size_t from = k * j->pixels / chunks, to = (k + 1) * j->pixels / chunks;
        float *sum = sums + 2 * k * ld;
        if (bf16)
            chunk_sums(j, shift, sum, sum + ld, from, to, true);
        else
            chunk_sums(j, shift, sum, sum + ld, from, to, false);
    }
    norm_constants(j, shift, sums, ld, chunks, scale, offset);
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < j->pixels; i++) {
        if (bf16)
            norm_pixel(j, shift, scale, offset, i, true);
        else
            norm_pixel(j, shift, scale, offset, i, false);
    }
}

INLINE void copy_pixel(const struct copy_job *j, size_t i, bool from, bool to)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        vf v = vload(j->x, i * j->x_ld + c, j->c - c, from);
        if (j->add) v += vload(j->add, c, j->c - c, false);
        vstore(j->y, i * j->y_ld + c, j->c - c, v, to);
    }
}

void ISA_FN(copy)(const struct copy_job *j)
{
    int kind = (j->from == DT_BF16) * 2 + (j->to == DT_BF16);
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < j->pixels; i++) {
        switch (kind) {
        case 0: copy_pixel(j, i, false, false); break;
        case 1: copy_pixel(j, i, false, true); break;
        case 2: copy_pixel(j, i, true, false); break;
        default: copy_pixel(j, i, true, true); break;
        }
    }
}

void ISA_FN(upsample)(const struct resample_job *j)
{
    size_t size = dtype_size(j->dtype), bytes = j->c * size;
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->h * j->w; i++) {
        const char *from = (const char *)j->x + i * j->x_ld * size;
        size_t y = i / j->w * 2, x = i % j->w * 2;
        for (size_t k = 0; k < 4; k++)
            memcpy((char *)j->y + ((y + k / 2) * 2 * j->w + x + k % 2) * j->y_ld * size, from,
                   bytes);
    }
}

INLINE void average(const struct resample_job *j, size_t i, bool bf16)
{
    size_t top = (i / j->w * 2 * 2 * j->w + i % j->w * 2) * j->x_ld, below = 2 * j->w * j->x_ld;
    for (size_t c = 0; c < j->c; c += VEC) {
        size_t n = j->c - c;
        vf v = vload(j->x, top + c, n, bf16) + vload(j->x, top + j->x_ld + c, n, bf16) +
               (vload(j->x, top + below + c, n, bf16) +
                vload(j->x, top + below + j->x_ld + c, n, bf16));
        vstore(j->y, i * j->y_ld + c, n, 0.25f * v, bf16);
    }
}

void ISA_FN(downsample)(const struct resample_job *j)
{
    bool bf16 = j->dtype == DT_BF16;
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->h * j->w; i++) {
        if (bf16)
            average(j, i, true);
        else
            average(j, i, false);
    }
}
