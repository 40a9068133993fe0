/* back_end.h - the back end that a test runs on, so that one test serves every one of them.
 *
 * $DAVID_TEST_BACKEND: cpu (where it is not set), or the name of a plugin's, whose library $DAVID_TEST_PLUGIN names. Tests make their
 * tensors on the host; to_device() and from_device() bring them where the back end computes, and are nothing where that is the
 * same place. Static functions for one test program each, after cmocka.h. */
#ifndef DAVID_TESTS_BACK_END_H
#define DAVID_TESTS_BACK_END_H

#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/plugin.h"

#define BACK_END_FN static inline __attribute__((unused))

BACK_END_FN const char *test_backend_name(void)
{
    const char *name = getenv("DAVID_TEST_BACKEND");
    return name && name[0] ? name : "cpu";
}

BACK_END_FN bool test_is_on_cpu(void)
{
    return strcmp(test_backend_name(), "cpu") == 0;
}

BACK_END_FN enum status test_backend_open(struct backend **out, int threads,
                                          const struct plugin_options *o, struct error *err)
{
    const struct plugin *p = NULL;
    const char *path = getenv("DAVID_TEST_PLUGIN");
    char why[128] = "";
    if (test_is_on_cpu()) return cpu_backend_open(out, threads, err);
    if (!path)
        return error_set(err, ST_BAD_PARAMETER,
                         "DAVID_TEST_BACKEND = %.32s needs DAVID_TEST_PLUGIN, its library",
                         test_backend_name());
    enum status s = plugin_open(&p, path, err);
    if (s) return s;
    if (p->count(why, sizeof why) == 0) return error_set(err, ST_UNSUPPORTED, "%s", why);
    return p->open(out, o, err);
}

/* NULL where it cannot be opened. */
BACK_END_FN struct engine *test_engine_open(const struct engine_options *options, struct error *err)
{
    struct engine *e = NULL;
    struct backend *b = NULL;
    struct engine_options o = *options;
    const struct plugin_options po = { .max_rows = o.max_batch ? o.max_batch : 32,
                                       .tf32 = o.dtype && strcmp(o.dtype, "tf32") == 0 };
    o.backend = test_backend_name();
    if (test_backend_open(&b, o.threads ? o.threads : threads_available(), &po, err)) return NULL;
    return engine_on(&e, b, &o, err) ? NULL : e;
}

/* ---- memory ---- */

BACK_END_FN void *bytes_to_device(struct backend *b, const void *host, size_t bytes)
{
    void *p = NULL;
    struct error err = { 0 };
    if (b->ops->device.host_memory) return (void *)(uintptr_t)host;
    if (b->ops->device.alloc(b, bytes, &p, &err) || b->ops->device.copy_in(b, p, host, bytes, &err))
        fail_msg("%s", err.detail);
    return p;
}

/* Into `host` (NULL: not wanted); what bytes_to_device took is given back. */
BACK_END_FN void bytes_from_device(struct backend *b, void *device, void *host, size_t bytes)
{
    struct error err = { 0 };
    if (b->ops->device.host_memory) return;
    if (host && b->ops->device.copy_out(b, host, device, bytes, &err)) fail_msg("%s", err.detail);
    b->ops->device.free(b, device);
}

BACK_END_FN size_t tensor_bytes(const struct tensor *t)
{
    return (size_t)t->n * t->h * t->w * t->ld * dtype_size(t->dtype);
}

BACK_END_FN struct tensor to_device(struct backend *b, const struct tensor *host)
{
    struct tensor t = *host;
    t.data = bytes_to_device(b, host->data, tensor_bytes(host));
    return t;
}

/* What stands between the pixels comes back too. */
BACK_END_FN void from_device(struct backend *b, const struct tensor *device,
                             const struct tensor *host)
{
    bytes_from_device(b, device->data, host->data, tensor_bytes(host));
}

BACK_END_FN void off_device(struct backend *b, const struct tensor *device)
{
    bytes_from_device(b, device->data, NULL, 0);
}

#endif
