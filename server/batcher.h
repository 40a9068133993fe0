/* batcher.h - one thread that drives one engine: fills a batch from the queue, runs it, hands
 * its items back.
 *
 * Work-conserving: an idle engine takes at once what waits (or after max_delay), and batches
 * form behind a busy one. Where the engine can have two batches in flight, the next one is
 * extracted and copied while the first is computed. Several engines, one a device, have a
 * batcher each on the one queue: a batcher with nothing in flight takes jobs before one that
 * has. A failed job fails its own item only; a failed batch fails all its items. `done` is
 * called once no job of an item is in the queue or in an engine. The thread ends when the queue
 * is closed and empty. */
#ifndef DAVID_SERVER_BATCHER_H
#define DAVID_SERVER_BATCHER_H

#include "engine/engine.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/queue.h"
#include "server/throughput.h"

struct batcher_options {
    struct queue *queue;
    struct engine *engine;
    size_t number, engines; /* this one is number 0.. of so many that share the queue */
    struct metrics *metrics;
    struct throughput *throughput;
    size_t max_batch;
    uint64_t max_delay_ns;
    void (*done)(struct queue_item *item);             /* the item belongs to it */
    void (*fault)(void *cls, const struct error *err); /* a batch has failed as a whole */
    void *cls;
};

struct batcher;
enum status batcher_new(struct batcher **out, const struct batcher_options *o, struct error *err);
void batcher_free(struct batcher *b); /* takes NULL; joins the thread: close the queue before */

#endif
