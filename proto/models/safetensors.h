/* safetensors.h - reading and atomic writing of safetensors files.
 *
 * A reader maps the file (or uses the caller's buffer) and checks all of it before it returns:
 * header length, JSON, every dtype, shape product and offset (inside the data, no overlap, no gap,
 * in order), duplicate names, limits on counts and on lengths of names. All bytes are untrusted.
 * Tensors and metadata point into the reader and are valid until it is closed. A writer streams to
 * a temporary name beside the target, fsyncs, renames and fsyncs the directory: a reader never sees
 * half a file. Threads may share an open reader. */
#ifndef DAVID_PROTO_MODELS_SAFETENSORS_H
#define DAVID_PROTO_MODELS_SAFETENSORS_H

#include <stdint.h>

#include "proto/models/dtype.h"

#define ST_MAX_DIMS 8

struct st_tensor {
    const char *name;
    enum dtype dtype;
    uint32_t dims;               /* 0 = scalar */
    uint64_t shape[ST_MAX_DIMS]; /* outermost first */
    size_t count;                /* elements */
    const void *data;            /* little-endian, not necessarily aligned */
};

struct safetensors; /* a reader */

enum status safetensors_open(struct safetensors **out, const char *path, struct error *err);
/* The caller owns `bytes`, which must outlive the reader; `name` is for messages. */
enum status safetensors_open_memory(struct safetensors **out, const void *bytes, size_t len,
                                    const char *name, struct error *err);
void safetensors_close(struct safetensors *st); /* takes NULL */

size_t safetensors_count(const struct safetensors *st);
const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i);
const struct st_tensor *safetensors_find(const struct safetensors *st,
                                         const char *name);                      /* NULL: absent */
const char *safetensors_metadata(const struct safetensors *st, const char *key); /* NULL: absent */

struct st_meta {
    const char *key, *value;
};
/* Writes the header from the descriptions of all tensors; `fill(ctx, i, dst, err)` then writes the
 * bytes of tensor i (count * dtype size) to dst, one tensor at a time, so that a large file is
 * never completely in memory. Where fill is NULL, tensors[i].data holds the bytes. */
enum status safetensors_write(const char *path, const struct st_tensor *tensors, size_t n,
                              const struct st_meta *meta, size_t n_meta,
                              enum status (*fill)(void *ctx, size_t i, void *dst,
                                                  struct error *err),
                              void *ctx, struct error *err);

#endif
