/* loader.h - training batches in host memory, prefetched by the loader's own threads.
 *
 * The caller takes the batches of all steps in ascending order from the first. A batch is a
 * function of its step, so its bytes do not depend on the number of threads. One thread takes
 * batches; owned by the caller. */
#ifndef DAVID_TRAIN_LOADER_H
#define DAVID_TRAIN_LOADER_H

#include "engine/train/rows.h"

struct loader;

struct loader_options {
    struct crop_options crops;
    struct dataset *dataset;     /* borrowed */
    uint32_t rows;               /* of this process in a batch */
    uint32_t micro_rows;         /* of a micro-batch */
    uint32_t process, processes; /* index and number of the processes */
    const struct drawn_task *tasks;
    bool in_pairs;             /* rows 2i and 2i + 1 are one measurement */
    bool mixed;                /* each row (or pair) draws a task; else each micro-batch does */
    bool surroundings;         /* blurs reach beyond the crop (rows.h) */
    uint32_t n_tasks, threads; /* no tasks: images alone, for a prior */
    uint64_t first_step;
};
/* The index of this process's row i in the whole batch, in which the micro-batches of the processes
 * alternate. */
uint32_t loader_row(const struct loader_options *o, uint32_t i);

/* x, y_in: [rows][side][side][3]; observed_mask: [rows][side][side], all 1 where there is no hole.
 * y: the rows of a micro-batch are contiguous, each of operator_extent of the task, from the offset
 * of the micro-batch in x; where tasks are mixed, each row begins at its own offset in x. */
struct batch {
    float *x, *y, *y_in;
    uint8_t *observed_mask;
    uint32_t *task;       /* [rows] */
    uint32_t *label;      /* [rows] */
    float *sigma, *level; /* [rows], as inputs of the network's embeddings */
    double *levels;       /* [rows], of the operators */
};

enum status loader_open(struct loader **out, const struct loader_options *o, struct error *err);
void loader_close(struct loader *l); /* takes NULL; waits for its threads */
/* The batch of the next step, valid until the next call. Errors of the dataset are returned. */
enum status loader_next(struct loader *l, const struct batch **out, struct error *err);

#endif
