/* trainer.h - one training run from the inside: what trainer.c makes, run.c runs and output.c writes.
 *
 * Owned by train_run. */
#ifndef DAVID_TRAIN_TRAINER_H
#define DAVID_TRAIN_TRAINER_H

#include "engine/internal.h"
#include "engine/train/checkpoint.h"
#include "engine/train/davi.h"
#include "engine/train/direct.h"
#include "engine/train/loader.h"
#include "engine/train/train.h"

enum net {
    NET_GENERATOR,
    NET_SCORE,
    NET_DISCRIMINATOR,
    NET_TEACHER,
    NETS
}; /* a prior is NET_GENERATOR */

struct trainer {
    struct train_options o;
    struct train_events events;
    struct engine *engine;
    struct backend *b;
    struct schedule *schedule;
    struct model_info info;  /* of the model that comes out */
    char parent[DIGEST_HEX]; /* of the file that the weights began from; "": none */
    char folder[PATH_MAX];   /* of checkpoints */
    uint32_t side, micro_batches, processes, process;
    struct process_group process_group;
    const struct process_group_plugin *plugin;
    uint32_t reporting_rank; /* the process that tells how the run ended */
    uint32_t n_tasks;
    struct drawn_task tasks[MODEL_MAX_TASKS];
    double davi_weight; /* of that objective; the others': direct_options */
    struct trainable nets[NETS];
    struct davi davi;
    struct direct_options direct_options;
    struct direct direct;
    struct validation *validation; /* NULL: none */
    struct dataset *dataset;
    struct loader_options loader_options;
    struct loader *loader;
    struct checkpoint checkpoint;
    /* of a micro-batch: [rows][side][side][3], and for a prior the network's output and its gradient */
    float *z, *noise, *x_t, *y, *dy;
    uint32_t last_t[MOST_ROWS]; /* of a prior's last micro-batch */
    pthread_mutex_t notes;      /* one note at a time */
};

/* Everything up to the first step; a resumed run has its state. trainer_done takes a zeroed struct. */
enum status trainer_init(struct trainer *t, const struct train_options *o,
                         const struct train_events *events, struct error *err);
void trainer_done(struct trainer *t);
size_t trainer_bytes(const struct trainer *t);
void trainer_note(struct trainer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether an objective wants answers at t = 999. */
static inline bool trainer_is_direct(const struct trainer *t)
{
    return t->direct_options.regression > 0 || t->direct_options.energy > 0;
}

/* nets.c: the networks with their first weights, and what steps need beside them; fills info but for the tasks' numbers. */
enum status make_nets(struct trainer *t, struct error *err);

/* validation.c */
enum status validation_open(struct validation **out, struct trainer *t, struct error *err);
void validation_close(struct validation *v); /* takes NULL */
/* Scores the average as it is now, tells it, and keeps it where it is the best so far. */
enum status validate(struct trainer *t, struct error *err);

/* process_group.c: without effect where there is one process. */
/* The first thing that a run does; process_group_leave, the last, is for those that have joined. */
enum status process_group_join(struct trainer *t, struct error *err);
void process_group_leave(struct trainer *t);
/* s is how it went here: ST_OK comes back where it went well in all processes. *stop: whether any of them wants to; or NULL. */
enum status process_group_agree(struct trainer *t, enum status s, bool *stop, struct error *err);
/* Whether all processes see the same images and are at the same step. */
enum status process_group_compare(struct trainer *t, struct error *err);
/* After a failure where the others do not expect one: tells it and ends them all. */
enum status process_group_abandon(struct trainer *t, enum status s, struct error *err);

/* output.c */
/* Finds out whether all that the run will write can be written, takes the checkpoints' folder for this run alone, and clears it of
 * what a killed run was writing. *lock: for release_places, -1 at first. */
enum status take_places(const struct trainer *t, int *lock, struct error *err);
void release_places(int lock);
enum status write_model(struct trainer *t, const char *path, struct error *err);
/* FOLDER/sheet-NNNNNNNNN.png: a row of images for each row of the micro-batch that was run last. */
enum status write_sheet(struct trainer *t, const struct batch *batch, uint32_t micro,
                        struct error *err);
/* A grid of images [count][side][side][3] in units of [-1,1], `columns` in a line. */
enum status image_grid(struct image *out, const float *const *images, uint32_t count,
                       uint32_t columns, uint32_t side, struct error *err);

#endif
