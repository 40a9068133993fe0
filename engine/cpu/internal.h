/* internal.h - what backend.c and conv.c share.
 *
 * The scratch belongs to the back end: plans say how much they need when they are made (cpu_scratch_reserve), run functions
 * only use it, and one thread drives a back end at a time. */
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

/* At least `floats` of scratch from now on; what is in it is lost. */
enum status cpu_scratch_reserve(struct cpu_backend *cpu, size_t floats, struct error *err);

/* What a norm over c channels needs of it, in floats. */
size_t cpu_norm_scratch(size_t c);
/* Row `row` of x, for its sums; what a norm needs besides is left zero. */
struct norm_job cpu_norm_job(const struct cpu_backend *cpu, const struct tensor *x, uint32_t row);

/* Row n of a tensor. */
void *cpu_row(const struct tensor *t, uint32_t n);
enum status cpu_expect(bool ok, const char *what, struct error *err);
#ifdef __clang_analyzer__ /* as in error.h: what the one line in backend.c makes sure of */
#define cpu_expect(ok, what, err) ((void)cpu_expect(ok, what, err), (ok) ? ST_OK : ST_INTERNAL)
#endif
float *cpu_floats(size_t count); /* 64-byte aligned; NULL: no memory */

/* The ways of convolving, and how a plan's weights are packed: for training, which packs others in their place. */
enum way { WAY_DIRECT, WAY_WINOGRAD, WAY_BF16 };
struct bf16_shape;
struct conv_packing {
    enum way way;
    const struct bf16_shape *bf16;
    void *weight; /* direct, Winograd: F32 as conv.c says; BF16: as bf16_pack() */
    float *bias;  /* [conditions][oc] */
};
struct conv_packing cpu_conv_packing(struct conv_plan *p);

/* weight NULL: zeros, to be packed later. */
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
