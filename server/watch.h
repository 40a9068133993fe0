/* watch.h - one thread that sees clients go away while their request waits, and gives the daemon its clock tick.
 *
 * Suspended connections are invisible to libmicrohttpd, so their sockets stand in an epoll set here with EPOLLRDHUP: a
 * client that closes or half-closes is gone. `disconnected` runs under this room's lock and returns what `cancel` gets after it is
 * released. Sockets handed to watch_linger() are read until the peer closes, so that an early answer is not lost in a
 * reset. watch_remove() after an event is harmless. */
#ifndef DAVID_SERVER_WATCH_H
#define DAVID_SERVER_WATCH_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct watch_hooks {
    void *(*disconnected)(void *who); /* under the lock: take a reference, no more */
    void (*cancel)(void *what);       /* without it */
    void (*tick)(void *cls, uint64_t now_ns);
    void *cls;
};

struct watch;
enum status watch_new(struct watch **out, size_t max, const struct watch_hooks *h,
                      struct error *err);
void watch_free(struct watch *w);                       /* takes NULL; joins */
uint64_t watch_add(struct watch *w, int fd, void *who); /* a ticket; 0: not watched */
void watch_remove(struct watch *w, uint64_t ticket);
void watch_linger(struct watch *w, int fd, uint64_t now_ns); /* owns fd from here */

#endif
