/* internal.h - declarations that engine.c, model.c and network.c share: the engine, a model, the
 * source of its weights.
 *
 * Not for server/ and cli/. One thread at a time drives a back end: a caller of it, or of a program
 * on it, holds engine->device. The lock is released while a weight is read from a file, so loading
 * a model delays a batch by one packed weight and not by a file. Ownership is that of engine.h. */
#ifndef DAVID_ENGINE_INTERNAL_H
#define DAVID_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine/davi/conditions.h"
#include "engine/davi/image_pool.h"
#include "engine/davi/sampler.h"
#include "engine/engine.h"
#include "engine/graph/process_group.h"
#include "proto/models/digest.h"

struct engine {
    struct backend *backend;
    enum dtype dtype; /* of feature maps inside a network */
    struct engine_facts facts;
    pthread_mutex_t device;        /* guards the back end and everything on it */
    uint32_t stream_slot;          /* of the next batch; read and written by engine_begin alone */
    uint32_t engines;              /* that share restorations; >= 1 */
    struct image_pool *image_pool; /* opened with the first model; NULL: images are on the host */
};

/* An engine on an open back end, which it owns from now on and closes also on failure; threads and
 * max_batch as in engine.h. */
enum status engine_on(struct engine **out, struct backend *backend, const struct engine_options *o,
                      struct error *err);

/* backends.c: the back ends of this build, best first. */
struct backend_choice {
    const char *name; /* NULL: the first that can be opened */
    int threads;
    uint32_t max_rows; /* of a batch execution, where a back end has passes of several rows */
    bool tf32;
    bool one_size; /* of a batch execution */
    int device;
};
uint32_t backend_devices(const char *name); /* NULL: of the first that can be opened */
/* passed_over: why the back ends before *out could not be opened; "" where there are none. */
enum status backend_choose(struct backend **out, const struct backend_choice *c, char *passed_over,
                           size_t size, struct error *err);

/* plugin.c: libdavid_mpi.so. ST_UNSUPPORTED with one line of why not. */
enum status process_group_plugin_find(const struct process_group_plugin **out, struct error *err);

struct model {
    struct engine *engine;
    struct model_info info;
    char digest[DIGEST_HEX];
    struct program *program; /* folded: one set of constants a condition */
    struct sampler sampler;
    struct conditions conditions;
};

/* Weights from a file that has been checked against the graph. */
struct file_source {
    struct engine *engine; /* its lock is held by the caller of program_new */
    const struct safetensors *st;
};
/* A param_source's load; ctx: struct file_source. */
enum status file_param_load(void *ctx, const struct param_desc *d, float *dst, struct error *err);
/* Every parameter is there, has its shape and is finite; no other tensor is. ST_BAD_FILE names the
 * offending tensor. */
enum status file_check(const struct safetensors *st, const struct graph *g, struct error *err);

/* The whole file in memory: the bytes that are checked, digested and loaded are the same. */
struct model_file {
    void *bytes;
    size_t len;
    struct safetensors *st;
    struct model_info info;
};
enum status model_file_open(struct model_file *out, const char *path, struct error *err);
void model_file_close(struct model_file *f); /* takes a zeroed struct */

/* min(affinity, cgroup quota), >= 1. */
int threads_available(void);

#endif
