/* denoising.h - one micro-batch of learning to denoise: all of a prior's step, and half of the
 * score's (engine/README.md section 5).
 *
 * The caller gives every random number. Gradients are added to the trainable's, weighted by the
 * micro-batch's `share` of the batch: the caller zeroes them before the first micro-batch and
 * updates after the last. Images are F32 [rows][h][w][3] in memory of the back end. One thread at a
 * time. */
#ifndef DAVID_TRAIN_DENOISING_H
#define DAVID_TRAIN_DENOISING_H

#include "engine/train/generator.h"

struct denoising {
    const struct schedule *schedule;
    const float *x0, *noise; /* clean images, and the noise that is added to them */
    const uint32_t *t;       /* host [rows], the rows of the trainable's tape */
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
