/* denoising.h - one micro-batch of learning to denoise: all of a prior's step, and half of the score's (engine/README.md section 5).
 *
 * Everything random is given. Gradients are added to the trainable's, this micro-batch by its `share` of the batch: who calls zeroes
 * them before and updates after. Images are F32 [rows][h][w][3] in memory that both the host and the back end may touch. */
#ifndef DAVID_TRAIN_DENOISING_H
#define DAVID_TRAIN_DENOISING_H

#include "engine/train/generator.h"
#include "engine/train/losses.h"

struct denoising {
    const struct schedule *schedule;
    const float *x0, *noise; /* clean images and what is put on them */
    const uint32_t *t;       /* [rows], rows those of the trainable's tape */
    double share;
    float *x_t;    /* scratch, as the images */
    float *y, *dy; /* scratch, [rows][h][w][6] */
};

struct denoising_report {
    double mse, vb; /* means over the micro-batch */
    double row_mse[MOST_ROWS], row_vb[MOST_ROWS];
};

enum status learn_to_denoise(struct trainable *net, const struct denoising *a,
                             struct denoising_report *out, struct error *err);

#endif
