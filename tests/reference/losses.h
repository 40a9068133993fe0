/* losses.h - the loss ops of the reference back end: F32 storage, double inside, one loop a
 * formula, no threads. */
#ifndef DAVID_TESTS_REFERENCE_LOSSES_H
#define DAVID_TESTS_REFERENCE_LOSSES_H

#include "engine/graph/backend.h"
#include "engine/graph/backend/losses.h"

extern const struct loss_ops reference_losses;

/* operators.c */
enum status reference_operate(struct backend *b, const struct rows_operator *a, const float *x,
                              float *y, struct error *err);
enum status reference_adjoint(struct backend *b, const struct rows_operator *a, const float *y,
                              float *x, struct error *err);

#endif
