/* Architectures and tasks without an engine, for converting and inspecting files. */
#include <stdio.h>
#include <string.h>

#include "engine/davi/operators.h"
#include "engine/engine.h"
#include "engine/nets/unet.h"

static const struct st_tensor *find(const struct st_tensor *tensors, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
    return NULL;
}

static enum status check_param(const struct st_tensor *t, const struct param_desc *d,
                               struct error *err)
{
    if (!t)
        return error_set(err, ST_BAD_FILE, "tensor %s of this architecture is missing", d->name);
    bool is_same = t->dims == d->dims && t->count == d->count;
    for (uint32_t i = 0; is_same && i < d->dims; i++)
        is_same = t->shape[i] == d->shape[i];
    if (!is_same)
        return error_set(err, ST_BAD_FILE,
                         "tensor %s has %zu values in %u dimensions; this architecture has %llu in "
                         "%u, or the same in another shape",
                         d->name, t->count, t->dims, (unsigned long long)d->count, d->dims);
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16 && t->dtype != DT_F64)
        return error_set(err, ST_BAD_FILE, "tensor %s is of type %s, not of floats", d->name,
                         dtype_name(t->dtype));
    return ST_OK;
}

enum status arch_check_tensors(const struct unet_arch *arch, const struct st_tensor *tensors,
                               size_t n, struct error *err)
{
    struct graph *g = NULL;
    enum status s = unet_build(&g, arch, arch->image_size, arch->image_size, err);
    if (s) return s;
    for (uint32_t i = 0; !s && i < g->n_params; i++)
        s = check_param(find(tensors, n, g->params[i].name), &g->params[i], err);
    for (size_t i = 0; !s && i < n; i++) {
        uint32_t k = 0;
        while (k < g->n_params && strcmp(g->params[k].name, tensors[i].name) != 0)
            k++;
        if (k == g->n_params)
            s = error_set(err, ST_BAD_FILE, "tensor %.80s is not of this architecture",
                          tensors[i].name);
    }
    graph_free(g);
    return s;
}

static const char all_names[] = ""
#define OPERATOR(...)
#define TASK(id, name, ...) ", " name
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK
    ;
const char *const task_names = all_names + 2;

enum status task_defaults(struct model_task *out, const char *name, struct error *err)
{
    const struct task_desc *t = task_find(name);
    if (!t)
        return error_set(err, ST_UNKNOWN_TASK, "there is no task \"%.32s\"; there are: %s", name,
                         task_names);
    struct model_task task = { .sigma = t->sigma,
                               .h = t->h,
                               .label = -1,
                               .sigma_range = { t->sigma, t->sigma },
                               .level = t->level,
                               .level_range = { t->level, t->level } };
    snprintf(task.name, sizeof task.name, "%s", t->name);
    *out = task;
    return ST_OK;
}
