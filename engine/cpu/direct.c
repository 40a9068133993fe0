/* Convolution as a matrix product: a block of output pixels is unrolled (taps x channels) and
 * multiplied by panels of packed weights. For every shape that Winograd does not support. */
#include <omp.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

enum { K_BLOCK = 512, COPIED_AT_ONCE = 64 /* from so many floats on memcpy pays */ };

INLINE void copy_floats(float *dst, const void *src, size_t n, bool bf16)
{
    if (!bf16 && n > COPIED_AT_ONCE) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i += VEC)
        vstore(dst, i, n - i, vload(src, i, n - i, bf16), false);
}

/* Writes pixels first .. first + rows of the output, as [rows][kernel * kernel * ic]. */
INLINE void unroll(const struct conv_job *j, float *a, size_t first, size_t rows, bool bf16)
{
    const struct conv_desc *d = j->d;
    int64_t kernel = d->kernel, pad = kernel / 2;
    size_t ow = (d->w + d->stride - 1) / d->stride;
    for (size_t r = 0; r < rows; r++) {
        int64_t oy = (int64_t)((first + r) / ow), ox = (int64_t)((first + r) % ow);
        for (int64_t ky = 0; ky < kernel; ky++)
            for (int64_t kx = 0; kx < kernel; kx++, a += d->ic) {
                int64_t y = oy * d->stride + ky - pad, x = ox * d->stride + kx - pad;
                if (y < 0 || y >= d->h || x < 0 || x >= d->w)
                    memset(a, 0, d->ic * sizeof *a);
                else
                    copy_floats(a, at(j->x, ((size_t)y * d->w + (size_t)x) * d->x_ld, bf16), d->ic,
                                bf16);
            }
    }
}

INLINE void finish(const struct conv_job *j, const float *c, size_t first, size_t rows, size_t oc0,
                   bool bf16)
{
    const struct conv_desc *d = j->d;
    size_t n = d->oc - oc0 < NR ? d->oc - oc0 : NR;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i += VEC) {
            vf v = vget(c + r * NR + i) + vload(j->bias, oc0 + i, n - i, false);
            if (j->residual) v += vload(j->residual, (first + r) * d->r_ld + oc0 + i, n - i, bf16);
            vstore(j->y, (first + r) * d->y_ld + oc0 + i, n - i, v, bf16);
        }
}

INLINE void piece(const struct conv_job *j, float *scratch, size_t block, size_t group,
                  size_t pixels, bool bf16)
{
    const struct conv_desc *d = j->d;
    size_t k = (size_t)d->kernel * d->kernel * d->ic, lda = k;
    size_t first = block * DIRECT_PIXELS, panels = (d->oc + NR - 1) / NR;
    size_t rows = pixels - first < DIRECT_PIXELS ? pixels - first : DIRECT_PIXELS;
    const float *a = scratch;
    if (d->kernel == 1 && d->stride == 1 && !bf16 && rows % MR == 0) {
        a = (const float *)j->x + first * d->x_ld;
        lda = d->x_ld;
    } else {
        unroll(j, scratch, first, rows, bf16);
        size_t padded = (rows + MR - 1) / MR * MR;
        memset(scratch + rows * k, 0, (padded - rows) * k * sizeof *scratch);
    }
    size_t end = (group + 1) * (DIRECT_CHANNELS / NR);
    for (size_t p = group * (DIRECT_CHANNELS / NR); p < panels && p < end; p++) {
        float c[DIRECT_PIXELS * NR] __attribute__((aligned(64)));
        const float *b = (const float *)j->weight + p * k * NR;
        for (size_t k0 = 0; k0 < k; k0 += K_BLOCK) {
            size_t n = k - k0 < K_BLOCK ? k - k0 : K_BLOCK;
            for (size_t r = 0; r < rows; r += MR)
                if (k0)
                    micro(a + r * lda + k0, lda, b + k0 * NR, n, c + r * NR, NR, true);
                else
                    micro(a + r * lda, lda, b, n, c + r * NR, NR, false);
        }
        finish(j, c, first, rows, p * NR, bf16);
    }
}

void ISA_FN(conv_direct)(const struct conv_job *j)
{
    const struct conv_desc *d = j->d;
    size_t oh = (d->h + d->stride - 1) / d->stride, ow = (d->w + d->stride - 1) / d->stride;
    size_t pixels = oh * ow, blocks = (pixels + DIRECT_PIXELS - 1) / DIRECT_PIXELS;
    size_t groups = (d->oc + DIRECT_CHANNELS - 1) / DIRECT_CHANNELS, each = blocks * groups;
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t i = 0; i < each * j->rows; i++) {
        float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
        bool bf16 = d->dtype == DT_BF16;
        const struct conv_job row = conv_row(j, i / each, pixels, bf16);
        if (bf16)
            piece(&row, scratch, i % blocks, i % each / blocks, pixels, true);
        else
            piece(&row, scratch, i % blocks, i % each / blocks, pixels, false);
    }
}
