/* Chooses the back end: `auto` opens the first of the list that it can, and reports why the ones
 * before it could not be opened. */
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/plugin.h"

static enum status open_cuda(struct backend **out, const struct backend_choice *c,
                             struct error *err)
{
    const struct plugin *p = NULL;
    const struct plugin_options o = {
        .max_rows = c->max_rows, .tf32 = c->tf32, .one_size = c->one_size, .device = c->device
    };
    char why[128] = "";
    enum status s = plugin_find(&p, "cuda", err);
    if (s) return s;
    const int count = p->count(why, sizeof why);
    if (count == 0) return error_set(err, ST_UNSUPPORTED, "%s", why);
    if (c->device >= count)
        return error_set(err, ST_UNSUPPORTED, "there is no GPU %d, there are %d", c->device, count);
    return p->open(out, &o, err);
}

uint32_t backend_devices(const char *name)
{
    const struct plugin *p = NULL;
    char why[128] = "";
    if ((name && strcmp(name, "cuda") != 0) || plugin_find(&p, "cuda", NULL)) return 1;
    const int count = p->count(why, sizeof why);
    return count > 1 ? (uint32_t)count : 1;
}

static enum status open_cpu(struct backend **out, const struct backend_choice *c, struct error *err)
{
    return cpu_backend_open(out, c->threads, err);
}

static const struct {
    const char *name;
    enum status (*open)(struct backend **out, const struct backend_choice *c, struct error *err);
} backends[] = {
    { "cuda", open_cuda },
    { "cpu", open_cpu },
};
enum { BACKENDS = sizeof backends / sizeof *backends };

enum status backend_choose(struct backend **out, const struct backend_choice *c, char *passed_over,
                           size_t size, struct error *err)
{
    size_t len = 0;
    for (size_t i = 0; i < BACKENDS; i++) {
        struct error why = { 0 };
        if (c->name && strcmp(c->name, backends[i].name) != 0) continue;
        enum status s = backends[i].open(out, c, &why);
        if (!s) return ST_OK;
        if (c->name) return error_set(err, s, "backend = %s: %s", backends[i].name, why.detail);
        if (i + 1 == BACKENDS) return error_set(err, s, "%s", why.detail);
        if (len < size)
            len += (size_t)snprintf(passed_over + len, size - len, "%s%s: %s", len ? "; " : "",
                                    backends[i].name, why.detail);
    }
    return error_set(err, ST_UNSUPPORTED, "backend = %.32s: there are auto, cuda and cpu", c->name);
}
