/* scores.h - objectives that compare answers with the truth alone: regression and the energy score (engine/README.md section 9).
 *
 * Images are F32 [rows][h][w][3] in units of [-1,1], answers not clamped. Values are means over rows; gradients are added to d_pred,
 * those of `weight` times the value. Sums are double. Pure functions; memory is the caller's. */
#ifndef DAVID_TRAIN_SCORES_H
#define DAVID_TRAIN_SCORES_H

#include <stddef.h>
#include <stdint.h>

enum distance {
    DISTANCE_L1,  /* mean absolute difference over pixels and channels: fair CRPS */
    DISTANCE_NORM /* mean over pixels of the Euclidean norm over channels: energy score */
};
enum regression { REGRESSION_L1, REGRESSION_L2 };

enum { ENERGY_SCALES = 4 }; /* averages over 1, 2, 4 and 8 px a side */

struct answers {
    uint32_t rows, w, h;
    const float *pred, *x;
};

/* mean |pred - x| or mean (pred - x)^2 */
double regression_loss(const struct answers *a, enum regression kind, double weight, float *d_pred);

/* Rows 2i and 2i + 1 are two answers to one measurement, x is the same in both. At each scale
 * (d(a, x) + d(b, x)) / 2 - d(a, b) / 2, times the scale's weight. w and h are multiples of 8. scratch: energy_scratch floats */
size_t energy_scratch(uint32_t w, uint32_t h);
double energy_loss(const struct answers *a, enum distance d, const double weights[ENERGY_SCALES],
                   double weight, float *d_pred, float *scratch);

#endif
