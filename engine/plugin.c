#include "engine/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/graph/build_id.h"
#include "engine/internal.h"

/* The folder of the running binary, with its slash. */
static enum status own_folder(char out[PATH_MAX], struct error *err)
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    if (!slash) return error_set(err, ST_UNSUPPORTED, "the folder of this program is not known");
    slash[1] = 0;
    return ST_OK;
}

/* Both kinds of plugin begin with their build id. */
struct any_plugin {
    const char *build_id;
};

static enum status open_symbol(const void **out, const char *path, const char *symbol,
                               struct error *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return error_set(err, ST_UNSUPPORTED, "plugin %s", dlerror());
    const struct any_plugin *p = dlsym(library, symbol);
    if (p && strcmp(p->build_id, DAVID_BUILD_ID) == 0) {
        *out = p; /* never closed: the back end it opens uses its code */
        /* cppcheck-suppress resourceLeak */
        return ST_OK;
    }
    if (p)
        (void)error_set(err, ST_UNSUPPORTED, "plugin %s is of build %.32s, this program of %s",
                        path, p->build_id, DAVID_BUILD_ID);
    else
        (void)error_set(err, ST_UNSUPPORTED, "plugin %s is none of david's", path);
    (void)dlclose(library);
    return ST_UNSUPPORTED;
}

enum status plugin_open(const struct plugin **out, const char *path, struct error *err)
{
    const void *found = NULL;
    enum status s = open_symbol(&found, path, DAVID_PLUGIN_SYMBOL, err);
    if (!s) *out = found;
    return s;
}

static enum status find_symbol(const void **out, const char *name, const char *symbol,
                               struct error *err)
{
    static const char *const places[] = { "", "../lib/david/" };
    char folder[PATH_MAX], path[2 * PATH_MAX];
    enum status s = own_folder(folder, err);
    for (size_t i = 0; !s && i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%slibdavid_%s.so", folder, places[i], name);
        if (access(path, F_OK) == 0) return open_symbol(out, path, symbol, err);
    }
    return s ? s
             : error_set(err, ST_UNSUPPORTED,
                         "no plugin libdavid_%s.so beside the program or in lib/david", name);
}

enum status plugin_find(const struct plugin **out, const char *name, struct error *err)
{
    const void *found = NULL;
    enum status s = find_symbol(&found, name, DAVID_PLUGIN_SYMBOL, err);
    if (!s) *out = found;
    return s;
}

enum status process_group_plugin_find(const struct process_group_plugin **out, struct error *err)
{
    const void *found = NULL;
    enum status s = find_symbol(&found, "mpi", DAVID_PROCESS_GROUP_SYMBOL, err);
    if (!s) *out = found;
    return s;
}
