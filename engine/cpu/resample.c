/* Loops that read a feature map once: copies, resampling, cells of pixels. */
#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

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

void ISA_FN(patch)(const struct patch_job *j)
{
    const size_t size = dtype_size(j->dtype), bytes = j->c * size, p = j->patch;
    const size_t cell_ld = (j->to_cells ? j->y_ld : j->x_ld) * size;
    const size_t pixel_ld = (j->to_cells ? j->x_ld : j->y_ld) * size;
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->h * j->w; i++) {
        const size_t y = i / j->w * p, x = i % j->w * p;
        for (size_t k = 0; k < p * p; k++) {
            const size_t cell = i * cell_ld + k * bytes;
            const size_t pixel = ((y + k / p) * p * j->w + x + k % p) * pixel_ld;
            if (j->to_cells)
                memcpy((char *)j->y + cell, (const char *)j->x + pixel, bytes);
            else
                memcpy((char *)j->y + pixel, (const char *)j->x + cell, bytes);
        }
    }
}
