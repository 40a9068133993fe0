#include "server/batcher.h"

#include <pthread.h>
#include <stdlib.h>

#include "server/clock.h"

struct batcher {
    struct batcher_options o;
    pthread_t thread;
    struct queue_row *waiting; /* [max_batch] */
    struct row *rows;          /* [max_batch] */
};

static void run_batch(struct batcher *b, size_t n)
{
    struct error err = { 0 };
    for (size_t i = 0; i < n; i++)
        b->rows[i] = (struct row){ b->waiting[i].item->restoration, b->waiting[i].index, ST_OK };
    uint64_t from = clock_now_ns();
    /* The queue keeps models as keys only; they are the engine's own. */
    struct model *model = (struct model *)(uintptr_t)b->waiting[0].item->model;
    enum status s = engine_run(b->o.engine, model, b->rows, n, &err);
    throughput_record(b->o.throughput, n, clock_now_ns() - from);
    metric_size(&b->o.metrics->batch_size, n);
    metric_add(&b->o.metrics->rows, n);
    if (s) {
        metric_add(&b->o.metrics->device_faults, 1);
        b->o.fault(b->o.cls, &err);
    }
    for (size_t i = 0; i < n; i++) {
        struct queue_item *item = b->waiting[i].item;
        enum status row = s ? s : b->rows[i].status;
        if (row && !s) metric_add(&b->o.metrics->row_failures, 1);
        if (row && !item->failure) item->failure = row;
        /* What is left of a failed item would be computed for nobody; its last row here hands it on below. */
        if (row) (void)queue_drop(b->o.queue, item);
        if (queue_back(b->o.queue, item)) b->o.done(item);
    }
}

static void *work(void *cls)
{
    struct batcher *b = cls;
    while (queue_wait(b->o.queue, b->o.max_batch, b->o.max_delay_ns)) {
        size_t n = queue_fill(b->o.queue, b->waiting, b->o.max_batch, clock_now_ns());
        if (n) run_batch(b, n);
    }
    return NULL;
}

enum status batcher_new(struct batcher **out, const struct batcher_options *o, struct error *err)
{
    struct batcher *b = calloc(1, sizeof *b);
    if (b) {
        b->o = *o;
        b->waiting = calloc(o->max_batch, sizeof *b->waiting);
        b->rows = calloc(o->max_batch, sizeof *b->rows);
    }
    if (b && b->waiting && b->rows && pthread_create(&b->thread, NULL, work, b) == 0) {
        *out = b;
        return ST_OK;
    }
    if (b) {
        free(b->waiting);
        free(b->rows);
        free(b);
    }
    return error_set(err, ST_INTERNAL, "cannot start the batcher");
}

void batcher_free(struct batcher *b)
{
    if (!b) return;
    (void)pthread_join(b->thread, NULL);
    free(b->waiting);
    free(b->rows);
    free(b);
}
