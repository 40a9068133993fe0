/* device.h - moving plain memory between the host and a back end, whether or not the two are the same.
 *
 * Thin: where the back end's memory is the host's, a copy is a memcpy. Nothing is kept; the thread that drives the back end
 * calls. */
#ifndef DAVID_GRAPH_DEVICE_H
#define DAVID_GRAPH_DEVICE_H

#include "engine/graph/backend.h"

enum status device_copy_in(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err);
enum status device_copy_out(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err);
/* alloc + copy_in; freed with b->ops->free. */
enum status device_upload(struct backend *b, const void *host, size_t bytes, void **out,
                          struct error *err);

#endif
