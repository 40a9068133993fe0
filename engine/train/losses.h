/* losses.h - the objectives of engine/README.md section 5 and their gradients, on images in host memory.
 *
 * Images are F32 [rows][h][w][3] in units of [-1,1]; a network's output is [rows][h][w][6]: three channels of eps, three of the
 * variance's interpolation v. Values come back as means over the micro-batch, gradients as those of `scale` times the value.
 * Sums are double. Pure functions; memory is the caller's. */
#ifndef DAVID_TRAIN_LOSSES_H
#define DAVID_TRAIN_LOSSES_H

#include <stddef.h>

#include "engine/davi/operators.h"
#include "engine/davi/schedule.h"

enum { LOSS_CHANNELS = 3, OUTPUT_CHANNELS = 6 };

struct hybrid_args {
    const struct schedule *schedule;
    uint32_t rows;
    size_t px;                     /* of a row */
    const uint32_t *t;             /* [rows] */
    const float *x0, *x_t, *noise; /* [rows][px][3]: clean, noised, and the noise */
    const float *out;              /* [rows][px][6] */
    double scale;                  /* of the gradient: of the sum over rows of mse + vb */
    float *dout;                   /* [rows][px][6] */
    double *mse, *vb;              /* [rows] */
};
/* Mean squared error of eps, and the variational bound of the learned variance in bits, with eps held still in it. */
void hybrid_loss(const struct hybrid_args *a);

/* x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise, row by row. */
void diffuse(const struct schedule *s, uint32_t rows, size_t px, const uint32_t *t, const float *x0,
             const float *noise, float *x_t);

/* snr_t (x0_psi - x0_theta), both predicted from x_t without clipping: the noise cancels, and eps_theta - eps_psi is left. The
 * value is mean(field . pred). field: [rows][px][3] */
double ikl_loss(uint32_t rows, size_t px, const float *out_psi, const float *out_theta,
                const float *pred, float *field);

struct images {
    enum operator_kind op;
    uint32_t rows, w, h;
    const float *pred, *x;        /* [rows][h][w][3] */
    const float *y;               /* [rows] of operator_extent: the measurement as it is */
    const uint8_t *observed_mask; /* [rows][h][w] or NULL */
    double level;                 /* of the operator, of all rows; */
    const double *levels;         /* [rows]: of each; NULL: `level` */
};
/* mean (y - A pred)^2; 0, and no gradient, of an operator that is not linear.
 * scratch: consistency_scratch() floats. dpred: [rows][h][w][3] */
size_t consistency_scratch(enum operator_kind op, uint32_t w, uint32_t h);
double consistency_loss(const struct images *p, float *dpred, float *scratch);
/* mean (x - pred)^2; with a mask a tenth of it, and the mean over what is kept. observed_mask: observed_values, or where processes share a batch
 * the mean of theirs, so that the mean of their losses is that of the whole. */
double observed_values(const struct images *p);
double truth_loss(const struct images *p, double observed, float *dpred);

/* 0.5 mean relu(1 - sign d), sign 1 for true images and -1 for predictions; dd: [count], times scale. */
double hinge_loss(const float *d, size_t count, double sign, double scale, float *dd);
/* mean |a - b| and its gradient by a. */
double feature_loss(const float *a, const float *b, size_t count, float *da);

#endif
