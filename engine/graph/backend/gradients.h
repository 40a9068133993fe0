/* gradients.h - what a back end computes in training: the gradient of every op of ops.h, the
 * forward passes that only training has, and the optimiser.
 *
 * Parameters and their gradients are F32 in memory of the back end, in the layout of the
 * checkpoints ([oc][ic][k][k]). They belong to the caller and change after every update, so an op
 * takes them when it runs; only a convolution packs its own (conv_pack). Gradients of feature maps
 * have the feature maps' dtype; all sums are F32 or better. The gradient of a parameter is added to
 * what is there; NULL: it is not wanted. Unlike in ops.h, all rows of a tensor run together.
 * Functions that run an op allocate nothing. Threads and errors as in backend.h. A back end that
 * trains has every function; a tape is refused where one that it needs is NULL (supports_op of
 * op_run.h). */
#ifndef DAVID_GRAPH_BACKEND_GRADIENTS_H
#define DAVID_GRAPH_BACKEND_GRADIENTS_H

#include <stdbool.h>

#include "engine/graph/backend/ops.h"
#include "engine/graph/tensor.h"
#include "proto/error.h"

struct backend;

struct trained_conv;
struct trained_attention;

/* The destination of a gradient g: dst = g, or dst += g. dst.data NULL: it is not wanted. */
struct into {
    struct tensor dst;
    bool add;
};

struct trained_conv_desc {
    uint32_t h, w, ic, oc; /* of x; y has oc channels */
    uint32_t kernel;       /* 1, 3 or 4; padding kernel / 2 */
    uint32_t stride;       /* 1 or 2; output (h + 2 (kernel / 2) - kernel) / stride + 1 */
    enum dtype dtype;
    size_t x_ld, y_ld, r_ld; /* as in conv_desc; r_ld 0: no residual */
    size_t dy_ld, dx_ld;     /* dx_ld 0: the gradient of x is never wanted */
    bool dx_add;             /* the gradient of x is added to what is there */
};

/* A group norm as it ran (y is not read), the gradient of its output, and the destinations of those
 * of its inputs. */
struct group_norm_gradient_args {
    struct group_norm_args forward; /* condition: NULL */
    const double *moments;          /* as group_norm wrote them; NULL: they are computed again */
    struct tensor dy;               /* overwritten */
    struct into dx;                 /* dst may be dy where `add` is false */
    struct into dscale_shift;       /* [n][1][1][2c] F32 */
    float *dgamma, *dbeta;          /* [c] */
};

/* A batch norm. Its sums are computed in a function of their own, so that those of several
 * processes can be added before use. */
struct batch_norm_args {
    struct tensor x;           /* [n][h][w][c] */
    const float *gamma, *beta; /* [c] */
    const double *sums;        /* host: [2][c], of x and of its square */
    double count;              /* pixels that the sums are over: n h w of all processes */
    float eps;
};

struct adamw_args {
    float *param, *m, *v; /* [count] */
    const float *gradient;
    size_t count;
    double lr, beta1, beta2, eps, weight_decay;
    uint64_t step; /* of this update, from 1 */
};

struct gradient_ops {
    /* ---- convolution ---- */
    enum status (*conv_new)(struct backend *b, const struct trained_conv_desc *d,
                            struct trained_conv **out, struct error *err);
    void (*conv_free)(struct backend *b, struct trained_conv *c); /* takes NULL */
    size_t (*conv_bytes)(const struct trained_conv *c);           /* of its packed weights */
    /* weight: [oc][ic][kernel][kernel], bias: [oc]; both are read only during the call. The packed
     * copy serves until the next call. */
    enum status (*conv_pack)(struct backend *b, struct trained_conv *c, const float *weight,
                             const float *bias, struct error *err);
    /* y = conv(x) + bias (+ residual); residual may be y itself. */
    enum status (*conv)(struct backend *b, struct trained_conv *c, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y, struct error *err);
    /* dx: the transposed convolution of dy, [n][h'][w'][oc]. */
    enum status (*conv_data)(struct backend *b, struct trained_conv *c, const struct tensor *dy,
                             const struct tensor *dx, struct error *err);
    /* dweight: [oc][ic][kernel][kernel], dbias: [oc] or NULL. */
    enum status (*conv_weights)(struct backend *b, struct trained_conv *c, const struct tensor *x,
                                const struct tensor *dy, float *dweight, float *dbias,
                                struct error *err);

    /* ---- embeddings, all F32 [n][1][1][c] ---- */
    /* weight: [oc][ic], bias: [oc] */
    enum status (*linear)(struct backend *b, const float *weight, const float *bias,
                          const struct tensor *x, const struct tensor *y, struct error *err);
    enum status (*linear_gradient)(struct backend *b, const float *weight, const struct tensor *x,
                                   const struct tensor *dy, const struct into *dx, float *dweight,
                                   float *dbias, struct error *err);
    enum status (*silu_gradient)(struct backend *b, const struct tensor *x, const struct tensor *dy,
                                 const struct into *dx, struct error *err); /* dx may be dy */
    /* dtable: [classes][c], label: [n] host */
    enum status (*label_gradient)(struct backend *b, const uint32_t *label, const struct tensor *dy,
                                  float *dtable, struct error *err);

    /* ---- feature maps ---- */
    /* As net_ops.group_norm (condition: NULL), of all rows; moments: [n][groups][2], mean and 1 /
     * sqrt(variance + eps). */
    enum status (*group_norm)(struct backend *b, const struct group_norm_args *a, double *moments,
                              struct error *err);
    enum status (*group_norm_gradient)(struct backend *b, const struct group_norm_gradient_args *a,
                                       struct error *err);
    /* The softmax is computed again. dqkv: [n][h][w][3c], written. */
    enum status (*attention_new)(struct backend *b, const struct attention_desc *d,
                                 struct trained_attention **out, struct error *err);
    void (*attention_free)(struct backend *b, struct trained_attention *a); /* takes NULL */
    enum status (*attention_gradient)(struct backend *b, struct trained_attention *a,
                                      const struct tensor *qkv, const struct tensor *dy,
                                      const struct tensor *dqkv, struct error *err);
    /* dy: [n][2h][2w][c] -> dx: [n][h][w][c], the sum of four */
    enum status (*upsample_gradient)(struct backend *b, const struct tensor *dy,
                                     const struct into *dx, struct error *err);
    /* dy: [n][h][w][c] -> dx: [n][2h][2w][c], a quarter each */
    enum status (*downsample_gradient)(struct backend *b, const struct tensor *dy,
                                       const struct into *dx, struct error *err);
    /* dst (+)= x of the same shape, converted: for slices of a concat, sums and casts. */
    enum status (*copy_into)(struct backend *b, const struct tensor *x, const struct into *dst,
                             struct error *err);
    /* The gradient of add_channel: de: [n][1][1][c] F32 (+)= dy: [n][h][w][c] summed over the
     * pixels. */
    enum status (*channel_sums)(struct backend *b, const struct tensor *dy, const struct into *de,
                                struct error *err);

    /* ---- PatchGAN ---- */
    /* sums: host [2][c] */
    enum status (*batch_norm_sums)(struct backend *b, const struct tensor *x, double *sums,
                                   struct error *err);
    enum status (*batch_norm)(struct backend *b, const struct batch_norm_args *a,
                              const struct tensor *y, struct error *err);
    /* dsums: host [2][c], of dy and of dy times the normed x; they are also added to dbeta and
     * dgamma. */
    enum status (*batch_norm_gradient_sums)(struct backend *b, const struct batch_norm_args *a,
                                            const struct tensor *dy, double *dsums, float *dgamma,
                                            float *dbeta, struct error *err);
    /* dx may be dy where `add` is false. dsums, like a->sums: of all processes. */
    enum status (*batch_norm_gradient)(struct backend *b, const struct batch_norm_args *a,
                                       const struct tensor *dy, const double *dsums,
                                       const struct into *dx, struct error *err);
    /* y = x > 0 ? x : slope x; y may be x */
    enum status (*leaky_relu)(struct backend *b, const struct tensor *x, float slope,
                              const struct tensor *y, struct error *err);
    /* The sign of x is that of y. dx may be dy. */
    enum status (*leaky_relu_gradient)(struct backend *b, const struct tensor *y, float slope,
                                       const struct tensor *dy, const struct into *dx,
                                       struct error *err);

    /* ---- the optimiser: arrays of F32 ---- */
    /* p <- p (1 - lr wd) - lr m^ / (sqrt(v^) + eps): engine/README.md section 5. */
    enum status (*adamw)(struct backend *b, const struct adamw_args *a, struct error *err);
    /* average <- decay average + (1 - decay) x */
    enum status (*average)(struct backend *b, float *average, const float *x, size_t count,
                           float decay, struct error *err);
    enum status (*fill)(struct backend *b, float *x, size_t count, float value, struct error *err);
    /* x <- by x */
    enum status (*scale)(struct backend *b, float *x, size_t count, float by, struct error *err);
    /* out: host; summed in a fixed order; not finite if a value of x is not. */
    enum status (*sum_squares)(struct backend *b, const float *x, size_t count, double *out,
                               struct error *err);
};

#endif
