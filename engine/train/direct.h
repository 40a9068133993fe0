/* direct.h - one micro-batch of learning from the truth alone, at t = 999: regression, the energy
 * score, or both (engine/README.md section 9).
 *
 * The generator is borrowed; gradients are added to its trainable's, weighted by the micro-batch's
 * `share` of the batch. For the energy score, rows 2i and 2i + 1 are one measurement with two draws
 * of z. Images are memory of the back end, arrays of [rows] are the host's. direct_init allocates
 * all memory. One thread at a time. */
#ifndef DAVID_TRAIN_DIRECT_H
#define DAVID_TRAIN_DIRECT_H

#include "engine/train/generator.h"

struct direct_options {
    const struct schedule *schedule;
    struct generator_form form;
    double regression, energy; /* weights; 0: not computed */
    enum regression kind;
    enum distance distance;
    double scales[ENERGY_SCALES]; /* weights of 1, 2, 4, 8 px */
};

struct direct {
    struct direct_options o;
    struct generator answer;
    uint32_t w, h;
    float *memory, *d_pred, *scratch;
    uint32_t t[MOST_ROWS]; /* 999 */
};

/* ST_BAD_PARAMETER where the energy score does not fit: an odd number of rows, sides not multiples
 * of 8. */
enum status direct_init(struct direct *out, const struct direct_options *o,
                        struct trainable *generator, struct error *err);
void direct_done(struct direct *d); /* takes a zeroed struct */

struct direct_rows {
    const float *x, *y_in, *z;  /* [rows][h][w][3]; z NULL: no noise */
    const double *h;            /* [rows], of the noise */
    struct row_conditions told; /* t is not read */
};
struct direct_report {
    double regression, energy, total; /* unweighted, and the weighted sum */
};
enum status direct_step(struct direct *d, const struct direct_rows *rows, double share,
                        struct direct_report *out, struct error *err);

#endif
