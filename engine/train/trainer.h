/* trainer.h - the state of one training run: trainer.c makes it, run.c takes the steps, output.c
 * and sheets.c write files.
 *
 * Owned by train_run. One thread uses it; trainer_note alone may be called by any. */
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

/* Rows of the loader's batch in memory of the back end: [rows][side][side][3] and the mask,
 * [rows][side][side]. */
struct micro_batch {
    float *x, *measured, *y_in;
    uint8_t *observed_mask;
};

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
    uint32_t reporting_rank; /* the process that reports how the run ended */
    uint32_t n_tasks;
    struct drawn_task tasks[MODEL_MAX_TASKS];
    double davi_weight; /* of the objective davi; the other weights are in direct_options */
    struct trainable nets[NETS];
    struct davi davi;
    struct direct_options direct_options;
    struct direct direct;
    struct validation *validation; /* NULL: none */
    struct dataset *dataset;
    struct loader_options loader_options;
    struct loader *loader;
    struct checkpoint checkpoint;
    struct micro_batch images;
    /* Memory of the back end, of a micro-batch: [rows][side][side][3]; y and dy, of a prior alone:
     * the network's output and its gradient, [rows][side][side][6]. */
    float *z, *noise, *x_t, *y, *dy;
    uint32_t last_t[MOST_ROWS]; /* of a prior's last micro-batch */
    pthread_mutex_t notes;      /* one note at a time */
};

/* Prepares the first step; a resumed run has the state of its checkpoint. trainer_done takes a
 * zeroed struct. */
enum status trainer_init(struct trainer *t, const struct train_options *o,
                         const struct train_events *events, struct error *err);
void trainer_done(struct trainer *t);
size_t trainer_bytes(const struct trainer *t);
void trainer_note(struct trainer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether an objective compares answers at t = 999. */
static inline bool trainer_is_direct(const struct trainer *t)
{
    return t->direct_options.regression > 0 || t->direct_options.energy > 0;
}

/* nets.c: the networks with their first weights, and the memory of the steps; fills info except the
 * tasks' numbers. */
enum status make_nets(struct trainer *t, struct error *err);

/* validation.c */
enum status validation_open(struct validation **out, struct trainer *t, struct error *err);
void validation_close(struct validation *v); /* takes NULL */
/* Scores the present average of the weights, reports the scores, and writes the model file of the
 * best average so far. */
enum status validate(struct trainer *t, struct error *err);

/* process_group.c: no function has an effect where there is one process. */
/* The first call of a run; process_group_leave, after a successful join, is the last. */
enum status process_group_join(struct trainer *t, struct error *err);
void process_group_leave(struct trainer *t);
/* s: the result in this process. Returns ST_OK where all processes have ST_OK. *stop (or NULL)
 * becomes true in all processes where it is true in one. */
enum status process_group_agree(struct trainer *t, enum status s, bool *stop, struct error *err);
/* ST_BAD_FILE where the processes see different images or are at different steps. */
enum status process_group_compare(struct trainer *t, struct error *err);
/* After a failure at a point where the other processes do not call process_group_agree: reports it
 * and ends all processes. */
enum status process_group_abandon(struct trainer *t, enum status s, struct error *err);
/* The gradients of all processes become their mean. */
enum status process_group_mean(struct trainer *t, struct trainable *l, struct error *err);

/* output.c */
/* Checks that every file of the run can be written, locks the checkpoints' folder for this run, and
 * removes from it the temporary files of a killed run. *lock: for release_places, -1 at first. */
enum status take_places(const struct trainer *t, int *lock, struct error *err);
void release_places(int lock);
enum status write_model(struct trainer *t, const char *path, struct error *err);

/* sheets.c */
/* FOLDER/sheet-NNNNNNNNN.png: a row of images for each row of the last micro-batch, `micro` of the
 * batch. */
enum status write_sheet(struct trainer *t, const struct batch *batch, uint32_t micro,
                        struct error *err);
/* A grid of images [count][side][side][3] in units of [-1,1], host memory, `columns` in a line. */
enum status image_grid(struct image *out, const float *const *images, uint32_t count,
                       uint32_t columns, uint32_t side, struct error *err);
/* Encodes a sheet and writes FOLDER/NAME-NNNNNNNNN.png. */
enum status save_sheet(const struct trainer *t, const char *name, const struct image *img,
                       struct error *err);

#endif
