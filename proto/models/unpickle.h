/* unpickle.h - the tensors that a PyTorch pickle describes (engine/README.md section 6), without
 * execution of the pickle.
 *
 * Only the opcodes and globals that torch.save writes for dicts, lists and tensors are accepted;
 * nothing is called and no name is imported. Values, stack, memo, nesting and paths are bounded; a
 * view must lie inside its storage. The result is a flat list of tensors by path; storages are
 * named but not read. Any violation: ST_BAD_FILE with the offender's name. The struct owns its
 * arrays; unpickle_done() takes a zeroed struct. Pure: no I/O. */
#ifndef DAVID_PROTO_MODELS_UNPICKLE_H
#define DAVID_PROTO_MODELS_UNPICKLE_H

#include "proto/models/dtype.h"
#include "proto/models/safetensors.h"

enum { STORAGE_KEY_MAX = 32 };

struct pickle_storage {
    char key[STORAGE_KEY_MAX]; /* name of the zip entry data/<key>; [A-Za-z0-9_] only */
    enum dtype dtype;
    uint64_t numel;
};

struct pickle_view {
    uint32_t storage;             /* index */
    uint64_t offset;              /* elements */
    uint64_t stride[ST_MAX_DIMS]; /* elements */
    struct st_tensor tensor;      /* shape, dtype and count; .name is the path of a listed tensor */
};

struct unpickled {
    struct pickle_storage *storages;
    size_t n_storages;
    struct pickle_view *tensors; /* one for each path; names malloc'd */
    size_t n_tensors;
};

enum status unpickle(struct unpickled *out, const void *bytes, size_t len, struct error *err);
void unpickle_done(struct unpickled *u);

#endif
