/* device.h - a back end's device: its memory, the streams that copy, and the recording of batch executions.
 *
 * The functions below the structs copy plain memory between the host and a back end; where the back end's memory is the
 * host's they are a memcpy. They keep nothing. The thread that drives the back end calls them. */
#ifndef DAVID_GRAPH_BACKEND_DEVICE_H
#define DAVID_GRAPH_BACKEND_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/graph/scalar.h"
#include "proto/error.h"

struct backend;

/* The ops of a network over some rows. While `key` and `rows` stay the same, the ops and the memory they use are the same;
 * only the values in these arrays differ. */
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

enum status device_copy_in(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err);
enum status device_copy_out(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err);
/* alloc + copy_in. The caller frees *out with the back end's `free`. */
enum status device_upload(struct backend *b, const void *host, size_t bytes, void **out,
                          struct error *err);

#endif
