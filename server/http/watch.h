/* watch.h - one thread that notices clients that close their connection while their request
 * waits, and that ticks.
 *
 * libmicrohttpd does not look at suspended connections, so their sockets are in an epoll set
 * here with EPOLLRDHUP: a client that closes or half-closes has gone. `disconnected` runs under
 * the lock of the watch and takes a reference; `cancel` then runs without the lock. Sockets
 * given to watch_linger() are read until the peer closes, so that a reset does not lose an early
 * answer. watch_remove() after an event does nothing.
 * Threads: any thread adds and removes; the hooks run on the watch's thread. */
#ifndef DAVID_SERVER_HTTP_WATCH_H
#define DAVID_SERVER_HTTP_WATCH_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct watch_hooks {
    void (*disconnected)(void *who); /* under the lock: takes a reference, no more */
    void (*cancel)(void *who);       /* without the lock: acts, and gives the reference back */
    void (*tick)(void *cls, uint64_t now_ns); /* every 20 ms, and after events */
    void *cls;
};

struct watch;
enum status watch_new(struct watch **out, size_t max, const struct watch_hooks *h,
                      struct error *err);
void watch_free(struct watch *w);                       /* takes NULL; joins the thread */
uint64_t watch_add(struct watch *w, int fd, void *who); /* a ticket; 0: not watched */
void watch_remove(struct watch *w, uint64_t ticket);
void watch_linger(struct watch *w, int fd, uint64_t now_ns); /* takes fd over */

#endif
