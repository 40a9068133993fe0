/* internal.h - what backend.c and conv.c share.
 *
 * The back end owns the scratch. A plan reserves what it needs when it is made
 * (cpu_scratch_reserve); the run functions only use it. One thread uses a back end at a time. */
#ifndef DAVID_CPU_INTERNAL_H
#define DAVID_CPU_INTERNAL_H

#include "engine/cpu/kernels.h"

struct cpu_backend {
    struct backend base;
    const struct kernels *k;
    enum cpu_isa isa;
    int threads;
    bool has_bf16;
    float *scratch;
    size_t scratch_floats;
};

/* Grows the scratch to at least `floats`; its contents are lost. */
enum status cpu_scratch_reserve(struct cpu_backend *cpu, size_t floats, struct error *err);

/* Scratch of a norm over c channels, in floats. */
size_t cpu_norm_scratch(size_t c);
/* A job for the sums of row `row` of x; the members that only a norm needs are zero. */
struct norm_job cpu_norm_job(const struct cpu_backend *cpu, const struct tensor *x, uint32_t row);

/* Row n of a tensor. */
void *cpu_row(const struct tensor *t, uint32_t n);
enum status cpu_expect(bool ok, const char *what, struct error *err);
#ifdef __clang_analyzer__ /* as in error.h: states what the line in backend.c guarantees */
#define cpu_expect(ok, what, err) ((void)cpu_expect(ok, what, err), (ok) ? ST_OK : ST_INTERNAL)
#endif
float *cpu_floats(size_t count); /* aligned to 64 bytes; NULL: out of memory */

/* The convolution algorithms, and how a plan's weights are packed. Training uses it to pack new
 * weights in place. */
enum way { WAY_DIRECT, WAY_WINOGRAD, WAY_BF16 };
struct bf16_shape;
struct conv_packing {
    enum way way;
    const struct bf16_shape *bf16;
    void *weight; /* direct, Winograd: F32 as in conv.c; BF16: as in bf16_pack() */
    float *bias;  /* [conditions][oc] */
};
struct conv_packing cpu_conv_packing(struct conv_plan *p);

/* weight NULL: zeros, which are packed later. */
enum status cpu_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                          const float *bias, struct conv_plan **out, struct error *err);
void cpu_conv_plan_free(struct backend *b, struct conv_plan *p);
size_t cpu_conv_plan_bytes(const struct conv_plan *p);
bool cpu_supports_prologue(struct backend *b, const struct conv_desc *d);
enum status cpu_conv_with_prologue(struct backend *b, struct conv_plan *p, const struct tensor *x,
                                   const struct prologue_args *prologue,
                                   const struct tensor *residual, const struct tensor *y,
                                   const uint32_t *condition, struct error *err);
enum status cpu_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                     const struct tensor *residual, const struct tensor *y,
                     const uint32_t *condition, struct error *err);

#endif
