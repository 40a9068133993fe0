/* images.h - the image ops of a back end: a request's images, before and after the network.
 *
 * The ops extract tiles of the network's input from the measurement, blend restored tiles into
 * fixed-point accumulators, accumulate finished samples into statistics, and round what is
 * returned. Every back end gives the same bytes, in whatever order the tiles come; two things may
 * differ: the last float digit of the noise in a hole, and the order in which a residual is summed.
 * engine/davi (restoration.c) decides geometry and order, and calls the ops of the back end whose
 * memory holds the images.
 *
 * All pointers are memory from `alloc`, unless a comment says host. No op allocates or waits; an
 * op runs after the ops of the same back end that were called before it. Shapes are checked by the
 * caller. */
#ifndef DAVID_GRAPH_IMAGES_H
#define DAVID_GRAPH_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct backend;

/* The arithmetic by which a back end applies a measurement operator A (engine/README.md section 4).
 * An operator names one of these as a trait (engine/davi/operators.h); several may share one. */
enum image_operator {
    IMAGE_OPERATOR_NONE, /* none: the host applies A row by row, and holds the images */
    IMAGE_OPERATOR_KEEP, /* A x = x */
    IMAGE_OPERATOR_MASK, /* x where `observed_mask` is nonzero, else 0 */
    IMAGE_OPERATOR_GRAY, /* 0.3333 R + 0.3334 G + 0.3333 B; of one channel: x */
    IMAGE_OPERATOR_POOL, /* means of `scale` x `scale` pixels */
    IMAGE_OPERATOR_TAPS  /* separable convolution by `taps`, zeros beyond the edge */
};

enum {
    BLUR_REACH = 30,
    BLUR_TAPS = 2 * BLUR_REACH + 1,
    BLEND_BITS = 12, /* weights of a tile, an axis, sum up to 2^12 at every pixel */
    BLEND_ONE = 1 << BLEND_BITS,
    VALUE_BITS = 30, /* a value v of [-1,1] is v * 2^30, times a weight of 2^(2 * BLEND_BITS) */
    FOLD_BITS = 23   /* of a finished sample in sum and sum of squares: 2^16 squares fit an int64 */
};

/* A measurement in memory. */
struct observed {
    const void *pixels;             /* [h][w][channels], tight; 8 or 16 bits, or F32 (depth 32) */
    uint32_t w, h, channels, depth; /* channels: 1..4, alpha counted (the last of 2 or 4) */
    uint32_t y_channels; /* 1 or 3; 1 of an image of three: 0.3333 R + 0.3334 G + 0.3333 B */
    uint32_t scale;      /* 1, 2 or 4: the network's input is the measurement enlarged by it */
    const uint8_t *observed_mask; /* [h][w] nonzero where measured; NULL: all of it is */
    uint64_t seed; /* of the hole's noise: stream 1, sample 0; not used with depth 32 */
    float sigma;   /* of the same */
};

/* y_in = a tile of the network's input: the measurement enlarged by `scale`, one channel repeated
 * to three, and noise in the hole. */
struct extract_args {
    struct observed m;
    uint32_t out_w, out_h; /* px of the restored image */
    uint32_t margin;       /* px around it, by reflection */
    uint32_t tile, x0, y0; /* px of the image with its margin; beyond its edges by reflection */
    float *y_in;           /* [tile][tile][3] F32 */
};

/* acc += wy[y] * wx[x] * round(2^30 clamp(v)) over the w x h pixels of a tile that lie in the
 * image; of out_c = 1, v is the mean of the three channels, in integers. Nothing where *bad. */
struct blend_args {
    const float *x0;         /* F32, at the first of these pixels; a row is 3 * tile floats */
    const uint16_t *wx, *wy; /* [w], [h] */
    uint32_t tile, w, h;     /* px */
    uint32_t at_x, at_y;     /* px of the image */
    uint32_t out_w, out_c;   /* out_c 1 or 3 */
    int64_t *acc;            /* [out_h][out_w][out_c] */
    const uint32_t *bad;     /* one flag or NULL */
};

/* Finished samples: of acc (sum NULL: there is one sample), or of sums over several. */
struct finished {
    const int64_t *acc, *sum, *sum2; /* [count] */
    uint32_t samples;
    size_t count; /* values of an image, or of a part of it */
};

/* y = A x, float images; x: [h][w][c]. */
struct operator_args {
    enum image_operator op;
    uint32_t w, h, c;
    uint32_t scale;               /* POOL: 2 or 4 */
    const uint8_t *observed_mask; /* MASK: [h][w] */
    const float *taps;            /* TAPS: [BLUR_TAPS] */
    const float *x;
    float *y, *scratch; /* scratch: TAPS: w * h * c floats */
};

/* out[0] += sum over measured entries of (ax - y)^2, out[1] += their number. */
struct residual_args {
    const float *ax;       /* [h][w][y_channels] */
    struct observed m;     /* without noise in the hole */
    double *scratch, *out; /* scratch: residual_scratch() doubles; out: [2] */
};

struct image_ops {
    /* Bits 1 << enum image_operator of what `operate` has. 0: `operate` is NULL, and engine/davi
     * applies A row by row on the host. */
    uint32_t operators;
    /* Bytes of the back end's memory that images may take. NULL where that is host memory. */
    size_t (*pool_bytes)(struct backend *b);
    enum status (*clear)(struct backend *b, void *p, size_t bytes, struct error *err);
    enum status (*extract)(struct backend *b, const struct extract_args *a, struct error *err);
    /* bad[n] = 1 where row n of x has a value that is not finite, else 0; x: [n][count]. */
    enum status (*find_bad)(struct backend *b, const float *x, uint32_t n, size_t count,
                            uint32_t *bad, struct error *err);
    enum status (*blend)(struct backend *b, const struct blend_args *a, struct error *err);
    /* A finished sample into the statistics: sum += v, sum2 += v^2 (sum2 may be NULL); acc = 0. */
    enum status (*accumulate)(struct backend *b, int64_t *acc, int64_t *sum, int64_t *sum2,
                              size_t count, struct error *err);
    /* The mean over samples, or the only one: as floats, or as pixels of `depth` (8 or 16) bits. */
    enum status (*mean)(struct backend *b, const struct finished *f, float *x, struct error *err);
    enum status (*round)(struct backend *b, const struct finished *f, uint32_t depth, void *pixels,
                         struct error *err);
    /* *largest = the largest unbiased deviation over samples; 0: they agree everywhere. */
    enum status (*largest_deviation)(struct backend *b, const struct finished *f, double *largest,
                                     struct error *err);
    /* The deviation as pixels of 8 bits, 255 at *largest; black where *largest is 0. */
    enum status (*deviation)(struct backend *b, const struct finished *f, const double *largest,
                             uint8_t *pixels, struct error *err);
    enum status (*operate)(struct backend *b, const struct operator_args *a, struct error *err);
    size_t (*residual_scratch)(size_t px);
    enum status (*residual)(struct backend *b, const struct residual_args *a, struct error *err);
};

/* engine/cpu/images.c: host memory. It is declared here because every restoration whose images lie
 * on the host uses it, whichever back end runs the network. `b` is not read and may be NULL; an op
 * is done when it returns, cannot fail, and any thread may call it. */
extern const struct image_ops cpu_images;

#endif
