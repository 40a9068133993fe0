/* checkpoint.h - the whole state of a training run in one file, and the folder of the last few
 * files.
 *
 * A safetensors file with the parameters, the optimiser's moments and the average of each network
 * as flat arrays; its metadata has the step and the settings that a resumed run must share. It is
 * written atomically, and read and checked completely before any of it is used. One thread. */
#ifndef DAVID_TRAIN_CHECKPOINT_H
#define DAVID_TRAIN_CHECKPOINT_H

#include <limits.h>

#include "engine/train/trainable.h"

enum { CHECKPOINT_NETS = 4, CHECKPOINT_SETTINGS = 20 };

/* A setting that a resumed run must share: its name for users, and the text of its value. */
struct checkpoint_setting {
    const char *name;
    char value[128];
};

struct checkpoint {
    uint64_t step; /* steps that are done */
    uint32_t n_nets, n_settings;
    const char *names[CHECKPOINT_NETS]; /* "generator" */
    struct trainable *nets[CHECKPOINT_NETS];
    struct checkpoint_setting settings[CHECKPOINT_SETTINGS];
};

/* Writes FOLDER/step-NNNNNNNNN.safetensors, then removes all but the last `keep`. path: of the new
 * file. */
enum status checkpoint_write(char path[PATH_MAX], const char *folder, const struct checkpoint *c,
                             uint32_t keep, struct error *err);

/* The newest one of the folder; false where there is none. */
bool checkpoint_find(char path[PATH_MAX], const char *folder);
/* Fills the networks and c->step. ST_BAD_FILE names the tensor or the setting that does not fit;
 * the networks are then unchanged. */
enum status checkpoint_read(const char *path, struct checkpoint *c, struct error *err);

#endif
