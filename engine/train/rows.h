/* rows.h - a row of training: a crop, its measurement by a task with a drawn sigma and level, and
 * the network's input.
 *
 * A row is a function of (seed, step, row) and the folder (draws.h, crops.h). With `surroundings`
 * the operator is applied to the crop with the photo around it, and the margin is cut off, as in a
 * photo that is divided into tiles: a blur reaches beyond the crop, and JPEG's cells begin anywhere
 * in it. One side in eight has no margin, as if it were an edge of the photo. Without
 * `surroundings` no side has a margin, as the consistency term requires. The caller owns the
 * scratch, one per thread. */
#ifndef DAVID_TRAIN_ROWS_H
#define DAVID_TRAIN_ROWS_H

#include "engine/train/crops.h"

/* A task and the ranges of its rows: sigma and level are uniform in theirs. */
struct drawn_task {
    const struct task_desc *task;
    double weight, h, sigma[2], level[2];
    int32_t label; /* -1: none */
};

struct row_scratch {
    float *memory, *large, *blurred, *operate;
};
/* Scratch for rows of `side` px of all the tasks. */
enum status row_scratch_init(struct row_scratch *s, uint32_t side, const struct drawn_task *tasks,
                             uint32_t n_tasks, struct error *err);
void row_scratch_done(struct row_scratch *s); /* takes a zeroed struct */

struct row_out {
    float *x, *y, *y_in;    /* [side][side][3]; y: operator_extent of that */
    uint8_t *observed_mask; /* [side][side], all 1 where there is no hole */
};
enum status row_draw(struct dataset *d, const struct crop_options *c, const struct drawn_task *task,
                     double sigma, double level, bool surroundings, uint64_t step, uint32_t row,
                     struct row_scratch *s, const struct row_out *out, struct error *err);

#endif
