/* plugin.h - a back end in a library of its own, opened at run time: what the two sides agree on.
 *
 * The library has one symbol, `david_plugin`. Its build id says from which sources it was built; one that differs from the program's is refused,
 * since structs and arithmetic may differ. Once opened a library stays: CUDA's own do not survive being closed. */
#ifndef DAVID_GRAPH_PLUGIN_H
#define DAVID_GRAPH_PLUGIN_H

#include "engine/graph/backend.h"

struct plugin_options {
    int device;        /* 0: the first */
    uint32_t max_rows; /* of a batch execution */
    bool tf32;         /* F32 products may be rounded to TF32 */
    bool one_size;     /* every pass has max_rows rows, and engines are not chosen by their times */
};

struct plugin {
    const char *build_id;
    int (*count)(char *why, size_t size); /* devices; 0 with the reason in `why` */
    enum status (*open)(struct backend **out, const struct plugin_options *o, struct error *err);
};

#define DAVID_PLUGIN_SYMBOL "david_plugin"

#endif
