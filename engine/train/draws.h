/* draws.h - every random number of a training run, a function of (seed, step, row, enum draw)
 * alone.
 *
 * So interrupting and resuming a run, or dividing its batches into micro-batches, does not change
 * its numbers. Philox (engine/graph/philox.h) with a key of seed and step; rows are indices in the
 * whole batch. Pure functions. */
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
    DRAW_WEIGHTS,   /* initial weights of a network */
    DRAW_CONDITIONS /* sigma and level */
};

/* The key of a step. backend_ops.normals takes it too, with draw_stream as the stream and the row
 * as the sample. */
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
