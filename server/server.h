/* server.h - the state of the daemon: is it alive, ready, does it take new work, and when should
 * a client try again.
 *
 * There is one, in serve.c, and it outlives every thread. It knows nothing of HTTP or of
 * restoring: serve.c changes the flags, and what is above reads them. The flags and counters are
 * atomics; the other fields are set before the first thread starts. */
#ifndef DAVID_SERVER_SERVER_H
#define DAVID_SERVER_SERVER_H

#include <stdbool.h>

#include "server/config.h"
#include "server/memory.h"
#include "server/metrics.h"
#include "server/throughput.h"

struct server {
    const struct config *config;
    struct memory memory;
    struct metrics metrics;
    struct throughput throughput;
    uint64_t (*backlog)(void *context); /* tile jobs and requests that wait; any thread */
    void *backlog_context;
    double start_time_s;     /* since 1970 */
    atomic_bool is_ready;    /* the models are loaded and warm */
    atomic_bool is_draining; /* SIGTERM or SIGINT came: /readyz answers 503 */
    atomic_bool is_refusing; /* drain_delay has passed: no new work */
    atomic_bool is_aborting; /* drain_timeout has passed: accepted work is answered 503 */
    atomic_bool is_faulty;   /* a device has failed */
    _Atomic uint64_t active; /* requests with a body, accepted and not yet answered */
};

/* s: zeroed. Reads the wall clock. */
void server_init(struct server *s, const struct config *config);
/* ST_OK where /livez answers 200: no device has failed. Else ST_DEVICE_FAULT. */
enum status server_alive(struct server *s, struct error *err);
/* ST_OK where /readyz answers 200. Else ST_DEVICE_FAULT, ST_DRAINING or ST_NOT_READY. */
enum status server_ready(struct server *s, struct error *err);
/* ST_OK where a request with a body is accepted; `active` must be incremented before. Else as
 * server_ready(). */
enum status server_admits(struct server *s, struct error *err);
unsigned server_retry_after(struct server *s); /* seconds */

#endif
