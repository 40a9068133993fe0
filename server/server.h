/* server.h - what the rooms of the daemon share. One of it lives, in serve.c, longer than every thread. */
#ifndef DAVID_SERVER_SERVER_H
#define DAVID_SERVER_SERVER_H

#include "server/batcher.h"
#include "server/codec_pool.h"
#include "server/config.h"
#include "server/http.h"
#include "server/memory.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/queue.h"
#include "server/throughput.h"

struct server {
    const struct config *config;
    struct memory memory;
    struct metrics metrics;
    struct throughput throughput;
    struct engine *engine;               /* the first: what the others are like */
    struct engine *engines[ENGINES_MAX]; /* one a device */
    size_t n_engines;
    struct models *models;
    struct queue *queue;
    struct codec_pool *codecs;
    struct batcher *batchers[ENGINES_MAX];
    struct http *http;
    atomic_bool is_ready;     /* the models are loaded and warm */
    atomic_bool is_draining;  /* SIGTERM came: /readyz says so */
    atomic_bool is_refusing;  /* drain_delay is over: no new work */
    atomic_bool is_aborting;  /* drain_timeout is over: accepted work is answered 503 */
    atomic_bool is_faulty;    /* the device has failed */
    _Atomic uint64_t active;  /* restorations accepted and not yet answered */
    _Atomic uint64_t working; /* requests that hold images or places; answered or not */
};

/* ST_OK where /livez is 200: no device has failed. */
enum status server_alive(struct server *s, struct error *err);
/* ST_OK where /readyz is 200. */
enum status server_ready(struct server *s, struct error *err);
unsigned server_retry_after(struct server *s);
double server_start_time_s(void);
unsigned server_open_fds(void);

#endif
