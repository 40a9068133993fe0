/* plugin.h - the interface of a back end in a library that is opened at run time.
 *
 * The library has one symbol, `david_plugin`. Its build id names the sources that it was built
 * from; a library with another build id than the program's is refused, since structs and arithmetic
 * may differ. An open library is never closed: CUDA's libraries do not support it. */
#ifndef DAVID_GRAPH_PLUGIN_H
#define DAVID_GRAPH_PLUGIN_H

#include "engine/graph/backend.h"

struct plugin_options {
    int device;        /* 0: the first */
    uint32_t max_rows; /* of a batch execution */
    bool tf32;         /* F32 products may be rounded to TF32 */
    /* Every batch execution has max_rows rows, and engines are not chosen by their times. */
    bool one_size;
};

struct plugin {
    const char *build_id;
    int (*count)(char *why, size_t size); /* devices; 0 with the reason in `why` */
    enum status (*open)(struct backend **out, const struct plugin_options *o, struct error *err);
};

#define DAVID_PLUGIN_SYMBOL "david_plugin"

#endif
