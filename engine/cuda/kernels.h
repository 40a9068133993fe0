/* kernels.h - the launchers of david's own CUDA kernels: all ops that cuDNN lacks or runs slower.
 *
 * Each launcher takes a plain struct and a stream (cudaStream_t), launches kernels on it and
 * returns at once: 0, or the cudaError_t of the launch. None allocates, waits, or reads host memory
 * after it has returned, so that each may be recorded into a CUDA graph. What differs between two
 * replays of a recorded graph is therefore in device memory (`condition`, `rows`, `t`, `label`). A
 * pointer is device memory unless its comment says host. Images are struct tensor: NHWC, F32, F16
 * or BF16, `ld` elements between pixels; data is aligned to 16 bytes where ld * size is a multiple
 * of 16, else to an element. Arithmetic and statistics are F32, with one order of summation for all
 * n. The caller has checked the shapes. Plain C; the same in C++. */
#ifndef DAVID_CUDA_KERNELS_H
#define DAVID_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/graph/backend/images.h"
#include "engine/graph/tensor.h"

/* ---- the network's feature maps ---- */

/* y = resample(silu((norm(x) gamma + beta) (1 + scale) + shift)); statistics in F32, in two passes
 * over the values (the mean, then the squares about it). UP: y is [n][2h][2w][c]. DOWN: y is
 * [n][h/2][w/2][c], of values rounded to the dtype. The bytes equal those of gpu_upsample and
 * gpu_downsample applied to the y of NONE. */
struct gpu_norm {
    /* [n][h][w][c], same dtype; may be the same buffer where nothing is resampled. */
    struct tensor x, y;
    uint32_t groups; /* c % groups == 0 */
    float eps;
    const float *gamma, *beta; /* [conditions][c] F32 */
    const uint32_t *condition; /* [n] or NULL: all 0 */
    const float *scale_shift;  /* NULL or [n] rows of [2c] F32: scale, then shift */
    size_t scale_shift_ld;     /* floats between rows of scale_shift; 0: one row for all */
    bool silu;
    enum resample resample;
    /* data NULL, or an output of y's shape where something is resampled: x itself, resampled. */
    struct tensor x_too;
    float *mean_rstd; /* NULL or an output: [n][groups][2] F32, for the backward pass */
    float *scratch;   /* gpu_norm_scratch() floats; NULL where that is 0 */
};
size_t gpu_norm_scratch(const struct tensor *x, uint32_t groups); /* host function; grows with n */
int gpu_group_norm(const struct gpu_norm *a, void *stream);

/* y: [n][2h][2w][c] = nearest of x: [n][h][w][c]; one dtype. */
int gpu_upsample(const struct tensor *x, const struct tensor *y, void *stream);
/* y: [n][h][w][c] = mean of 2 x 2 of x: [n][2h][2w][c]; one dtype. */
int gpu_downsample(const struct tensor *x, const struct tensor *y, void *stream);

/* Cells of p x p pixels become channels; p is the ratio of the sides. x: [n][p h][p w][c], y:
 * [n][h][w][p p c]; channel (dy p + dx) c + k of a cell is channel k of its pixel (dy, dx). The
 * second function is the inverse. One dtype; the bits are moved unchanged. x must not be y. */
int gpu_space_to_depth(const struct tensor *x, const struct tensor *y, void *stream);
int gpu_depth_to_space(const struct tensor *x, const struct tensor *y, void *stream);

/* y[first + k] = x[k] (+ add[k]) for k < x.c, and 0 for the next `zeros` channels of y; converts
 * between any two dtypes. Concatenation, cast, padding and the sum with an embedding all use this.
 * Same n, h, w; x may be y where the dtypes and ld are the same and first = 0. */
struct gpu_copy {
    struct tensor x, y; /* y.c is ignored: first + x.c + zeros <= y.ld */
    uint32_t first, zeros;
    /* NULL or F32; that of row n is at add + (condition ? condition[n] : n) * add_ld, [x.c]. */
    const float *add;
    size_t add_ld;             /* 0: one row for all */
    const uint32_t *condition; /* [n] or NULL */
};
int gpu_copy(const struct gpu_copy *a, void *stream);

/* y = conv(x) + bias[condition] (+ residual): any kernel 1 or 3 (padding kernel / 2), stride 1 or
 * 2, any channel counts. It supports every shape; cuDNN runs the wide ones. Two cases are
 * optimised: x.c <= 4 (conv_in: bound by writing y) and y.c <= 3 (conv_out: bound by reading x). */
struct gpu_conv {
    struct tensor x, y; /* [n][h][w][ic], [n][h'][w'][oc]; x and y may differ in dtype */
    uint32_t kernel, stride;
    const float *weight;       /* [kernel][kernel][ic][oc] F32 */
    const float *bias;         /* [conditions][oc] F32 */
    const uint32_t *condition; /* [n] or NULL */
    bool has_residual;
    struct tensor residual; /* y's shape and dtype, its own ld; may be y itself */
};
int gpu_conv(const struct gpu_conv *a, void *stream);

/* softmax(q k^T / sqrt(ch)) v over the h * w pixels of each feature map and each head; softmax in
 * F32; nothing of the size of (h * w)^2 is stored. */
enum { GPU_HEAD_CHANNELS_MAX = 256 };
struct gpu_attention {
    struct tensor qkv, y; /* [n][h][w][3c], [n][h][w][c]; same dtype */
    uint32_t heads;       /* c % heads == 0; c / heads <= GPU_HEAD_CHANNELS_MAX */
    /* Channels of qkv: false = head by head (q, k, v), true = all q, all k, all v. */
    bool new_order;
};
int gpu_attention(const struct gpu_attention *a, void *stream);

/* ---- embeddings: F32, [n][c] contiguous ---- */

/* y[n][i < c / 2] = cos(t[n] f_i), y[n][c / 2 + i] = sin(t[n] f_i), f_i = (float)exp(-ln(1e4) i /
 * (c / 2)); the product is rounded to F32 before an exact cosine (double), as in engine/cpu. */
int gpu_timestep(const float *t /* [n] */, uint32_t n, uint32_t c, float *y, void *stream);
/* y[n] = table[label[n]]; table: [classes][c] */
int gpu_label(const float *table, const uint32_t *label /* [n] */, uint32_t n, uint32_t c, float *y,
              void *stream);
/* y = x weight^T + bias; weight: [oc][ic], bias: [oc], x: [n][ic], y: [n][oc]; y must not be x. */
int gpu_linear(const float *weight, const float *bias, const float *x, float *y, uint32_t n,
               uint32_t ic, uint32_t oc, void *stream);
int gpu_silu(const float *x, float *y, size_t count, void *stream); /* y may be x */
int gpu_add(const float *x, const float *e, float *y, size_t count,
            void *stream); /* y may be x or e */

/* ---- the sampler: F32 ---- */

/* The parameters of a row of a batch, in device memory: so one launch (and one recorded graph)
 * serves rows of any requests. */
struct gpu_row {
    uint64_t seed;
    uint32_t stream, sample;
    uint32_t x0, y0;    /* px of the restored image */
    float hz;           /* noise gain times h */
    uint32_t condition; /* index into the program's constants */
};

/* dst[n][y][x][c] = Philox normals at pixels (x0 + x, y0 + y), engine/README.md section 3; x0 may
 * have any value (usually not a multiple of 4). */
struct gpu_normals {
    const struct gpu_row *rows; /* [n]; NULL: n = 1 and `row` */
    struct gpu_row row;
    uint32_t n, w, h, channels;
    float *dst;
};
int gpu_normals(const struct gpu_normals *a, void *stream);
/* x = y_in + hz z; [n][count] each; hz: rows[n].hz, or `hz` for all where rows is NULL. x may be
 * y_in or z. */
int gpu_sampler_in(const float *y_in, const float *z, const struct gpu_row *rows, float hz,
                   float *x, uint32_t n, size_t count, void *stream);
/* The noise as channels of its own: x: [n][pixels][6], three of y_in and then three of hz z; y_in,
 * z: [n][pixels][3]; hz as above. */
int gpu_sampler_join(const float *y_in, const float *z, const struct gpu_row *rows, float hz,
                     float *x, uint32_t n, size_t pixels, void *stream);
/* x0 = tanh(x - std eps), or x - std eps clamped to [-1, 1], where a NaN stays a NaN; x, x0:
 * [n][h][w][3] F32 (ld), eps: [n][h][w][>= 3] any dtype; x0 may be x. */
int gpu_sampler_out(const struct tensor *x, const struct tensor *eps, float std, bool linear,
                    const struct tensor *x0, void *stream);

/* ---- images on the device (engine/graph/backend/images.h): the arithmetic and the bytes of
 * engine/cpu/images.c ---- */

int gpu_extract(const struct extract_args *a, void *stream);
int gpu_find_bad(const float *x, uint32_t n, size_t count, uint32_t *bad, void *stream);
/* Exact integers, so the order does not matter, and overlapping tiles may be in flight on two
 * streams (atomic additions). */
int gpu_blend(const struct blend_args *a, void *stream);
int gpu_accumulate(int64_t *acc, int64_t *sum, int64_t *sum2, size_t count, void *stream);
int gpu_mean(const struct finished *f, float *x, void *stream);
int gpu_round(const struct finished *f, uint32_t depth, void *pixels, void *stream);
/* 128-bit integers as on the host. */
int gpu_largest_deviation(const struct finished *f, double *largest, void *stream);
int gpu_deviation(const struct finished *f, const double *largest, uint8_t *pixels, void *stream);
/* Bits of enum image_operator: those that it has. */
enum {
    GPU_OPERATORS = 1 << IMAGE_OPERATOR_KEEP | 1 << IMAGE_OPERATOR_MASK | 1 << IMAGE_OPERATOR_GRAY |
                    1 << IMAGE_OPERATOR_POOL | 1 << IMAGE_OPERATOR_TAPS
};
int gpu_operator(const struct operator_args *a, void *stream);
size_t gpu_residual_scratch(size_t px); /* host function; in doubles */
int gpu_residual(const struct residual_args *a, void *stream);

#ifdef __cplusplus
}
#endif
#endif
