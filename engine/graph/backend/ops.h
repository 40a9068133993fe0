/* ops.h - what the ops of a network and of the sampler take from a back end: plans, descriptions and arguments.
 *
 * Feature maps are NHWC in the back end's compute dtype (F32, or BF16/F16 storage with F32 accumulation and statistics);
 * embeddings, biases, affine constants and labels are always F32. Tensors are in memory from `alloc`. Weights are given as F32
 * on the host and packed by *_plan. A plan has one fixed shape and takes any number of rows, so that the result of a row does
 * not depend on the load. */
#ifndef DAVID_GRAPH_BACKEND_OPS_H
#define DAVID_GRAPH_BACKEND_OPS_H

#include <stdbool.h>

#include "engine/graph/tensor.h"
#include "proto/error.h"

struct backend;
struct conv_plan;
struct linear_plan;
struct attention_plan;

/* Folded constants come in `conditions` sets, one per (t, label). A row picks its set by index: `condition` below is [n] on
 * the host, or NULL (all 0). */

/* What is done to a feature map as a convolution reads it: conv(resample(silu(norm(x)))). A back end that can do it
 * (`supports_prologue`) does not write and read the feature map in between. */
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

/* Sums over a feature map's pixels, from which a norm takes its mean and variance: of channel c of row n at
 * data[2 * n * ld + c], of its square at data[(2 * n + 1) * ld + c]. Memory from `alloc`; NULL: not wanted, or not known. */
struct moments {
    double *data;
    size_t ld;
};

/* The constants of a convolution's prologue, as in group_norm_args, and the moments that it reads and writes. */
struct prologue_args {
    const float *gamma, *beta;
    const uint32_t *condition;
    const struct tensor *scale_shift;
    /* Of x: in[0] of the channels below `split`, in[1] of the rest (two feature maps joined). in[0].data NULL: they are
     * computed. `split` is x's channels where in[1] is not used. */
    struct moments in[2];
    uint32_t split;
    struct moments out; /* of y: written */
};

/* With `norm_resamples` a norm can resample its result, after rounding it to the dtype. y is then [n][2h][2w][c] (UP) or
 * [n][h/2][w/2][c] (DOWN; h, w are even) and not x's buffer, and has the same bytes as the two ops one after the other.
 * x_too has y's shape and gets x itself resampled. */
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

/* Philox4x32-10 normals, engine/README.md section 3: dst[y][x][c] for c < channels at pixels (x0 + x, y0 + y). */
struct normals_args {
    uint64_t seed;
    uint32_t stream, sample;
    uint32_t x0, y0, w, h, channels;
    float *dst; /* [h][w][channels], memory from `alloc` */
};

#endif
