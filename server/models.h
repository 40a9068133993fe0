/* models.h - the models that are served: found in the folder `models`, loaded, warmed, and
 * looked up by name.
 *
 * NAME.safetensors, or the newest (natural order) of NAME/VERSION.safetensors. A file that is
 * refused is logged and left out; only the default model must load. Their memory is held from
 * the budget. models_acquire() counts a reference that models_release() gives back. Any thread
 * acquires, once models_load() has returned. */
#ifndef DAVID_SERVER_MODELS_H
#define DAVID_SERVER_MODELS_H

#include <stdio.h>

#include "engine/engine.h"
#include "proto/models/model_folder.h"
#include "server/memory.h"

enum { MODELS_MAX = 64, ENGINES_MAX = 16 };

struct served_model {
    char name[MODEL_NAME_MAX], version[MODEL_NAME_MAX];
    struct model *model;           /* on the first engine; describes the model */
    struct model *on[ENGINES_MAX]; /* one on each engine */
    uint64_t bytes;                /* of all engines together */
    _Atomic unsigned references;
};

struct models;
enum status models_new(struct models **out, struct memory *memory, struct error *err);
void models_free(struct models *m); /* takes NULL; every reference has been given back */
/* engines: [count], one a device; each model is loaded on all of them. ST_IO, ST_UNKNOWN_MODEL,
 * or why the default model was refused. */
enum status models_load(struct models *m, struct engine *const *engines, size_t count,
                        const char *folder, const char *default_name, struct error *err);

/* name: NULL for the default model. ST_UNKNOWN_MODEL, ST_NOT_READY. */
enum status models_acquire(struct models *m, const char *name, struct served_model **out,
                           struct error *err);
void models_release(struct served_model *s);      /* takes NULL */
char *models_json(struct models *m, size_t *len); /* of /v1/models; malloc'd, NULL: no memory */
/* One sample of the metric for each model. */
void models_metric(struct models *m, const char *metric, FILE *f);

#endif
