/* conditions.h - the conditions of a model's folded constants: t = 999 with every label, sigma and
 * level that a request may have.
 *
 * Constants are folded when a model is loaded, so sigma and level are rounded to a grid: sigma in
 * steps of a tenth of itself, the level in steps of a sixteenth of its range. The network gets the
 * grid's value; the residual, the noise in a hole and the answer's headers have the requested one.
 * Tasks whose inputs to the network are the same share one condition. Plain values; any thread may
 * read them. */
#ifndef DAVID_DAVI_CONDITIONS_H
#define DAVID_DAVI_CONDITIONS_H

#include "engine/graph/program.h"
#include "proto/models/model_info.h"

enum { LEVEL_STEPS = 16, SIGMA_STEPS_MAX = 64 };

struct condition_grid {
    uint32_t first, n_sigma, n_level; /* conditions of a task: [n_sigma][n_level] */
};

struct conditions {
    struct condition *all; /* [n], malloc'd */
    uint32_t n;
    struct condition_grid grid[MODEL_MAX_TASKS];
};

enum status conditions_init(struct conditions *out, const struct model_info *info,
                            struct error *err);
void conditions_done(struct conditions *c); /* takes a zeroed struct */

/* The index of the nearest condition; sigma and level are in the task's ranges. */
uint32_t conditions_find(const struct conditions *c, const struct model_info *info, uint32_t task,
                         double sigma, double level);

/* Scalar inputs of the network (enum scalar). `task` is a name of the table. */
float told_sigma(double sigma);
float told_level(const char *task, double level);

#endif
