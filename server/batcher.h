/* batcher.h - the one thread that drives an engine: fills a batch from the queue, runs it, hands its items back.
 *
 * Work-conserving: an idle engine takes what is there at once (or after max_delay), and batches form behind a busy one. Where the engine can have two in
 * flight, the next is cut and sent while one is computed, and the one before comes back and is blended.
 * Several engines, one a device, have a batcher each on the one queue: whoever has nothing in flight takes jobs before those that have.
 * A failed job fails its own item only; a failed batch fails its items. `done` is called once an item has no job left in
 * queue or engine. Ends when the queue is closed and empty. */
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
    size_t number, engines; /* of this one, among how many that share the queue */
    struct metrics *metrics;
    struct throughput *throughput;
    size_t max_batch;
    uint64_t max_delay_ns;
    void (*done)(struct queue_item *item);
    void (*fault)(void *cls, const struct error *err); /* the device has failed */
    void *cls;
};

struct batcher;
enum status batcher_new(struct batcher **out, const struct batcher_options *o, struct error *err);
void batcher_free(struct batcher *b); /* takes NULL; joins: the queue is closed */

#endif
