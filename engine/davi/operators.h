/* operators.h - the tasks, and the measurement operator A of each (engine/README.md section 4).
 *
 * Images are float, interleaved [h][w][c], in [-1,1], of any size. A is applied row by row, from a
 * source to a sink, so a large image needs only a few rows of scratch; the functions on whole
 * images run the same code. Everything else about an operator is in its traits: only the files of
 * operators/ know which operator they are.
 * Scratch is the caller's, operator_scratch_floats() long. Only an operator with working_bytes
 * allocates memory and may fail. Pure functions; any thread. */
#ifndef DAVID_DAVI_OPERATORS_H
#define DAVID_DAVI_OPERATORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/graph/backend/images.h"
#include "proto/images/image.h"

enum operator_kind {
#define OPERATOR(id, name) OPERATOR_##id,
#define TASK(...)
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK
    OPERATOR_COUNT
};

struct task_desc {
    const char *name;
    enum operator_kind op;
    double sigma;                 /* of the noise, units of [-1,1] */
    double sigma_range[2];        /* of the training of a network with sigma_cond */
    double h;                     /* of the sampler's noise: perturb_h */
    double level, level_range[2]; /* of the operator (its traits say what it is); 0: it has none */
    double level_gain;            /* an input of the network is level_gain * level */
    double t_ikl, weight_con, reg_coeff; /* training, engine/README.md section 5 */
};

enum task_id {
#define OPERATOR(...)
#define TASK(id, ...) TASK_##id,
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK
    TASK_COUNT
};
extern const struct task_desc task_table[TASK_COUNT];
const struct task_desc *task_find(const char *name); /* NULL: no such task */

/* ST_BAD_PARAMETER where the operator cannot be of this level. */
enum status task_check_level(const struct task_desc *t, double level, struct error *err);

struct extent {
    uint32_t w, h, c;
};

/* A for one image. */
struct operation {
    enum operator_kind op;
    double level;    /* not read where the operator has none */
    struct extent x; /* of the image that A takes */
    /* [x.h][x.w] nonzero where measured; not read without needs_mask */
    const uint8_t *observed_mask;
};

/* Rows of an image, on demand and in ascending order. */
struct row_source {
    void (*get)(void *ctx, uint32_t y, float *row);
    void *ctx;
};
struct row_sink {
    void (*put)(void *ctx, uint32_t y, const float *row);
    void *ctx;
};

struct operator_traits {
    /* Shapes, and with them the network's input: y enlarged by `scale` (bilinear, half-pixel
     * centres, clamped edges), a gray one repeated. */
    uint32_t scale;     /* px of x, a side, for one of y: 1, 2 or 4 */
    bool is_gray;       /* y has one channel, x has three */
    uint32_t most_side; /* px of x; 0: any */

    bool needs_mask;   /* x has a hole; alpha marks it and nothing else */
    bool keeps_values; /* A leaves what it measures as it is */

    uint32_t cell; /* px a side of cells in which A depends on a pixel's place; 0: it does not */

    const char *level; /* what its parameter is; NULL: it has none */
    double level_least, level_most;
    double (*level_of)(const struct image *y); /* that a file states, 0: none; may be NULL */

    /* How a device applies A; 0: it does not, and the images of such a restoration stay on the
     * host. IMAGE_OPERATOR_TAPS needs `taps`. */
    enum image_operator on_device;
    void (*taps)(double level, float *taps); /* [BLUR_TAPS], of a separable convolution; or NULL */

    size_t (*scratch)(struct extent x);       /* floats */
    size_t (*working_bytes)(struct extent x); /* that `rows` allocates at most; or NULL */
    enum status (*rows)(const struct operation *a, struct row_source from, struct row_sink to,
                        float *scratch, struct error *err);
    /* x = A^T y, the adjoint; NULL: A is not linear */
    void (*transpose)(const struct operation *a, const float *y, float *x, float *scratch);
    void (*pinv)(const struct operation *a, const float *y, float *x); /* x = A^+ y; NULL: none */
};
const struct operator_traits *operator_of(enum operator_kind op);

struct extent operator_extent(enum operator_kind op, struct extent x); /* of A x */
size_t operator_scratch_floats(enum operator_kind op, struct extent x);
size_t operator_working_bytes(enum operator_kind op, struct extent x);

enum status operator_rows(const struct operation *a, struct row_source from, struct row_sink to,
                          float *scratch, struct error *err);
/* y = A x; x and y do not overlap. */
enum status operator_apply(const struct operation *a, const float *x, float *y, float *scratch,
                           struct error *err);

#endif
