/* draws.h - every random number of a training run, as a function of (seed, step, row, what it is for) and of nothing else.
 *
 * So a run may be interrupted, resumed and cut into micro-batches without a trace. Philox (engine/graph/philox.h), with a key
 * that the step is mixed into; rows are counted over the whole batch. Pure functions. */
#ifndef DAVID_TRAIN_DRAWS_H
#define DAVID_TRAIN_DRAWS_H

#include <stddef.h>
#include <stdint.h>

enum draw {
    DRAW_TIMES,   /* t and t_bridge of both steps */
    DRAW_SCORE_Z, /* normals, as images */
    DRAW_SCORE_NOISE,
    DRAW_GENERATOR_Z,
    DRAW_GENERATOR_NOISE,
    DRAW_MEASUREMENT, /* the measurement's noise */
    DRAW_CROP,        /* image, place, scale, flip */
    DRAW_MASK,
    DRAW_TASK,
    DRAW_WEIGHTS,   /* of a network that begins */
    DRAW_CONDITIONS /* sigma and level */
};

/* The key that belongs to a step; for backend_ops.normals too, whose stream is draw_stream and whose sample is the row. */
uint64_t draw_key(uint64_t seed, uint64_t step);
uint32_t draw_stream(enum draw what);

/* A sequence of numbers, uniform in (0, 1). */
struct rng {
    uint64_t key;
    uint32_t stream, row, at;
    uint32_t words[4];
};
struct rng rng_of(uint64_t seed, uint64_t step, enum draw what, uint32_t row);
double rng_uniform(struct rng *d);
uint32_t rng_below(struct rng *d, uint32_t n); /* 0 .. n - 1; n > 0 */

/* max(0, floor(1000 Beta(3, 1) - 0.5)) */
uint32_t draw_bridge_time(struct rng *d);

/* v[i] += by * n_i, of the normals of row `row`. */
void draw_add_normals(uint64_t seed, uint64_t step, enum draw what, uint32_t row, float *v,
                      size_t count, double by);

#endif
