/* backward.h - the loops of the CPU back end that only training needs, one table per instruction
 * set.
 *
 * As kernels.h, with two differences: a function computes all rows of a tensor at once, and the
 * order of its sums follows from the shapes and from `threads`. Storage is F32 or BF16 (`dtype`);
 * sums, parameters and embeddings are F32. Nothing is allocated; the caller provides scratch,
 * aligned to 64 bytes, and has checked the shapes. */
#ifndef DAVID_CPU_BACKWARD_H
#define DAVID_CPU_BACKWARD_H

#include "engine/cpu/internal.h"
#include "engine/graph/backend/gradients.h"

enum {
    IM2COL_PIXELS = 72,  /* output pixels of one piece of an im2col convolution */
    GATHER_TAPS = 16,    /* the most taps of an im2col convolution */
    IM2COL_NARROW = 2,   /* up to so many output channels a panel does not pay */
    WEIGHTS_BAND = 2048, /* pixels that are packed at a time for a weight gradient */
    WEIGHTS_BLOCKS = 4, /* blocks of input channels that share the packed gradients of the output */
    BACKWARD_CHUNKS = 16, /* pieces of a row with partial sums of their own */
    ATTENTION_BLOCK = 48, /* queries whose softmax is held at a time */
    SQUARES_PIECE = 4096  /* numbers whose squares are summed in F32 */
};

/* y[i][j] of a lattice of output pixels = sum over taps of x[i in_step + dy][j in_step + dx] W_tap
 * (+ bias) (+ residual): a convolution of any stride, or one phase of a transposed one. */
struct im2col_job {
    uint32_t n;
    const void *x;
    enum dtype dtype;
    uint32_t h, w, c; /* of x */
    size_t x_ld;
    uint32_t taps, in_step;
    int32_t dy[GATHER_TAPS], dx[GATHER_TAPS];
    const float *weight; /* [o / nr][taps * c][nr], zero beyond o */
    /* Only im2col_amx: [o / 32][depth / 32][2][16 pairs][16][2]; depth: taps * c rounded up to
     * whole tiles. */
    const uint16_t *tiles;
    size_t depth;
    const float *bias; /* [o] or NULL */
    const void *residual;
    void *y;
    uint32_t rows, cols, o;        /* size of the lattice */
    uint32_t y0, x0, step, oh, ow; /* origin and step of the lattice in y; size of y */
    size_t y_ld, r_ld;
    float *scratch;
    /* In floats: IM2COL_PIXELS * taps * c; im2col_amx: im2col_amx_scratch(). */
    size_t scratch_stride;
    int threads;
};

/* dweight[o][c][tap] += sum over rows and pixels of x[.. + tap][c] dy[o] */
struct weights_job {
    const struct trained_conv_desc *d;
    uint32_t n, oh, ow;
    const void *x, *dy;
    float *dweight, *dbias; /* dbias: NULL or [oc] */
    float *scratch;         /* weights_scratch() floats */
    int threads;
};

/* Packs weights into a plan. The weight of (o, i, tap) is at o o_step + i i_step + tap; `turned`:
 * the taps are read in reverse order. `tap`: only these taps, in this order. */
struct pack_job {
    enum way way;
    const struct bf16_shape *bf16;
    uint32_t oc, ic, taps;
    const float *weight;
    size_t o_step, i_step;
    bool turned;
    const uint32_t *tap; /* [taps] or NULL */
    void *to;
    int threads;
};

/* For the forward pass, y is dx, dy is NULL and so are the other gradients. */
struct norm_gradient_job {
    uint32_t n, c, groups;
    size_t pixels;
    enum dtype dtype;
    const void *x;
    void *dy;           /* overwritten */
    void *dx;           /* NULL: not wanted */
    double *moments;    /* [n][groups][2] */
    bool known_moments; /* true: moments is an input; false: it is computed and stored */
    size_t x_ld, dy_ld, dx_ld, ss_ld, dss_ld;
    bool add, add_ss, silu;
    float eps;
    const float *gamma, *beta, *scale_shift;
    float *dscale_shift, *dgamma, *dbeta; /* or NULL */
    float *scratch;                       /* norm_gradient_scratch() floats */
    int threads;
};

struct batch_job {
    uint32_t n, c;
    size_t pixels;
    enum dtype dtype;
    const void *x, *dy; /* dy: NULL in the forward pass */
    void *out;
    size_t x_ld, dy_ld, out_ld;
    bool add;
    /* out = x scale + offset (+ dy by_dy), all [c]. The sums are of x and x^2, or of dy and dy (x
     * scale + offset). */
    const float *scale, *offset, *by_dy;
    double *sums;   /* [2][c] */
    float *scratch; /* n * BACKWARD_CHUNKS * 2 * c */
    int threads;
};

struct attention_gradient_job {
    const struct attention_desc *d;
    uint32_t n;
    const void *qkv, *dy;
    void *dqkv;
    size_t qkv_ld, dy_ld, dqkv_ld;
    float *scratch;
    size_t scratch_stride; /* attention_gradient_scratch() */
    int threads;
};

struct linear_gradient_job {
    uint32_t n, ic, oc;
    const float *weight, *x, *dy;
    size_t x_ld, dy_ld, dx_ld;
    float *dx, *dweight, *dbias; /* or NULL */
    bool add;
    int threads;
};

/* Two feature maps of n rows of `pixels`, read together. Resampling: h, w of the smaller one. */
struct elementwise_job {
    uint32_t n, h, w, c;
    enum dtype from, to;
    const void *x, *sign; /* sign: of leaky_relu, in the dtype of x */
    void *y;
    size_t x_ld, y_ld, sign_ld;
    bool add;
    float slope;
    int threads;
};

struct gradient_kernels {
    uint32_t vec, mr, nr;
    size_t (*weights_scratch)(const struct trained_conv_desc *d, int threads);
    size_t (*attention_scratch)(const struct attention_desc *d); /* floats per thread */
    void (*im2col)(const struct im2col_job *j);
    /* The same in BF16 on the tile registers, for more than IM2COL_NARROW output channels; NULL:
     * the set has no tile registers. */
    void (*im2col_amx)(const struct im2col_job *j);
    size_t (*im2col_amx_scratch)(const struct im2col_job *j); /* floats per thread */
    void (*weights)(const struct weights_job *j);
    void (*pack)(const struct pack_job *j);
    void (*group_norm)(const struct norm_gradient_job *j);
    void (*group_norm_gradient)(const struct norm_gradient_job *j);
    void (*attention)(const struct attention_gradient_job *j);
    void (*linear)(const struct linear_gradient_job *j);
    void (*batch_sums)(const struct batch_job *j);
    void (*batch_apply)(const struct batch_job *j);
    void (*silu)(const struct elementwise_job *j, const float *x, size_t ld);
    void (*copy_into)(const struct elementwise_job *j);
    void (*upsample)(const struct elementwise_job *j);
    void (*downsample)(const struct elementwise_job *j);
    void (*leaky_relu)(const struct elementwise_job *j);
    void (*channel_sums)(const struct elementwise_job *j, float *scratch);
    void (*adamw)(const struct adamw_args *a, int threads);
    void (*average)(float *average, const float *x, size_t count, float decay, int threads);
    void (*scale)(float *x, size_t count, float by, int threads);
    double (*sum_squares)(const float *x, size_t count, double *scratch, int threads);
};

const struct gradient_kernels *cpu_gradient_kernels_sse(void);
const struct gradient_kernels *cpu_gradient_kernels_avx2(void);
const struct gradient_kernels *cpu_gradient_kernels_avx512(void);
const struct gradient_kernels *cpu_gradient_kernels_amx(void);

/* The table of the back end's instruction set. */
const struct gradient_kernels *cpu_gradient_kernels(const struct cpu_backend *cpu);

extern const struct gradient_ops cpu_gradients;

/* Defined in backward_conv.c. */
enum status cpu_trained_conv_new(struct backend *b, const struct trained_conv_desc *d,
                                 struct trained_conv **out, struct error *err);
void cpu_trained_conv_free(struct backend *b, struct trained_conv *c);
size_t cpu_trained_conv_bytes(const struct trained_conv *c);
enum status cpu_trained_conv_pack(struct backend *b, struct trained_conv *c, const float *weight,
                                  const float *bias, struct error *err);
enum status cpu_trained_conv(struct backend *b, struct trained_conv *c, const struct tensor *x,
                             const struct tensor *residual, const struct tensor *y,
                             struct error *err);
enum status cpu_conv_data(struct backend *b, struct trained_conv *c, const struct tensor *dy,
                          const struct tensor *dx, struct error *err);
enum status cpu_conv_weights(struct backend *b, struct trained_conv *c, const struct tensor *x,
                             const struct tensor *dy, float *dweight, float *dbias,
                             struct error *err);

#endif
