/* plugin.h - finds and opens the back ends that are libraries of their own (graph/plugin.h).
 *
 * The search is in the folder of the binary, then in ../lib/david from it; never in the working
 * directory, and never for a name that a user gives. A library of another build is refused. An
 * opened one stays in the process. Any thread. */
#ifndef DAVID_ENGINE_PLUGIN_H
#define DAVID_ENGINE_PLUGIN_H

#include "engine/graph/plugin.h"

/* `name`: "cuda" for libdavid_cuda.so. ST_UNSUPPORTED with one line of why: no such file, another
 * build, a library that it needs is missing. *out is valid as long as the process runs. */
enum status plugin_find(const struct plugin **out, const char *name, struct error *err);
/* The plugin in the file at `path`. */
enum status plugin_open(const struct plugin **out, const char *path, struct error *err);

#endif
