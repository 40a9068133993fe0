/* plugin.h - finds and opens the back ends that are libraries of their own (graph/plugin.h).
 *
 * Looked for beside the binary, then in ../lib/david from it; never in the working directory, never by a name from outside. A library
 * of another build is refused. An opened one stays in the process. Any thread; the first call decides. */
#ifndef DAVID_ENGINE_PLUGIN_H
#define DAVID_ENGINE_PLUGIN_H

#include "engine/graph/plugin.h"

/* `name`: "cuda" for libdavid_cuda.so. ST_UNSUPPORTED with one line of why: no such file, another build, a library it
 * needs is missing. *out lives as long as the process. */
enum status plugin_find(const struct plugin **out, const char *name, struct error *err);
/* The one in this file. */
enum status plugin_open(const struct plugin **out, const char *path, struct error *err);

#endif
