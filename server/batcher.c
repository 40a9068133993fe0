#include "server/batcher.h"

#include <pthread.h>
#include <stdlib.h>

#include "server/clock.h"

enum { MOST_IN_FLIGHT = 2 };

/* A batch, from queue_fill() until its jobs are back. */
struct batch {
    struct queue_job *waiting; /* [max_batch] */
    struct tile_job *jobs;     /* [max_batch] */
    size_t n;
    enum status begun; /* of engine_begin(): why it is not in the engine */
    struct in_flight_batch in_flight;
};

struct batcher {
    struct batcher_options o;
    pthread_t thread;
    size_t depth; /* batches in flight, at most */
    struct batch batches[MOST_IN_FLIGHT];
    uint64_t last_ns; /* when the engine last finished a batch, or began one after idling */
};

static void note_fault(struct batcher *b, const struct error *err)
{
    metric_add(&b->o.metrics->device_faults, 1);
    b->o.fault(b->o.cls, err);
}

static void begin(struct batcher *b, struct batch *a)
{
    struct error err = { 0 };
    for (size_t i = 0; i < a->n; i++)
        a->jobs[i] =
            (struct tile_job){ a->waiting[i].item->restoration, a->waiting[i].index, ST_OK };
    /* The queue holds models as keys only. */
    const struct served_model *served = a->waiting[0].item->model;
    struct model *model = served->on[b->o.number];
    a->begun = engine_begin(b->o.engine, model, a->jobs, a->n, &a->in_flight, &err);
    if (a->begun) note_fault(b, &err);
}

static void end(struct batcher *b, struct batch *a)
{
    struct error err = { 0 };
    enum status s = a->begun;
    if (!s) {
        s = engine_end(b->o.engine, &a->in_flight, &err);
        if (s) note_fault(b, &err);
    }
    const uint64_t now = clock_now_ns();
    throughput_record(b->o.throughput, a->n, (now - b->last_ns) / b->o.engines);
    b->last_ns = now;
    metric_size(&b->o.metrics->batch_size, a->n);
    metric_add(&b->o.metrics->rows, a->n);
    for (size_t i = 0; i < a->n; i++) {
        struct queue_item *item = a->waiting[i].item;
        enum status job = s ? s : a->jobs[i].status;
        if (job && !s) metric_add(&b->o.metrics->job_failures, 1);
        /* The jobs left of a failed item are not run; its last job in an engine hands it on
         * below. */
        if (job) {
            queue_fail(b->o.queue, item, job);
            (void)queue_drop(b->o.queue, item);
        }
        if (queue_complete(b->o.queue, item)) b->o.done(item);
    }
}

/* While a batch is in flight, the next one is begun, where jobs wait, before the thread waits
 * for the first. */
static void *work(void *cls)
{
    struct batcher *b = cls;
    size_t first = 0, in_flight = 0; /* batches[first ..], modulo depth */
    for (;;) {
        if (in_flight == 0) {
            if (!queue_wait(b->o.queue, b->o.max_batch, b->o.max_delay_ns)) return NULL;
            b->last_ns = clock_now_ns();
        }
        struct batch *next = &b->batches[(first + in_flight) % b->depth];
        next->n = in_flight > 0 && queue_is_waited_for(b->o.queue)
                      ? 0
                      : queue_fill(b->o.queue, next->waiting, b->o.max_batch, clock_now_ns());
        if (next->n > 0) {
            begin(b, next);
            in_flight++;
        }
        if (in_flight == 0 || (next->n > 0 && in_flight < b->depth)) continue;
        end(b, &b->batches[first]);
        first = (first + 1) % b->depth;
        in_flight--;
    }
}

static void release(struct batcher *b)
{
    for (size_t i = 0; i < MOST_IN_FLIGHT; i++) {
        free(b->batches[i].waiting);
        free(b->batches[i].jobs);
    }
    free(b);
}

enum status batcher_new(struct batcher **out, const struct batcher_options *o, struct error *err)
{
    struct batcher *b = calloc(1, sizeof *b);
    if (!b) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the batcher");
    b->o = *o;
    b->depth = engine_describe(o->engine)->in_flight;
    if (b->depth > MOST_IN_FLIGHT) b->depth = MOST_IN_FLIGHT;
    bool has_all = true;
    for (size_t i = 0; i < b->depth; i++) {
        b->batches[i].waiting = calloc(o->max_batch, sizeof *b->batches[i].waiting);
        b->batches[i].jobs = calloc(o->max_batch, sizeof *b->batches[i].jobs);
        has_all = has_all && b->batches[i].waiting && b->batches[i].jobs;
    }
    if (has_all && pthread_create(&b->thread, NULL, work, b) == 0) {
        *out = b;
        return ST_OK;
    }
    release(b);
    return error_set(err, ST_INTERNAL, "cannot start the batcher");
}

void batcher_free(struct batcher *b)
{
    if (!b) return;
    (void)pthread_join(b->thread, NULL);
    release(b);
}
