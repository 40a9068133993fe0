/* kernels.h - the loops of the CPU back end, one table per instruction set.
 *
 * Every function computes ONE row (feature map); conv_direct and conv_winograd take several rows of
 * one plan. Results do not depend on `threads`, bit for bit: work is cut into pieces that depend on
 * the shape alone, and each piece is summed in a fixed order. Nothing is allocated: the caller
 * provides scratch, aligned to 64 bytes. Storage is F32 or BF16 (`dtype`), arithmetic and
 * statistics are F32. The caller has checked the shapes. */
#ifndef DAVID_CPU_KERNELS_H
#define DAVID_CPU_KERNELS_H

#include "engine/cpu/isa.h"
#include "engine/graph/backend.h"

enum {
    DIRECT_PIXELS = 72,    /* output pixels of one piece of a direct convolution */
    DIRECT_CHANNELS = 128, /* output channels of one piece of a direct convolution */
    WINOGRAD_TILES = 36,   /* 4x4 tiles of one piece of a Winograd convolution */
    WINOGRAD_POINTS = 36,
    NORM_CHUNKS = 64, /* pieces of a feature map, each with its own partial statistics */
    ATTENTION_QUERIES = 24
};

struct bf16_shape;

struct conv_job {
    const struct conv_desc *d;
    const void *weight; /* packed as in conv.c; F32, for conv_bf16 BF16 */
    const float *bias;  /* [oc] */
    const void *x, *residual;
    void *y;
    float *scratch; /* threads * scratch_stride */
    size_t scratch_stride;
    int threads;
    uint32_t rows; /* of x, residual and y, contiguous. conv_bf16: 1 */
    /* Only for conv_bf16: */
    const struct bf16_shape *bf16;
    const float *scale, *offset; /* prologue: [k] each, 0 beyond ic; NULL: no prologue */
    /* [partial_lines][2][panels * BF16_PANEL], zeroed by the caller; NULL: no moments are
     * wanted. */
    float *partial;
    double *moments; /* of y: [2][moments_ld] */
    size_t moments_ld;
};

struct norm_job {
    const void *x;
    void *y;
    enum dtype dtype;
    size_t pixels, x_ld, y_ld;
    uint32_t c, groups;
    float eps;
    /* gamma, beta: [c]; scale_shift: NULL or [2c]. */
    const float *gamma, *beta, *scale_shift;
    bool silu;
    /* Moments of x, [2][moments_ld] each: of the channels below split, and of the rest. NULL: they
     * are computed from x. */
    const double *moments[2];
    size_t moments_ld[2];
    uint32_t split;
    float *scratch; /* (2 * NORM_CHUNKS + 3) * (c rounded up to 16) */
    int threads;
};

struct attention_job {
    const struct attention_desc *d;
    const void *qkv;
    void *y;
    float *packed; /* keys and values, attention_packed_floats() floats */
    float *scratch;
    /* In floats: ATTENTION_QUERIES * (pixels rounded up to nr + 2 * head_channels). */
    size_t scratch_stride;
    int threads;
};

struct copy_job { /* y = x, or x + add[c]; converts between dtypes */
    const void *x;
    void *y;
    enum dtype from, to;
    size_t pixels, x_ld, y_ld;
    uint32_t c;
    const float *add;
    int threads;
};

struct resample_job { /* h, w: size of the smaller feature map */
    const void *x;
    void *y;
    enum dtype dtype;
    uint32_t h, w, c;
    size_t x_ld, y_ld;
    int threads;
};

/* Between a feature map of pixels and one of cells of patch x patch pixels. h, w: in cells. */
struct patch_job {
    const void *x;
    void *y;
    enum dtype dtype;
    uint32_t h, w, c, patch; /* c: channels of a pixel */
    size_t x_ld, y_ld;
    bool to_cells; /* false: from cells to pixels */
    int threads;
};

struct kernels {
    uint32_t nr; /* output channels of a weight panel */
    uint32_t vec;
    void (*conv_direct)(const struct conv_job *j);
    void (*conv_winograd)(const struct conv_job *j); /* 3x3, stride 1, ic % vec == 0 */
    void (*conv_bf16)(const struct conv_job *j); /* NULL where the instruction set has no BF16 */
    void (*group_norm)(const struct norm_job *j);
    /* to: [2][ld], per channel the sums over the pixels of x and of x^2. */
    void (*moments)(const struct norm_job *j, double *to, size_t ld);
    /* The norm as one scale and one offset per channel, for a convolution's prologue. x: BF16. */
    void (*norm_constants)(const struct norm_job *j, float *scale, float *offset);
    void (*attention)(const struct attention_job *j);
    void (*copy)(const struct copy_job *j);
    void (*upsample)(const struct resample_job *j);
    void (*downsample)(const struct resample_job *j);
    void (*patch)(const struct patch_job *j);
    /* weight: [oc][ic] */
    void (*linear)(const float *weight, const float *bias, const float *x, float *y, uint32_t ic,
                   uint32_t oc, int threads);
    void (*silu)(const float *x, float *y, size_t count);
    void (*add)(const float *x, const float *e, float *y, size_t count);
    void (*normals)(const struct normals_args *a, int threads);
    void (*sampler_in)(const float *y_in, const float *z, float hz, float *x, size_t count,
                       int threads);
    void (*sampler_join)(const float *y_in, const float *z, float hz, float *x, size_t pixels,
                         int threads);
    void (*sampler_out)(const struct tensor *x, const struct tensor *eps, float std, bool linear,
                        const struct tensor *x0, int threads);
};

const struct kernels *cpu_kernels_sse(void);
const struct kernels *cpu_kernels_avx2(void);
const struct kernels *cpu_kernels_avx512(void);
const struct kernels *cpu_kernels_avx512bf16(void);
const struct kernels *cpu_kernels_amx(void);

#endif
