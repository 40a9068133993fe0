/* queue.h - requests that wait for an engine.
 *
 * An item is a cursor over the tile jobs of an image; jobs are made only when a batch is filled.
 * The number of places is bounded: queue_reserve() takes one (ST_QUEUE_FULL, naming max_queue)
 * before the image is decoded, and it becomes free when the item's last job leaves. Order:
 * earliest deadline first, then fewest jobs served. A new item starts at the count of the item
 * at the head, so that neither a large image nor a stream of small ones starves. A batch holds
 * jobs of one model.
 * Threads: any thread reserves, pushes and drops; every batcher waits and fills. `now_ns` comes
 * from the caller. */
#ifndef DAVID_SERVER_QUEUE_H
#define DAVID_SERVER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

#define NO_DEADLINE UINT64_MAX

struct restoration;

struct queue_item { /* embedded in a request; belongs to the queue while it is linked */
    const void *model;
    uint64_t deadline_ns; /* NO_DEADLINE: none */
    uint64_t jobs, next;  /* next: the first job not yet handed out */
    uint64_t first_ns;    /* out: when its first job was handed out; 0: none was */
    uint64_t served, order;
    size_t place;                    /* in the heap */
    size_t in_engine;                /* jobs handed out and not yet back */
    struct restoration *restoration; /* whose jobs these are; opaque here */
    enum status failure;             /* of the first job that failed: queue_fail() */
    bool is_linked;
    bool is_expired; /* its deadline passed while jobs of it were in the engine */
    bool is_dropped; /* by queue_drop, perhaps before it was pushed */
};

struct queue_job {
    struct queue_item *item;
    uint64_t index;
};

struct queue;
enum status queue_new(struct queue **out, size_t max_requests, struct error *err);
void queue_free(struct queue *q); /* takes NULL; it is empty and no thread waits */

enum status queue_reserve(struct queue *q, struct error *err);
void queue_unreserve(struct queue *q); /* gives back a place that was never pushed to */
/* Uses one reserved place. ST_DRAINING after queue_close(), ST_CANCELLED after queue_drop(): the
 * caller still has the place. */
enum status queue_push(struct queue *q, struct queue_item *item, struct error *err);
/* Hands out jobs, at most max; returns their number. */
size_t queue_fill(struct queue *q, struct queue_job *batch, size_t max, uint64_t now_ns);
/* A job of the item has failed: the first such status stays. */
void queue_fail(struct queue *q, struct queue_item *item, enum status why);
/* A job has come back. True: no job of the item waits or is in an engine, and the item belongs
 * to the caller. */
bool queue_complete(struct queue *q, struct queue_item *item);
/* Unlinks the item. True: it belongs to the caller. False: jobs are in an engine
 * (queue_complete() returns true for the last), or it is not in the queue, and then it cannot be
 * pushed any more. */
bool queue_drop(struct queue *q, struct queue_item *item);
/* Unlinks items whose deadline has passed; returns one that now belongs to the caller, or NULL:
 * no more. */
struct queue_item *queue_expired(struct queue *q, uint64_t now_ns);

/* Blocks until jobs wait (true) or the queue is closed and empty (false); once one waits, until
 * there are `enough` or `patience_ns` have passed. */
bool queue_wait(struct queue *q, size_t enough, uint64_t patience_ns);
void queue_close(struct queue *q);
/* A thread is in queue_wait(): a batcher with a batch in flight leaves the jobs to it. */
bool queue_is_waited_for(struct queue *q);

size_t queue_depth(struct queue *q); /* places that are taken */
uint64_t queue_tile_jobs(struct queue *q);
bool queue_is_full(struct queue *q);

#endif
