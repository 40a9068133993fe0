/* Group norm: per-channel sums over the feature map give a scale and an offset per channel; one
 * pass applies them. A convolution that normalises its own input asks for the constants alone. */
#include <math.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

/* Sums of (x - shift) and its square over one chunk of pixels. shift is the feature map's first
 * pixel, so that a mean far from zero loses no digits. */
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

/* A feature map's sums: per chunk about `shift`, or as moments about zero. */
struct sums {
    const float *chunk; /* [chunks][2][ld]; NULL: moments */
    size_t ld, chunks;
    const float *shift;
};

/* Mean of channel c and the mean square about it; chunks are always added in the same order. */
static void channel_moments(const struct norm_job *j, const struct sums *s, uint32_t c,
                            double *mean, double *spread)
{
    double n = (double)j->pixels, sum = 0, square = 0;
    if (s->chunk) {
        for (size_t k = 0; k < s->chunks; k++) {
            sum += (double)s->chunk[2 * k * s->ld + c];
            square += (double)s->chunk[(2 * k + 1) * s->ld + c];
        }
    } else {
        int k = c >= j->split;
        const double *from = j->moments[k] + c - (k ? j->split : 0);
        sum = from[0];
        square = from[j->moments_ld[k]];
    }
    *mean = (s->chunk ? (double)s->shift[c] : 0) + sum / n;
    *spread = (square - sum * sum / n) / n;
}

/* y = scale[c] * (x - shift[c]) + offset[c]. The mean is subtracted before scaling, so that a small
 * spread about a large mean keeps its digits. `shift` may alias the sums' own shift. */
static void constants(const struct norm_job *j, const struct sums *s, float *shift, float *scale,
                      float *offset)
{
    uint32_t width = j->c / j->groups;
    for (uint32_t g = 0; g < j->groups; g++) {
        double mean = 0, spread = 0, m, v;
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            channel_moments(j, s, c, &m, &v);
            mean += m / width;
        }
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            channel_moments(j, s, c, &m, &v);
            spread += v + (m - mean) * (m - mean);
        }
        spread = spread / width;
        if (spread < 0) spread = 0; /* rounding; a NaN stays a NaN */
        double rstd = 1.0 / sqrt(spread + (double)j->eps);
        float centre = (float)mean;
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            double gamma = (double)j->gamma[c], beta = (double)j->beta[c];
            /* rounds where constant folding rounds: both forms then agree to the bit */
            if (j->scale_shift) {
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

/* sums: [chunks][2][ld] */
static void all_sums(const struct norm_job *j, const float *shift, float *sums, size_t ld,
                     size_t chunks)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t k = 0; k < chunks; k++) {
        size_t from = k * j->pixels / chunks, end = (k + 1) * j->pixels / chunks;
        float *sum = sums + 2 * k * ld;
        if (j->dtype == DT_BF16)
            chunk_sums(j, shift, sum, sum + ld, from, end, true);
        else
            chunk_sums(j, shift, sum, sum + ld, from, end, false);
    }
}

void ISA_FN(moments)(const struct norm_job *j, double *to, size_t ld)
{
    size_t wide = (j->c + 15) / 16 * 16;
    size_t chunks = j->pixels < NORM_CHUNKS ? j->pixels : NORM_CHUNKS;
    float *shift = j->scratch, *sums = shift + wide;
    memset(shift, 0, wide * sizeof *shift);
    all_sums(j, shift, sums, wide, chunks);
    for (size_t c = 0; c < j->c; c++) {
        to[c] = to[ld + c] = 0;
        for (size_t k = 0; k < chunks; k++) {
            to[c] += (double)sums[2 * k * wide + c];
            to[ld + c] += (double)sums[(2 * k + 1) * wide + c];
        }
    }
}

struct parts { /* the parts of a job's scratch */
    float *shift, *scale, *offset;
};

/* shift, scale and offset of every channel, from the job's moments or from a pass over the feature
 * map. */
static struct parts find_constants(const struct norm_job *j)
{
    size_t ld = (j->c + 15) / 16 * 16, chunks = j->pixels < NORM_CHUNKS ? j->pixels : NORM_CHUNKS;
    float *shift = j->scratch, *scale = shift + ld, *offset = scale + ld, *sums = offset + ld;
    bool bf16 = j->dtype == DT_BF16;
    struct sums from = { sums, ld, chunks, shift };
    for (size_t c = 0; c < j->c; c += VEC) {
        vput(shift + c, bf16 ? vload(j->x, c, j->c - c, true) : vload(j->x, c, j->c - c, false));
        vput(scale + c, vsplat(0));
        vput(offset + c, vsplat(0));
    }
    if (j->moments[0])
        from.chunk = NULL;
    else
        all_sums(j, shift, sums, ld, chunks);
    constants(j, &from, shift, scale, offset);
    return (struct parts){ shift, scale, offset };
}

void ISA_FN(group_norm)(const struct norm_job *j)
{
    struct parts p = find_constants(j);
    bool bf16 = j->dtype == DT_BF16;
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < j->pixels; i++) {
        if (bf16)
            norm_pixel(j, p.shift, p.scale, p.offset, i, true);
        else
            norm_pixel(j, p.shift, p.scale, p.offset, i, false);
    }
}

void ISA_FN(norm_constants)(const struct norm_job *j, float *scale, float *offset)
{
    struct parts p = find_constants(j);
    for (size_t c = 0; c < j->c; c++) {
        scale[c] = p.scale[c];
        offset[c] = p.offset[c] - p.shift[c] * p.scale[c];
    }
}
