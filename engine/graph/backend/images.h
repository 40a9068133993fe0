/* images.h - what a back end may do beside the network: keep a request's images in its own memory (backend_ops.images).
 *
 * Tiles of the network's input are cut from the measurement there, restored tiles are blended into fixed point, samples are folded into
 * statistics, and what is returned is made of them: the arithmetic of engine/davi on the host and the same bytes, whatever the order of
 * the tiles. Only the noise in a hole may differ in its last float digit, and a residual is summed in another order.
 * All pointers but those named host are memory from `alloc`. Nothing waits or allocates; ops follow the others of the back end in order. */
#ifndef DAVID_GRAPH_IMAGES_H
#define DAVID_GRAPH_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct backend;

/* The measurement operators A (engine/README.md section 4). A back end may lack some. */
enum operator_kind {
    OPERATOR_BLUR,
    OPERATOR_POOL4,
    OPERATOR_MASK,
    OPERATOR_IDENTITY,
    OPERATOR_GRAY,
    OPERATOR_POOL2,
    OPERATOR_JPEG
};

enum {
    BLUR_REACH = 30,
    BLUR_TAPS = 2 * BLUR_REACH + 1,
    BLEND_BITS = 12, /* weights of a tile, an axis, sum up to 2^12 at every pixel */
    BLEND_ONE = 1 << BLEND_BITS,
    VALUE_BITS = 30, /* a value v of [-1,1] is v * 2^30, times a weight of 2^(2 * BLEND_BITS) */
    FOLD_BITS = 23   /* of a finished sample in sum and sum of squares: 2^16 squares fit an int64 */
};

/* A measurement as it lies in memory. */
struct observed {
    const void *pixels;             /* [h][w][channels], tight; 8 or 16 bits, or F32 (depth 32) */
    uint32_t w, h, channels, depth; /* 1..4 channels, alpha counted (the last of 2 or 4) */
    uint32_t
        y_channels; /* 1 or 3: 1 where gray (repeated) or colorize (0.3333 R + 0.3334 G + 0.3333 B) */
    uint32_t scale; /* 1, 2 or 4: the network's input is the measurement resized by it */
    const uint8_t *observed_mask; /* [h][w] nonzero where measured; NULL but for MASK */
    uint64_t seed; /* of the hole's noise: stream 1, sample 0; not used with depth 32 */
    float sigma;
};

struct extract_args {
    struct observed m;
    uint32_t out_w, out_h, tile, x0,
        y0;      /* px of the restored image; beyond its edges: by reflection */
    float *y_in; /* out: [tile][tile][3] F32 */
};

/* acc += weight * round(2^30 clamp(v)) over the part of the tile inside the image; one channel: the mean of three, in integers.
 * Nothing where *bad. */
struct blend_args {
    const float *x0;         /* [tile][tile][3] F32 */
    const uint16_t *wx, *wy; /* [tile] */
    uint32_t tile, at_x, at_y;
    uint32_t out_w, out_h, out_c; /* out_c 1 or 3 */
    int64_t *acc;                 /* [out_h][out_w][out_c] */
    const uint32_t *bad;          /* one flag or NULL */
};

/* Samples that are finished: of acc (sum NULL: there is one sample), or of sums over several. */
struct finished {
    const int64_t *acc, *sum, *sum2; /* [count] */
    uint32_t samples;
    size_t count; /* values of a image */
};

/* y = A x, float images; x: [h][w][c]. */
struct operator_args {
    enum operator_kind op;
    uint32_t w, h, c;
    const uint8_t *observed_mask; /* [h][w]; MASK only */
    const float *taps;            /* [BLUR_TAPS]; BLUR only */
    const float *x;
    float *y, *scratch; /* scratch: w * h * c floats; BLUR only */
};

/* out[0] = sum over measured entries of (ax - y)^2, out[1] = how many; one order of summation. */
struct residual_args {
    const float *ax;       /* [h][w][y_channels] */
    struct observed m;     /* no noise in the hole */
    double *scratch, *out; /* scratch: residual_scratch() doubles; out: [2] */
};

struct image_ops {
    uint32_t operators; /* 1 << enum operator_kind of those that `operate` has */
    /* Bytes of the back end's memory that images should take at most. */
    size_t (*pool_bytes)(struct backend *b);
    enum status (*clear)(struct backend *b, void *p, size_t bytes, struct error *err);
    enum status (*extract)(struct backend *b, const struct extract_args *a, struct error *err);
    /* bad[n] = 1 where row n of x has a value that is not finite, else 0; x: [n][count]. */
    enum status (*find_bad)(struct backend *b, const float *x, uint32_t n, size_t count,
                            uint32_t *bad, struct error *err);
    enum status (*blend)(struct backend *b, const struct blend_args *a, struct error *err);
    /* A finished sample into the statistics: sum += v, sum2 += v^2 (each may be NULL); acc = 0. */
    enum status (*accumulate)(struct backend *b, int64_t *acc, int64_t *sum, int64_t *sum2,
                              size_t count, struct error *err);
    /* The mean over samples, or the only one: as floats, or as pixels of `depth` (8 or 16) bits. */
    enum status (*mean)(struct backend *b, const struct finished *f, float *x, struct error *err);
    enum status (*round)(struct backend *b, const struct finished *f, uint32_t depth, void *pixels,
                         struct error *err);
    /* The unbiased deviation over samples: pixels of 8 bits whose white is *largest, the largest of all (0: they are black). */
    enum status (*deviation)(struct backend *b, const struct finished *f, double *largest,
                             uint8_t *pixels, struct error *err);
    enum status (*operate)(struct backend *b, const struct operator_args *a, struct error *err);
    size_t (*residual_scratch)(size_t px);
    enum status (*residual)(struct backend *b, const struct residual_args *a, struct error *err);
};

#endif
