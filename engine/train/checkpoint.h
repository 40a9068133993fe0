/* state_dict.h - the whole state of a training run in one file, and the folder that holds the last few.
 *
 * A file is a safetensors file: of each network its parameters, the optimiser's moments and the average as flat arrays, with the
 * step and everything that a resumed run must have in common with this one as metadata. It is written whole or not at all, and
 * checked whole before anything of it is used. One thread. */
#ifndef DAVID_TRAIN_CHECKPOINT_H
#define DAVID_TRAIN_CHECKPOINT_H

#include <limits.h>

#include "engine/train/trainable.h"

enum { CHECKPOINT_NETS = 4, CHECKPOINT_SETTINGS = 20 };

/* A setting that must not differ: its name as users know it, its value, and the value's text in the file. */
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

/* FOLDER/step-NNNNNNNNN.safetensors, then those but the last `keep` are removed. path: of the file written. */
enum status checkpoint_write(char path[PATH_MAX], const char *folder, const struct checkpoint *c,
                             uint32_t keep, struct error *err);

/* The newest one of the folder; false where there is none. */
bool checkpoint_find(char path[PATH_MAX], const char *folder);
/* Fills the networks and c->step. ST_BAD_FILE names the tensor or the setting that does not fit; the networks are untouched then. */
enum status checkpoint_read(const char *path, struct checkpoint *c, struct error *err);

#endif
