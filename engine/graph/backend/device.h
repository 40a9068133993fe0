/* device.h - a back end's device: its memory, the streams that copy, and the recording of batch
 * executions.
 *
 * The functions below the structs copy plain memory between the host and a back end; where the back
 * end's memory is the host's they are a memcpy. They keep nothing. The thread that drives the back
 * end calls them. */
#ifndef DAVID_GRAPH_BACKEND_DEVICE_H
#define DAVID_GRAPH_BACKEND_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/graph/scalar.h"
#include "proto/error.h"
#include "proto/models/dtype.h"

struct backend;

/* The ops of a network over some rows. While `key` and `rows` stay the same, the ops and the memory
 * they use are the same; only the values in these arrays differ. */
struct execution {
    const void *key;
    uint32_t rows;
    const float *scalar[SCALARS];      /* host, [rows]; NULL: no op embeds it */
    const uint32_t *label, *condition; /* the pointers that the ops will be given */
};

/* The state of a device; NAN: not known. */
struct device_gauges {
    char name[64];
    double busy; /* 0..1 */
    double memory_used_bytes, memory_total_bytes, power_w, temperature_c;
};

/* Threads: one thread drives a back end at a time (it may use a team inside); `wait` and `gauges`
 * alone may be called beside it. "May be NULL" marks what a back end may leave out. */
struct device_ops {
    const char *name; /* "cpu" */
    /* True: `alloc` gives memory that the host may read and write; copy_in and copy_out are then
     * NULL. */
    bool host_memory;
    void (*close)(struct backend *b);
    /* The instruction set or card that it computes on, for logs. */
    const char *(*isa)(struct backend *b);
    bool (*has_dtype)(struct backend *b, enum dtype t);
    enum dtype (*best_dtype)(struct backend *b); /* what --dtype auto takes */
    /* Rows that run through the network together; a batch execution always has exactly this many
     * (CPU: 1). */
    uint32_t (*rows_per_batch)(struct backend *b);
    /* The smallest size of a batch execution that holds `rows`. May be NULL: rows_per_batch is the
     * only size. */
    uint32_t (*batch_rows)(struct backend *b, uint32_t rows);

    /* Around the ops of a batch execution: a back end may record them once and replay them
     * (*is_replayed: the caller runs no op). execution_end is also called where an op has failed
     * (!is_whole), execution_forget before the memory that the ops name is freed. All three may be
     * NULL together. */
    enum status (*execution_begin)(struct backend *b, const struct execution *p, bool *is_replayed,
                                   struct error *err);
    enum status (*execution_end)(struct backend *b, bool is_whole, struct error *err);
    void (*execution_forget)(struct backend *b, const void *key);
    /* Waits for everything asked for. May be NULL: ops are done when they return. */
    enum status (*finish)(struct backend *b, struct error *err);

    /* 64-byte aligned, uninitialised. */
    enum status (*alloc)(struct backend *b, size_t bytes, void **out, struct error *err);
    void (*free)(struct backend *b, void *p); /* takes NULL */
    /* Both may be NULL: see host_memory. */
    enum status (*copy_in)(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err);
    enum status (*copy_out)(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err);

    /* Copies while the device computes: each batch in flight has a stream slot, 0 .. stream_slots -
     * 1. With stream_slots = 0 there are only copy_in and copy_out, and the functions up to `wait`
     * are NULL. send and receive return at once: an op that is asked for after a send sees what was
     * sent; a receive gets what is computed by the ops asked for before it. The slot's host memory
     * may be used again after wait. */
    uint32_t stream_slots;
    enum status (*host_alloc)(struct backend *b, size_t bytes, void **out, struct error *err);
    void (*host_free)(struct backend *b, void *p); /* takes NULL */
    enum status (*send)(struct backend *b, uint32_t stream_slot, void *device, const void *host,
                        size_t bytes, struct error *err);
    enum status (*receive)(struct backend *b, uint32_t stream_slot, void *host, const void *device,
                           size_t bytes, struct error *err);
    enum status (*wait)(struct backend *b, uint32_t stream_slot, struct error *err);

    bool (*gauges)(struct backend *b, struct device_gauges *out); /* any thread; may be NULL */
};

enum status device_copy_in(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err);
enum status device_copy_out(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err);
/* alloc + copy_in. The caller frees *out with the back end's `free`. */
enum status device_upload(struct backend *b, const void *host, size_t bytes, void **out,
                          struct error *err);

#endif
