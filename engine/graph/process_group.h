/* process_group.h - the processes that share a training batch, and the library that joins them
 * (libdavid_mpi.so).
 *
 * The library has one symbol, `david_process_group`; its build id is compared as in plugin.h. Only
 * a training run that was started as one process of several opens it. All processes call each
 * function at the same point, from one thread each. */
#ifndef DAVID_GRAPH_PROCESS_GROUP_H
#define DAVID_GRAPH_PROCESS_GROUP_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

/* `sum` replaces each value by its sum over all processes, with the same bits in each of them.
 * NULL: there is one process. */
struct process_group {
    void (*sum)(void *ctx, double *values, size_t count);
    void (*sum_floats)(void *ctx, float *values, size_t count); /* for the gradients */
    void *ctx;
    uint32_t processes;
};

struct process_group_plugin {
    const char *build_id;
    /* Called once in a process. *process: its rank, 0 .. processes - 1. */
    enum status (*join)(struct process_group *out, uint32_t *process, struct error *err);
    void (*leave)(void);
    void (*abandon)(void); /* called by one process: ends all of them as failed; does not return */
};

#define DAVID_PROCESS_GROUP_SYMBOL "david_process_group"

#endif
