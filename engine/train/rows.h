/* rows.h - a row of training: a crop, its measurement by a task with a drawn sigma and level, and what the network takes.
 *
 * A function of (seed, step, row) and the folder, as draws.h and crops.h have it. A blur reaches beyond a crop, and JPEG's
 * cells begin anywhere in it: with `surroundings` the photo around it is degraded too and then cut off, as in a photo that is cut into
 * tiles, but now and then a side of the crop is one of the photo. (Without, every side is: so the consistency term wants it.) Scratch is the caller's, one for each thread. */
#ifndef DAVID_TRAIN_ROWS_H
#define DAVID_TRAIN_ROWS_H

#include "engine/train/crops.h"

/* A task as rows are drawn of it: sigma and level uniform in their ranges. */
struct drawn_task {
    const struct task_desc *task;
    double weight, h, sigma[2], level[2];
    int32_t label; /* -1: none */
};

struct row_scratch {
    float *memory, *large, *blurred, *operate;
};
/* Of rows of `side` px, of any of the tasks. */
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
