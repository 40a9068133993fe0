/* tables.h - the functions of one instruction set, from which vectors.c of the same set builds the
 * table. Only for files compiled per set. */
#ifndef DAVID_CPU_TABLES_H
#define DAVID_CPU_TABLES_H

#include "engine/cpu/kernels.h"
#include "engine/cpu/vec.h"

/* Row n of a job of several rows; `pixels`: of its output. */
INLINE struct conv_job conv_row(const struct conv_job *j, size_t n, size_t pixels, bool bf16)
{
    struct conv_job row = *j;
    row.x = at(j->x, n * j->d->h * j->d->w * j->d->x_ld, bf16);
    row.y = at_mut(j->y, n * pixels * j->d->y_ld, bf16);
    if (j->residual) row.residual = at(j->residual, n * pixels * j->d->r_ld, bf16);
    return row;
}

void ISA_FN(conv_direct)(const struct conv_job *j);
void ISA_FN(conv_winograd)(const struct conv_job *j);
void ISA_FN(conv_bf16)(const struct conv_job *j);
void ISA_FN(norm_constants)(const struct norm_job *j, float *scale, float *offset);
void ISA_FN(moments)(const struct norm_job *j, double *to, size_t ld);
void ISA_FN(group_norm)(const struct norm_job *j);
void ISA_FN(attention)(const struct attention_job *j);
void ISA_FN(copy)(const struct copy_job *j);
void ISA_FN(upsample)(const struct resample_job *j);
void ISA_FN(downsample)(const struct resample_job *j);
void ISA_FN(patch)(const struct patch_job *j);
void ISA_FN(linear)(const float *weight, const float *bias, const float *x, float *y, uint32_t ic,
                    uint32_t oc, int threads);
void ISA_FN(silu)(const float *x, float *y, size_t count);
void ISA_FN(add)(const float *x, const float *e, float *y, size_t count);
void ISA_FN(normals)(const struct normals_args *a, int threads);
void ISA_FN(sampler_in)(const float *y_in, const float *z, float hz, float *x, size_t count,
                        int threads);
void ISA_FN(sampler_join)(const float *y_in, const float *z, float hz, float *x, size_t pixels,
                          int threads);
void ISA_FN(sampler_out)(const struct tensor *x, const struct tensor *eps, float std, bool linear,
                         const struct tensor *x0, int threads);

#endif
