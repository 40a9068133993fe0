/* generator.h - the generator's answer and the gradient through it (engine/README.md sections 5 and
 * 9).
 *
 * G(x_q) = tanh(x_q - std_fwd_t eps), without tanh where the architecture's output is linear; x_q =
 * mu_x0 x + mu_x1 y_in at time t of the bridge (at t = 999, without x: y_in). The noise (1 -
 * abar_t) h z is added to x_q, or is the network's input channels 3 to 5. Answers are not clamped
 * here. Images are memory of the back end, arrays of [rows] are the host's. generator_init
 * allocates all memory; the network is borrowed. One thread at a time. */
#ifndef DAVID_TRAIN_GENERATOR_H
#define DAVID_TRAIN_GENERATOR_H

#include "engine/train/losses.h"
#include "engine/train/trainable.h"

/* The conditions of each row, for the embeddings that a network has (enum scalar). All host [rows]
 * or NULL. */
struct row_conditions {
    const uint32_t *t, *label;
    const float *sigma, *level;
};

/* The pixels of one row of the trainable's tape. */
size_t trainable_px(const struct trainable *l);
/* x: [rows][h][w][channels of the input]; y: [rows][h][w][channels of the output]. */
enum status trainable_run(struct trainable *l, const float *x, const struct row_conditions *told,
                          float *y, struct error *err);

/* Where the noise enters, and whether the answer has no tanh. */
struct generator_form {
    bool noise_channels, linear_output;
};

struct generator {
    struct trainable *net;
    const struct schedule *schedule;
    struct generator_form form;
    uint32_t rows, out_channels;
    size_t px, count; /* of a row; values of the images of a micro-batch */
    float *memory;
    float *x_q, *pred;  /* [rows][h][w][3]: the bridge's point, and the answer */
    float *input;       /* of the network: x_q, or [rows][h][w][6] */
    float *out, *d_out; /* [rows][h][w][out_channels] */
};

enum status generator_init(struct generator *out, struct trainable *net, const struct schedule *s,
                           struct generator_form form, struct error *err);
void generator_done(struct generator *g); /* takes a zeroed struct */

struct generator_input {
    const float *x, *y_in,
        *z;              /* [rows][h][w][3]; x NULL: t is 999 in every row; z NULL: no noise */
    double h;            /* of all rows, */
    const double *row_h; /* or of each: [rows] */
    struct row_conditions told; /* t: of the bridge */
};
/* Writes g->pred. */
enum status generator_predict(struct generator *g, const struct generator_input *in,
                              struct error *err);
/* Writes g->d_out from the answer's gradient, `by` times d_pred: [rows][h][w][3]; the variance has
 * no gradient. */
enum status generator_gradient(struct generator *g, const uint32_t *t, const float *d_pred,
                               double by, struct error *err);

#endif
