/* metadata.h - the metadata of a model file, for tests that write the file again with a change. */
#ifndef DAVID_TESTS_METADATA_H
#define DAVID_TESTS_METADATA_H

#include "proto/models/model_info.h"

/* The entries that `st` has, in the order in which david writes them; they point into `st`. */
static inline size_t metadata_of(struct st_meta out[MODEL_METADATA_MAX],
                                 const struct safetensors *st)
{
    static const char *const keys[] = { "david.arch",   "david.role",     "david.tasks",
                                        "david.tile",   "david.schedule", "david.provenance",
                                        "david.metrics" };
    size_t n = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = safetensors_metadata(st, keys[i]);
        if (value) out[n++] = (struct st_meta){ keys[i], value };
    }
    return n;
}

#endif
