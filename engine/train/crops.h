/* crops.h - training rows: a crop of a random photo, its measurement, and for inpainting a mask.
 *
 * A row is a function of (seed, step, row) and the folder. The probability that a crop is accepted
 * grows with its texture, as flat crops contribute little to the gradient. A crop may be reduced in
 * size by up to a factor, mirrored and rotated by multiples of 90 degrees. Holes are boxes and
 * brush strokes. Pure functions except for the dataset; any number of threads. */
#ifndef DAVID_TRAIN_CROPS_H
#define DAVID_TRAIN_CROPS_H

#include "engine/davi/operators.h"
#include "engine/train/dataset.h"
#include "engine/train/draws.h"

struct crop_options {
    uint32_t side; /* px */
    double jitter; /* a crop's sides before reduction: side .. jitter * side; >= 1 */
    /* Mean difference of neighbours, in levels, above which a crop is always accepted; 0: all
     * are. */
    double texture;
    uint64_t seed;
};

/* x: [side][side][3] in units of [-1,1] */
enum status crop_draw(struct dataset *d, const struct crop_options *o, uint64_t step, uint32_t row,
                      float *x, struct error *err);

/* observed_mask: [side][side], 0 in the hole, else 1 */
void mask_draw(const struct crop_options *o, uint64_t step, uint32_t row, uint8_t *observed_mask);

/* y = A x + sigma n, of operator_extent; a->x is a crop. scratch: operator_scratch_floats */
enum status measure(const struct crop_options *o, const struct operation *a, double sigma,
                    uint64_t step, uint32_t row, const float *x, float *y, float *scratch,
                    struct error *err);

#endif
