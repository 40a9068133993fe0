/* operators.h - the tasks, and the measurement operator A of each (engine/README.md section 4).
 *
 * Images are float, interleaved [h][w][c], in units of [-1,1], of any size. A is computed row by
 * row from a source to a sink, so that a large image needs only a few rows of scratch; the
 * functions on whole images are the same code. What else there is to know of an operator stands
 * in its traits: nothing outside of operators/ and the tables looks at which one it is.
 * Scratch is the caller's, operator_scratch_floats() long. Only an operator with working_bytes
 * takes memory and may fail. Pure functions. */
#ifndef DAVID_DAVI_OPERATORS_H
#define DAVID_DAVI_OPERATORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/graph/images.h"
#include "proto/images/image.h"

struct task_desc {
    const char *name;
    enum operator_kind op;
    double sigma, sigma_range[2],
        h;                        /* units of [-1,1]; perturb_h. The range: what a network that is
                                        told sigma learns */
    double level, level_range[2]; /* of the operator (its traits say of what); 0: it has none */
    double level_gain;            /* what the network is told: level_gain * level */
    double t_ikl, weight_con, reg_coeff; /* training, engine/README.md section 5 */
};

enum task_id {
#define TASK(id, ...) TASK_##id,
#include "engine/davi/tasks.def"
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

/* A with what belongs to one image. */
struct operation {
    enum operator_kind op;
    double level;    /* not looked at where the operator has none */
    struct extent x; /* of the image that A takes */
    const uint8_t
        *observed_mask; /* [x.h][x.w] nonzero where measured; not looked at without needs_mask */
};

/* Rows of a image, on demand and in ascending order. */
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
    uint32_t scale;     /* px of x, a side, behind one of y: 1, 2 or 4 */
    bool is_gray;       /* y has one channel, and x three */
    uint32_t most_side; /* px of x; 0: any */

    bool needs_mask;   /* it has a hole; alpha marks one and is nothing else */
    bool keeps_values; /* A leaves what it measures as it is */

    /* Px a side of the cells by which A treats pixels, so that the place in one matters; 0: none. */
    uint32_t cell;

    const char *level; /* what its parameter is; NULL: it has none */
    double level_least, level_most;
    double (*level_of)(const struct image *y); /* what a file says of it, 0: nothing; or NULL */

    /* Of a separable convolution with zeros beyond the edge, which a device knows by its taps; or
     * NULL. */
    void (*taps)(double level, float *taps); /* [BLUR_TAPS] */

    size_t (*scratch)(struct extent x);       /* floats */
    size_t (*working_bytes)(struct extent x); /* that `rows` takes for itself at most; or NULL */
    enum status (*rows)(const struct operation *a, struct row_source from, struct row_sink to,
                        float *scratch, struct error *err);
    /* x = A^T y; NULL: A is not linear */
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

/* Bilinear enlarging with half-pixel centres and clamped edges: output column `at` of a line of n
 * values reads *i0 and *i1 with weight *w1 on the second. */
void resize_at(uint32_t scale, uint32_t at, uint32_t n, uint32_t *i0, uint32_t *i1, float *w1);

#endif
