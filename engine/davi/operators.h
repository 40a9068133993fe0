/* operators.h - the tasks, and the measurement operator A of each (engine/README.md section 4).
 *
 * Pictures are float, interleaved [h][w][c], in units of [-1,1], of any size. A is computed row by row from a source to a sink,
 * so that a large picture needs only a few rows of scratch; the functions on whole pictures are the same code. Pooling of a
 * size that 4 does not divide ignores the last columns and rows (a measurement is floor(w/4) x floor(h/4)).
 * Nothing here allocates or fails; scratch is the caller's, operator_scratch_floats() long. Pure functions. */
#ifndef DAVID_DAVI_OPERATORS_H
#define DAVID_DAVI_OPERATORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/graph/pictures.h"

struct task_desc {
    const char *name;
    enum operator_kind op;
    double sigma, sigma_range[2],
        h; /* units of [-1,1]; perturb_h. The range: what a network that is told sigma learns */
    double level, level_range[2]; /* of the operator: deblur's deviation in px; 0: it has none */
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

#define BLUR_STD 3.0
const float *blur_kernel(void); /* [BLUR_TAPS], sums to 1 */

/* Size of A x for an x of w x h x c. */
struct extent {
    uint32_t w, h, c;
};
struct extent operator_extent(enum operator_kind op, struct extent x);

size_t operator_scratch_floats(enum operator_kind op, struct extent x);

/* Rows of a picture, on demand and in ascending order. */
struct row_source {
    void (*get)(void *ctx, uint32_t y, float *row);
    void *ctx;
};
struct row_sink {
    void (*put)(void *ctx, uint32_t y, const float *row);
    void *ctx;
};
/* kept: [h][w], nonzero where measured; MASK only, else NULL. */
void operator_rows(enum operator_kind op, struct extent x, const uint8_t *kept,
                   struct row_source from, struct row_sink to, float *scratch);

/* y = A x. `x_size` is the picture's size in all three; x and y do not overlap. */
void operator_apply(enum operator_kind op, struct extent x_size, const uint8_t *kept,
                    const float *x, float *y, float *scratch);
/* x = A^T y */
void operator_transpose(enum operator_kind op, struct extent x_size, const uint8_t *kept,
                        const float *y, float *x, float *scratch);
/* x = A^+ y. false (x untouched) for BLUR: its singular values fall below any rounding, so it has no usable one. */
bool operator_pinv(enum operator_kind op, struct extent x_size, const uint8_t *kept, const float *y,
                   float *x);

/* Bilinear x4 with half-pixel centres and clamped edges: y to the size of the network's input. Output column `at` of a line of
 * n values reads *i0 and *i1 with weight *w1 on the second. */
void resize4_at(uint32_t at, uint32_t n, uint32_t *i0, uint32_t *i1, float *w1);

#endif
