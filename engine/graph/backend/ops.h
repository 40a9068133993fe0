/* ops.h - the ops of a network and of the sampler that a back end computes (engine/graph/ops.def),
 * with their plans.
 *
 * Feature maps are NHWC in the back end's compute dtype (F32, or BF16/F16 storage with F32
 * accumulation and statistics); embeddings, biases, affine constants and labels are always F32.
 * Tensors are in memory from `alloc`. Weights are given as F32 on the host and packed by *_plan. A
 * plan has one fixed shape and takes any number of rows, so that the result of a row does not
 * depend on the load. */
#ifndef DAVID_GRAPH_BACKEND_OPS_H
#define DAVID_GRAPH_BACKEND_OPS_H

#include <stdbool.h>

#include "engine/graph/tensor.h"
#include "proto/error.h"

struct backend;
struct conv_plan;
struct linear_plan;
struct attention_plan;

/* Folded constants come in `conditions` sets, one per (t, label). A row picks its set by index:
 * `condition` below is [n] on the host, or NULL (all 0). */

/* What is done to a feature map as a convolution reads it: conv(resample(silu(norm(x)))). A back
 * end that can do it (`supports_prologue`) does not write and read the feature map in between. */
struct prologue_desc {
    bool norm, silu;
    uint32_t groups;
    float eps;
    enum resample resample; /* needs `norm` */
};

struct conv_desc {
    uint32_t h, w; /* of the feature map that is convolved: after the prologue's resampling */
    uint32_t ic, oc;
    uint32_t kernel;     /* 1 or 3; padding kernel / 2 */
    uint32_t stride;     /* 1 or 2; output is ceil(h / stride) x ceil(w / stride) */
    uint32_t conditions; /* bias sets; >= 1 */
    enum dtype dtype;    /* of x, residual and y */
    size_t x_ld, y_ld;   /* elements between neighbouring pixels of x and y */
    size_t r_ld;         /* the same of the residual; 0: no residual */
    struct prologue_desc prologue;
    uint32_t rows; /* of the largest batch execution; 0: not known */
};

/* Sums over a feature map's pixels, from which a norm takes its mean and variance: of channel c of
 * row n at data[2 * n * ld + c], of its square at data[(2 * n + 1) * ld + c]. Memory from `alloc`;
 * NULL: not wanted, or not known. */
struct moments {
    double *data;
    size_t ld;
};

/* The constants of a convolution's prologue, as in group_norm_args, and the moments that it reads
 * and writes. */
struct prologue_args {
    const float *gamma, *beta;
    const uint32_t *condition;
    const struct tensor *scale_shift;
    /* Of x: in[0] of the channels below `split`, in[1] of the rest (two feature maps joined).
     * in[0].data NULL: they are computed. `split` is x's channels where in[1] is not used. */
    struct moments in[2];
    uint32_t split;
    struct moments out; /* of y: written */
};

/* With `norm_resamples` a norm can resample its result, after rounding it to the dtype. y is then
 * [n][2h][2w][c] (UP) or [n][h/2][w/2][c] (DOWN; h, w are even) and not x's buffer, and has the
 * same bytes as the two ops one after the other. x_too has y's shape and gets x itself
 * resampled. */
struct group_norm_args {
    struct tensor x, y; /* [n][h][w][c]; may be the same buffer */
    uint32_t groups;    /* c % groups == 0; 32 everywhere in engine/README.md */
    float eps;
    const float *gamma, *beta; /* [conditions][c] */
    const uint32_t *condition; /* [n] or NULL */
    /* NULL or [n][1][1][2c] F32: y = norm * (1 + ss[0..c)) + ss[c..2c) */
    const struct tensor *scale_shift;
    bool silu; /* y = silu(...) last */
    enum resample resample;
    const struct tensor *x_too; /* NULL, or out; only with a resampling */
};

struct attention_desc {
    uint32_t h, w, heads, head_channels; /* c = heads * head_channels; qkv has 3c channels */
    bool new_order; /* channels of qkv: false = head by head (q,k,v), true = q,k,v by heads */
    enum dtype dtype;
    size_t qkv_ld, y_ld;
};

/* Philox4x32-10 normals, engine/README.md section 3: dst[y][x][c] for c < channels at pixels (x0 +
 * x, y0 + y). */
struct normals_args {
    uint64_t seed;
    uint32_t stream, sample;
    uint32_t x0, y0, w, h, channels;
    float *dst; /* [h][w][channels], memory from `alloc` */
};

/* "May be NULL" marks what a back end may leave out. An op without its function is refused by
 * supports_op() (op_run.h) when a network that has it is loaded. Functions that run an op allocate
 * nothing. */
struct net_ops {
    /* weight: [oc][ic][kernel][kernel] F32 (PyTorch order), bias: [conditions][oc] F32 or NULL
     * (zeros); both are read only during the call. */
    enum status (*conv_plan)(struct backend *b, const struct conv_desc *d, const float *weight,
                             const float *bias, struct conv_plan **out, struct error *err);
    void (*conv_plan_free)(struct backend *b, struct conv_plan *p);
    /* Bytes of its packed weights and biases. May be NULL: as many elements of `dtype` as were
     * given. */
    size_t (*conv_plan_bytes)(const struct conv_plan *p);
    /* y = conv(x) + bias[condition] (+ residual). x: [n][h][w][ic], residual, y: [n][h'][w'][oc];
     * residual may be y itself (the same buffer). */
    enum status (*conv)(struct backend *b, struct conv_plan *p, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y,
                        const uint32_t *condition, struct error *err);

    /* Whether conv_with_prologue can run a plan with this prologue. Both may be NULL: norms stay
     * ops of their own. If it is true for one convolution of a dtype, every plan of that dtype can
     * write the moments of its output. x of a resampling prologue: [n][2h][2w][ic] (DOWN) or
     * [n][h/2][w/2][ic] (UP). */
    bool (*supports_prologue)(struct backend *b, const struct conv_desc *d);
    enum status (*conv_with_prologue)(struct backend *b, struct conv_plan *p,
                                      const struct tensor *x, const struct prologue_args *prologue,
                                      const struct tensor *residual, const struct tensor *y,
                                      const uint32_t *condition, struct error *err);

    /* weight: [oc][ic] F32, bias: [oc] F32 or NULL. */
    enum status (*linear_plan)(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                               const float *bias, struct linear_plan **out, struct error *err);
    void (*linear_plan_free)(struct backend *b, struct linear_plan *p);
    /* x: [n][1][1][ic], y: [n][1][1][oc], F32. */
    enum status (*linear)(struct backend *b, struct linear_plan *p, const struct tensor *x,
                          const struct tensor *y, struct error *err);

    enum status (*attention_plan)(struct backend *b, const struct attention_desc *d,
                                  struct attention_plan **out, struct error *err);
    void (*attention_plan_free)(struct backend *b, struct attention_plan *p);
    /* qkv: [n][h][w][3c] -> y: [n][h][w][c]; scale 1/sqrt(head_channels) overall, softmax in
     * F32. */
    enum status (*attention)(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err);

    enum status (*group_norm)(struct backend *b, const struct group_norm_args *a,
                              struct error *err);
    bool norm_resamples; /* false: group_norm takes only RESAMPLE_NONE */
    /* y = x + e; x, y: [n][h][w][c], e: [n][1][1][c] F32; x may be y. */
    enum status (*add_channel)(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err);

    /* The unary and binary ops of ops.def, which states their shapes. */
#define OP(name, traits, what)
#define UNARY_OP(name, function, traits, what)                                                     \
    enum status (*(function))(struct backend * b, const struct tensor *x, const struct tensor *y,  \
                              struct error *err);
#define BINARY_OP(name, function, traits, what)                                                    \
    enum status (*(function))(struct backend * b, const struct tensor *x, const struct tensor *o,  \
                              const struct tensor *y, struct error *err);
#include "engine/graph/ops.def"

    /* Embeddings, all F32 [n][1][1][c]; y may be x. */
    enum status (*timestep)(struct backend *b, const float *t /* host, [n]; any scalar */,
                            const struct tensor *y, struct error *err);
    enum status (*label)(struct backend *b, const float *table /* device, [classes][c] */,
                         const uint32_t *label /* host, [n] */, const struct tensor *y,
                         struct error *err);
    /* y = x, converted. Same h, w, c, and a tight ld on the F32 side; only x's c channels are
     * written where y's ld is wider. */
    enum status (*cast)(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err);

    /* The sampler (engine/README.md section 3). All F32. */
    enum status (*normals)(struct backend *b, const struct normals_args *a, struct error *err);
    /* x = y_in + hz * z; all [count] */
    enum status (*sampler_in)(struct backend *b, const float *y_in, const float *z, float hz,
                              float *x, size_t count, struct error *err);
    /* The noise as extra channels: x: [pixels][6], three of y_in and then three of hz * z; y_in, z:
     * [pixels][3]. */
    enum status (*sampler_join)(struct backend *b, const float *y_in, const float *z, float hz,
                                float *x, size_t pixels, struct error *err);
    /* x0 = tanh(x - std * eps), or x - std * eps clamped to [-1, 1]; x0 may be x; eps: [n][h][w][>=
     * 3] (ld), x: [n][h][w][3] (ld), x0: [n][h][w][3] */
    enum status (*sampler_out)(struct backend *b, const struct tensor *x, const struct tensor *eps,
                               float std, bool linear, const struct tensor *x0, struct error *err);
};

#endif
