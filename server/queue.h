/* queue.h - requests that wait for the engine.
 *
 * An item is a cursor over the jobs of a image; jobs are made only when a batch is filled. Places are bounded:
 * queue_reserve() takes one (ST_QUEUE_FULL, naming max_queue) before the image is decoded, and it is given back when the
 * item's last job leaves. Order: earliest deadline, then fewest jobs served, counted from the others' count when it came, so
 * that a large image and a stream of small ones both go on. A batch holds jobs of one model.
 * Threads: any thread reserved, pushes and drops; every batcher waits and fills. `now_ns` comes from the caller. */
#ifndef DAVID_SERVER_QUEUE_H
#define DAVID_SERVER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

#define NO_DEADLINE UINT64_MAX

struct restoration;

struct queue_item { /* embedded in a request; the queue's while it is linked */
    const void *model;
    uint64_t deadline_ns; /* NO_DEADLINE: none */
    uint64_t jobs, next;  /* next: the first job not yet handed out */
    uint64_t first_ns;    /* out: when its first job left; 0: none has */
    uint64_t served, order;
    size_t place;                    /* in the heap */
    size_t in_engine;                /* jobs handed out and not yet back */
    struct restoration *restoration; /* whose jobs these are; not looked into here */
    enum status failure;             /* of the first of its jobs that failed: queue_fail */
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
void queue_free(struct queue *q); /* takes NULL; empty, nobody waits */

enum status queue_reserve(struct queue *q, struct error *err);
void queue_unreserve(struct queue *q); /* a reservation that never became a push */
/* Uses up one reservation. ST_DRAINING after queue_close(), ST_CANCELLED after queue_drop(); the reservation is then still the caller's. */
enum status queue_push(struct queue *q, struct queue_item *item, struct error *err);
size_t queue_fill(struct queue *q, struct queue_job *batch, size_t max, uint64_t now_ns);
/* A job of it has failed: the first such status stays. */
void queue_fail(struct queue *q, struct queue_item *item, enum status why);
/* A job has come back. True: no job of it waits or is out any more, and the item is the caller's. */
bool queue_complete(struct queue *q, struct queue_item *item);
/* Unlinks it. True: the item is the caller's; false: jobs are in the engine (queue_complete will say when), or it is not here:
 * then it cannot be pushed any more. */
bool queue_drop(struct queue *q, struct queue_item *item);
/* Unlinks items whose deadline has passed; returns one that is now the caller's, NULL: no more. */
struct queue_item *queue_expired(struct queue *q, uint64_t now_ns);

/* Blocks until jobs wait (true) or the queue is closed (false). At least `enough` jobs or `patience_ns` are waited for. */
bool queue_wait(struct queue *q, size_t enough, uint64_t patience_ns);
void queue_close(struct queue *q);
bool queue_is_waited_for(
    struct queue *q); /* somebody is in queue_wait: who has work already leaves the jobs to them */

size_t queue_depth(struct queue *q); /* reserved */
uint64_t queue_tile_jobs(struct queue *q);
bool queue_is_full(struct queue *q);
uint64_t queue_next_deadline(struct queue *q); /* NO_DEADLINE: none */

#endif
