/* loader.h - training batches, made ahead by threads of their own.
 *
 * Steps are asked for in ascending order from the first; a few are made in advance. What a batch holds follows from its step
 * alone, so the number of threads does not matter. One thread asks; owned by the caller. */
#ifndef DAVID_TRAIN_LOADER_H
#define DAVID_TRAIN_LOADER_H

#include "engine/train/rows.h"

struct loader;

struct loader_options {
    struct crop_options crops;
    struct dataset *dataset;     /* borrowed */
    uint32_t rows;               /* that this process makes for a batch */
    uint32_t micro_rows;         /* of its micro-batches */
    uint32_t process, processes; /* which of how many */
    const struct drawn_task *tasks;
    bool in_pairs;             /* rows 2i and 2i + 1 are one measurement */
    bool mixed;                /* each row (or pair) has a task of its own; else each micro-batch */
    bool surroundings;         /* blurs reach beyond the crop (rows.h) */
    uint32_t n_tasks, threads; /* no tasks: images alone, for a prior */
    uint64_t first_step;
};
/* The place of this process's row i in the batch of all: micro-batches of all processes lie side by side. */
uint32_t loader_row(const struct loader_options *o, uint32_t i);

/* Rows in their order: x, y_in: [rows][side][side][3]; observed_mask: [rows][side][side], all 1 where there is no hole. y: a micro-batch
 * begins where its x does; its rows lie tight, as operator_extent of its task; where tasks are mixed each row begins where its x does. */
struct batch {
    float *x, *y, *y_in;
    uint8_t *observed_mask;
    uint32_t *task;       /* [rows] */
    uint32_t *label;      /* [rows] */
    float *sigma, *level; /* [rows], as networks are told them */
    double *levels;       /* [rows], of the operators */
};

enum status loader_open(struct loader **out, const struct loader_options *o, struct error *err);
void loader_close(struct loader *l); /* takes NULL; waits for its threads */
/* The batch of the next step; it stays until the next call. ST_BAD_FILE and so on as the dataset says. */
enum status loader_next(struct loader *l, const struct batch **out, struct error *err);

#endif
