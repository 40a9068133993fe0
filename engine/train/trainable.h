/* trainable.h - a trainable network: its parameters, their gradients, the optimiser's moments, and
 * an optional running average.
 *
 * All are F32 arrays of one layout in memory of the back end; a tape runs the network. AdamW with
 * the betas and the weight decay of engine/README.md section 5. Owned by the caller, who calls
 * trainable_done before the back end is closed. One thread at a time. */
#ifndef DAVID_TRAIN_TRAINABLE_H
#define DAVID_TRAIN_TRAINABLE_H

#include "engine/graph/backward.h"

struct trainable {
    struct backend *b;
    struct graph *g;
    struct param_layout layout;
    float *params, *gradients, *m, *v; /* [layout.count] */
    float *average;                    /* NULL: there is none */
    struct tape *tape;
    uint64_t updates;
    /* trainable_init sets 0.9999 and 0.01; the caller may change them. */
    double average_decay, weight_decay;
};

struct trainable_options {
    struct backward_options tape;
    bool has_average;
};

/* Takes ownership of the graph, also on failure. With a forward_only tape there are no gradients
 * and no moments. */
enum status trainable_init(struct trainable *out, struct backend *b, struct graph *g,
                           const struct trainable_options *o, struct error *err);
void trainable_done(struct trainable *l); /* takes a zeroed struct */
size_t trainable_bytes(const struct trainable *l);

/* Fills the parameters (and the average) and packs them; the moments become zero. */
enum status trainable_load(struct trainable *l, const struct param_source *src, struct error *err);
enum status trainable_zero(struct trainable *l, struct error *err); /* the gradients */
enum status trainable_gradient_norm(struct trainable *l, double *out, struct error *err);
/* One update from the gradients; packs. */
enum status trainable_update(struct trainable *l, double lr, struct error *err);
/* The caller calls it after every update; every fifth call updates the average (engine/README.md
 * section 5). */
enum status trainable_follow(struct trainable *l, struct error *err);
double average_decay(uint64_t updates, double most); /* 0: a copy */

#endif
