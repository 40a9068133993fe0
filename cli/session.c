#include "cli/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "cli/files.h"
#include "cli/progress.h"

enum status session_open(struct session *out, const struct engine_options *o, const char *name,
                         struct error *err)
{
    char path[PATH_MAX];
    struct session s = { 0 };
    enum status status = model_path(path, name ? name : "default", err);
    if (!status) status = engine_open(&s.engine, o, err);
    if (!status) status = model_load(&s.model, s.engine, path, err);
    if (status)
        session_close(&s);
    else
        *out = s;
    return status;
}

void session_close(struct session *s)
{
    model_free(s->model);
    engine_close(s->engine);
    memset(s, 0, sizeof *s);
}

enum status session_run(struct session *s, struct restoration *r, bool is_shown, struct error *err)
{
    const uint64_t total = restoration_tile_jobs(r);
    const uint32_t batch = engine_describe(s->engine)->max_batch;
    struct progress progress = { 0 };
    struct tile_job *rows = calloc(batch, sizeof *rows);
    if (!rows) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch of %u rows", batch);
    if (is_shown) progress_begin(&progress, "rows", total);
    enum status status = ST_OK;
    for (uint64_t at = 0; !status && at < total;) {
        uint32_t n = total - at < batch ? (uint32_t)(total - at) : batch;
        for (uint32_t i = 0; i < n; i++)
            rows[i] = (struct tile_job){ r, at + i, ST_OK };
        status = engine_run(s->engine, s->model, rows, n, err);
        for (uint32_t i = 0; !status && i < n; i++)
            if (rows[i].status)
                status = error_set(err, rows[i].status, "row %llu failed: %s",
                                   (unsigned long long)(at + i), status_title(rows[i].status));
        at += n;
        progress_show(&progress, at);
    }
    progress_end(&progress);
    free(rows);
    return status;
}

struct level_help level_help(const char *more)
{
    struct level_help h;
    task_levels(h.text, sizeof h.text);
    const size_t len = strlen(h.text);
    (void)snprintf(h.text + len, sizeof h.text - len, "%s", more);
    return h;
}

struct level_text level_text(double level)
{
    struct level_text t = { "" };
    if (level > 0) (void)snprintf(t.words, sizeof t.words, ", level %g", level);
    return t;
}

enum status draw_seed(uint64_t *out, struct error *err)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return error_set(err, ST_IO, "getrandom: %s", strerror(errno));
    *out = seed;
    return ST_OK;
}

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
