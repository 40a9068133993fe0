/* The processes of a run: joining, agreeing whether to continue, adding gradients, leaving. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/train/trainer.h"

enum status process_group_join(struct trainer *t, struct error *err)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    struct error why = { 0 };
    if (!size || strtol(size, NULL, 10) <= 1) return ST_OK;
    enum status s = process_group_plugin_find(&t->plugin, &why);
    if (!s) s = t->plugin->join(&t->process_group, &t->process, &why);
    return s ? error_set(err, ST_INTERNAL, "one of %.16s processes of mpirun, but: %s", size,
                         why.detail)
             : ST_OK;
}

void process_group_leave(struct trainer *t)
{
    if (t->process_group.sum) t->plugin->leave();
}

/* All processes learn which have failed; the first of these reports the failure. */
static enum status failed_together(struct trainer *t, enum status s, struct error *err)
{
    double *failed = calloc(t->process_group.processes, sizeof *failed);
    if (!failed)
        return process_group_abandon(t, error_set(err, ST_NO_MEMORY_NOW, "no memory"), err);
    failed[t->process] = s != ST_OK;
    t->process_group.sum(t->process_group.ctx, failed, t->process_group.processes);
    t->reporting_rank = 0;
    while (t->reporting_rank + 1 < t->process_group.processes && failed[t->reporting_rank] == 0.0)
        t->reporting_rank++;
    free(failed);
    return s ? s
             : error_set(err, ST_INTERNAL, "process %u of %u has failed", t->reporting_rank,
                         t->process_group.processes);
}

enum status process_group_agree(struct trainer *t, enum status s, bool *stop, struct error *err)
{
    if (!t->process_group.sum) return s;
    double v[2] = { s != ST_OK, stop && *stop };
    t->process_group.sum(t->process_group.ctx, v, 2);
    if (stop) *stop = v[1] > 0;
    return v[0] > 0 ? failed_together(t, s, err) : ST_OK;
}

enum status process_group_compare(struct trainer *t, struct error *err)
{
    if (!t->process_group.sum) return ST_OK;
    /* 32 bits of the digest: a sum of such integers is exact in doubles. */
    char some[9] = "";
    memcpy(some, dataset_digest(t->dataset), 8);
    const double mine[2] = { (double)t->checkpoint.step, (double)strtoul(some, NULL, 16) };
    double all[2] = { mine[0], mine[1] };
    enum status s = ST_OK;
    t->process_group.sum(t->process_group.ctx, all, 2);
    if (all[0] != mine[0] * t->process_group.processes)
        s = error_set(err, ST_BAD_FILE,
                      "process %u finds a checkpoint of step %" PRIu64
                      ", others another: %s must be "
                      "one folder for all",
                      t->process, t->checkpoint.step, t->folder);
    else if (all[1] != mine[1] * t->process_group.processes)
        s = error_set(err, ST_BAD_FILE, "process %u finds other images in %s than others",
                      t->process, t->o.data);
    return process_group_agree(t, s, NULL, err);
}

enum status process_group_abandon(struct trainer *t, enum status s, struct error *err)
{
    char text[640];
    if (!s || !t->process_group.sum) return s;
    (void)snprintf(text, sizeof text, "process %u of %u: %s", t->process,
                   t->process_group.processes, err ? err->detail : "");
    if (t->events.note) t->events.note(t->events.ctx, text);
    t->plugin->abandon();
    return s;
}

/* The sum runs on the host: gradients in other memory are copied there and back. */
static enum status sum_gradients(struct trainer *t, struct trainable *l, struct error *err)
{
    const size_t bytes = l->layout.count * sizeof *l->gradients;
    if (t->b->ops->device.host_memory) {
        t->process_group.sum_floats(t->process_group.ctx, l->gradients, l->layout.count);
        return ST_OK;
    }
    float *host = malloc(bytes);
    if (!host) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes", bytes);
    enum status s = device_copy_out(t->b, host, l->gradients, bytes, err);
    if (!s) {
        t->process_group.sum_floats(t->process_group.ctx, host, l->layout.count);
        s = device_copy_in(t->b, l->gradients, host, bytes, err);
    }
    free(host);
    return s;
}

enum status process_group_mean(struct trainer *t, struct trainable *l, struct error *err)
{
    if (!t->process_group.sum_floats) return ST_OK;
    enum status s = sum_gradients(t, l, err);
    if (s) return s;
    return t->b->ops->gradients->scale(t->b, l->gradients, l->layout.count,
                                       1.0f / (float)t->processes, err);
}
