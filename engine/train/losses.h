/* losses.h - the loss ops of a back end, called with the constants of a schedule and the operators
 * of the tasks (engine/README.md section 5).
 *
 * The back end computes on the images: F32 [rows][h][w][3] in its memory, in units of [-1,1], owned
 * by the caller. The one exception is the consistency, where the host applies the operators if the
 * back end does not and its memory is the host's. t is host [rows]; rows: at most MOST_ROWS. One
 * thread drives the back end. */
#ifndef DAVID_TRAIN_LOSSES_H
#define DAVID_TRAIN_LOSSES_H

#include "engine/davi/operators.h"
#include "engine/davi/schedule.h"
#include "engine/graph/backend.h"
#include "engine/graph/backend/losses.h"

enum { MOST_ROWS = 256 }; /* of a micro-batch */

/* What a run does, so that the ops that it needs are known before its first step. */
enum loss_need {
    NEED_DENOISING = 1 << 0,  /* a prior's step, and half of the score's */
    NEED_ANSWERS = 1 << 1,    /* the generator's forward pass */
    NEED_GRADIENTS = 1 << 2,  /* and its backward pass */
    NEED_DAVI = 1 << 3,       /* the objective davi */
    NEED_ADJOINT = 1 << 4,    /* davi with a linear task */
    NEED_MASK = 1 << 5,       /* davi with a task that has a mask */
    NEED_REGRESSION = 1 << 6, /* objectives of engine/README.md section 9 */
    NEED_ENERGY = 1 << 7,
    NEED_SHEETS = 1 << 8 /* sheets of a prior */
};
/* needs: of enum loss_need. ST_UNSUPPORTED names the back end and the first op that it lacks. */
enum status losses_check(const struct backend *b, unsigned needs, struct error *err);

/* ST_BAD_PARAMETER: more rows than MOST_ROWS. */
enum status losses_check_rows(uint32_t rows, struct error *err);

/* x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise, row by row; px: of a row. */
enum status diffuse(struct backend *b, const struct schedule *s, uint32_t rows, size_t px,
                    const uint32_t *t, const float *x0, const float *noise, float *x_t,
                    struct error *err);
/* Fills out[rows]. */
void denoising_constants_of(const struct schedule *s, const uint32_t *t, uint32_t rows,
                            struct denoising_constants *out);

/* The consistency, mean (y - A pred)^2, and its gradient A^T 2 (A pred - y) / count. */
struct consistency {
    enum operator_kind op;
    uint32_t rows, w, h;
    const float *pred;            /* [rows][h][w][3] */
    const float *y;               /* [rows] of operator_extent: the measurement as it is */
    const uint8_t *observed_mask; /* [rows][h][w] or NULL */
    double level;                 /* of the operator, the same in all rows; */
    const double *levels;         /* host [rows]: of each row; NULL: `level` */
    float *scratch;               /* consistency_scratch() floats */
    float *taps;                  /* host [rows][BLUR_TAPS] */
};
size_t consistency_scratch(enum operator_kind op, uint32_t rows, uint32_t w, uint32_t h);
/* 0 and no gradient where the operator is not linear. dpred: [rows][h][w][3] */
enum status consistency_loss(struct backend *b, const struct consistency *c, double *value,
                             float *dpred, struct error *err);

#endif
