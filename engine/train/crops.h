/* crops.h - training rows: a crop of a random photo, its measurement, and for inpainting a hole.
 *
 * Where a row comes from is a function of (seed, step, row) and the folder. A crop is taken from a photo with a probability that
 * grows with its texture: flat sky teaches little. It may be shrunk by up to a factor, mirrored and turned by quarters.
 * Holes are boxes and brush strokes. Pure but for the dataset, which may be called by several threads. */
#ifndef DAVID_TRAIN_CROPS_H
#define DAVID_TRAIN_CROPS_H

#include "engine/davi/operators.h"
#include "engine/train/dataset.h"
#include "engine/train/draws.h"

struct crop_options {
    uint32_t side; /* px */
    double jitter; /* a crop's sides before shrinking: side .. jitter * side; >= 1 */
    double
        texture; /* mean difference of neighbours, in levels, from which on a crop is taken at once; 0: any */
    uint64_t seed;
};

/* x: [side][side][3] in units of [-1,1] */
enum status crop_draw(struct dataset *d, const struct crop_options *o, uint64_t step, uint32_t row,
                      float *x, struct error *err);

/* observed_mask: [side][side], 0 in the hole */
void mask_draw(const struct crop_options *o, uint64_t step, uint32_t row, uint8_t *observed_mask);

/* y = A x + sigma n, of operator_extent; a->x is a crop. scratch: operator_scratch_floats */
enum status measure(const struct crop_options *o, const struct operation *a, double sigma,
                    uint64_t step, uint32_t row, const float *x, float *y, float *scratch,
                    struct error *err);

#endif
