#include "server/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct queue {
    pthread_mutex_t lock; /* guards everything here and the items that are linked */
    pthread_cond_t filled;
    size_t max, reserved, n, waiting; /* waiting: batchers in queue_wait */
    uint64_t jobs, pushed;
    bool is_closed;
    struct queue_item **heap, **aside; /* [max] each */
};

static bool comes_before(const struct queue_item *a, const struct queue_item *b)
{
    if (a->deadline_ns != b->deadline_ns) return a->deadline_ns < b->deadline_ns;
    if (a->served != b->served) return a->served < b->served;
    return a->order < b->order;
}

static void put_at(struct queue *q, size_t i, struct queue_item *item)
{
    q->heap[i] = item;
    item->place = i;
}

static void sift_up(struct queue *q, size_t i)
{
    struct queue_item *item = q->heap[i];
    for (; i > 0 && comes_before(item, q->heap[(i - 1) / 2]); i = (i - 1) / 2)
        put_at(q, i, q->heap[(i - 1) / 2]);
    put_at(q, i, item);
}

static void sift_down(struct queue *q, size_t i)
{
    struct queue_item *item = q->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= q->n) break;
        if (child + 1 < q->n && comes_before(q->heap[child + 1], q->heap[child])) child++;
        if (!comes_before(q->heap[child], item)) break;
        put_at(q, i, q->heap[child]);
        i = child;
    }
    put_at(q, i, item);
}

static void link_item(struct queue *q, struct queue_item *item)
{
    put_at(q, q->n++, item);
    item->is_linked = true;
    sift_up(q, q->n - 1);
}

static void unlink_item(struct queue *q, struct queue_item *item)
{
    size_t i = item->place;
    struct queue_item *last = q->heap[--q->n];
    if (last != item) {
        put_at(q, i, last);
        sift_down(q, i);
        sift_up(q, last->place);
    }
    item->is_linked = false;
}

enum status queue_new(struct queue **out, size_t max_requests, struct error *err)
{
    struct queue *q = calloc(1, sizeof *q);
    if (q) {
        q->heap = calloc(max_requests, sizeof(void *));
        q->aside = calloc(max_requests, sizeof(void *));
    }
    if (!q || !q->heap || !q->aside) {
        if (q) {
            free(q->heap);
            free(q->aside);
            free(q);
        }
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a queue of %zu", max_requests);
    }
    q->max = max_requests;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&q->lock, NULL);
    (void)pthread_cond_init(&q->filled, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    *out = q;
    return ST_OK;
}

void queue_free(struct queue *q)
{
    if (!q) return;
    (void)pthread_cond_destroy(&q->filled);
    (void)pthread_mutex_destroy(&q->lock);
    free(q->heap);
    free(q->aside);
    free(q);
}

enum status queue_reserve(struct queue *q, struct error *err)
{
    (void)pthread_mutex_lock(&q->lock);
    bool is_full = q->reserved >= q->max;
    if (!is_full) q->reserved++;
    (void)pthread_mutex_unlock(&q->lock);
    if (is_full)
        return error_set(err, ST_QUEUE_FULL, "%zu requests wait, as many as max_queue = %zu allows",
                         q->max, q->max);
    return ST_OK;
}

void queue_unreserve(struct queue *q)
{
    (void)pthread_mutex_lock(&q->lock);
    q->reserved--;
    (void)pthread_mutex_unlock(&q->lock);
}

enum status queue_push(struct queue *q, struct queue_item *item, struct error *err)
{
    (void)pthread_mutex_lock(&q->lock);
    bool is_closed = q->is_closed, is_dropped = item->is_dropped;
    if (!is_closed && !is_dropped) {
        item->order = q->pushed++;
        item->served =
            q->n ? q->heap[0]->served : 0; /* not 0: new items would starve a large image */
        item->next = 0;
        item->in_engine = 0;
        item->is_expired = false;
        item->failure = ST_OK;
        item->first_ns = 0;
        q->jobs += item->jobs;
        link_item(q, item);
        (void)pthread_cond_signal(&q->filled);
    }
    (void)pthread_mutex_unlock(&q->lock);
    if (is_closed) return error_set(err, ST_DRAINING, "the service is shutting down");
    if (is_dropped) return error_set(err, ST_CANCELLED, "the client has closed its connection");
    return ST_OK;
}

size_t queue_fill(struct queue *q, struct queue_job *batch, size_t max, uint64_t now_ns)
{
    size_t n = 0, aside = 0;
    const void *model = NULL;
    (void)pthread_mutex_lock(&q->lock);
    while (n < max && q->n > 0) {
        struct queue_item *item = q->heap[0];
        if (n > 0 && item->model != model) { /* of another model: it is first in the next batch */
            unlink_item(q, item);
            q->aside[aside++] = item;
            continue;
        }
        model = item->model;
        if (item->first_ns == 0) item->first_ns = now_ns;
        batch[n++] = (struct queue_job){ item, item->next++ };
        item->served++;
        item->in_engine++;
        q->jobs--;
        if (item->next == item->jobs) {
            unlink_item(q, item);
            q->reserved--;
        } else {
            sift_down(q, 0);
        }
    }
    while (aside > 0)
        link_item(q, q->aside[--aside]);
    if (q->jobs > 0) (void)pthread_cond_signal(&q->filled); /* wakes the next batcher */
    (void)pthread_mutex_unlock(&q->lock);
    return n;
}

static void forget(struct queue *q, struct queue_item *item)
{
    q->jobs -= item->jobs - item->next;
    q->reserved--;
    unlink_item(q, item);
}

void queue_fail(struct queue *q, struct queue_item *item, enum status why)
{
    (void)pthread_mutex_lock(&q->lock);
    if (!item->failure) item->failure = why;
    (void)pthread_mutex_unlock(&q->lock);
}

bool queue_complete(struct queue *q, struct queue_item *item)
{
    (void)pthread_mutex_lock(&q->lock);
    bool is_last = --item->in_engine == 0 && !item->is_linked;
    (void)pthread_mutex_unlock(&q->lock);
    return is_last;
}

bool queue_drop(struct queue *q, struct queue_item *item)
{
    (void)pthread_mutex_lock(&q->lock);
    bool was_linked = item->is_linked;
    item->is_dropped = true;
    if (was_linked) forget(q, item);
    bool is_free = was_linked && item->in_engine == 0;
    (void)pthread_mutex_unlock(&q->lock);
    return is_free;
}

struct queue_item *queue_expired(struct queue *q, uint64_t now_ns)
{
    struct queue_item *found = NULL;
    (void)pthread_mutex_lock(&q->lock);
    while (!found && q->n > 0 && q->heap[0]->deadline_ns <= now_ns) {
        struct queue_item *item = q->heap[0];
        forget(q, item);
        item->is_expired = true;
        if (item->in_engine == 0) found = item;
    }
    (void)pthread_mutex_unlock(&q->lock);
    return found;
}

bool queue_wait(struct queue *q, size_t enough, uint64_t patience_ns)
{
    (void)pthread_mutex_lock(&q->lock);
    q->waiting++;
    while (q->jobs == 0 && !q->is_closed)
        (void)pthread_cond_wait(&q->filled, &q->lock);
    if (patience_ns > 0 && q->jobs < enough && !q->is_closed) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t ns = (uint64_t)until.tv_nsec + patience_ns;
        until.tv_sec += (time_t)(ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
        while (q->jobs < enough && !q->is_closed)
            if (pthread_cond_timedwait(&q->filled, &q->lock, &until) == ETIMEDOUT) break;
    }
    bool has_jobs = q->jobs > 0, is_closed = q->is_closed;
    q->waiting--;
    (void)pthread_mutex_unlock(&q->lock);
    return has_jobs || !is_closed;
}

void queue_close(struct queue *q)
{
    (void)pthread_mutex_lock(&q->lock);
    q->is_closed = true;
    (void)pthread_cond_broadcast(&q->filled);
    (void)pthread_mutex_unlock(&q->lock);
}

bool queue_is_waited_for(struct queue *q)
{
    (void)pthread_mutex_lock(&q->lock);
    bool is_so = q->waiting > 0;
    (void)pthread_mutex_unlock(&q->lock);
    return is_so;
}

size_t queue_depth(struct queue *q)
{
    (void)pthread_mutex_lock(&q->lock);
    size_t n = q->reserved;
    (void)pthread_mutex_unlock(&q->lock);
    return n;
}

bool queue_is_full(struct queue *q)
{
    return queue_depth(q) >= q->max;
}

uint64_t queue_tile_jobs(struct queue *q)
{
    (void)pthread_mutex_lock(&q->lock);
    uint64_t n = q->jobs;
    (void)pthread_mutex_unlock(&q->lock);
    return n;
}
