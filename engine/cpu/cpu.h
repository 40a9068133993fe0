/* cpu.h - the inside of the CPU back end: its state, and the rooms that share it.
 *
 * Scratch memory belongs to the back end and grows when a plan is made, so that running allocates nothing; one thread drives
 * a back end at a time. */
#ifndef DAVID_CPU_H
#define DAVID_CPU_H

#include <dnnl.h>

#include "engine/cpu/kernels.h"

enum { CPU_SCRATCH_SRC, CPU_SCRATCH_DST, CPU_SCRATCH_PAD, CPU_SCRATCH_NORM, CPU_SCRATCHES };

struct cpu_backend {
    struct backend base;
    const struct cpu_kernels *kernels;
    int threads;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct {
        void *data;
        size_t bytes;
    } scratch[CPU_SCRATCHES];
};

static inline struct cpu_backend *cpu_of(struct backend *b)
{
    return (struct cpu_backend *)b;
}

/* At least `bytes`, 64-byte aligned; contents are lost. */
enum status cpu_scratch_reserve(struct cpu_backend *cpu, int which, size_t bytes,
                                struct error *err);

/* conv.c */
enum status cpu_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                          const float *bias, struct conv_plan **out, struct error *err);
void cpu_conv_plan_free(struct backend *b, struct conv_plan *p);
enum status cpu_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                     const struct tensor *residual, const struct tensor *y, const uint32_t *set,
                     struct error *err);

#endif
