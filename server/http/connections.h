/* connections.h - every open connection, the phase it is in, and the clock that ends it.
 *
 * libmicrohttpd knows a timeout of inactivity only; here headers, bodies and replies have a time
 * as a whole. A connection whose phase lasts too long is moved to PHASE_ENDED, reported where
 * libmicrohttpd cannot answer any more (408; 503 where the daemon aborts) and shut down. Its
 * HTTP thread finds that when its next connection_move() fails, and then drops the request. A
 * connection whose client has closed is moved to PHASE_DISCONNECTED and shut down: libmicrohttpd
 * misses an end of file that comes together with bytes.
 * Threads: a connection belongs to its HTTP thread, which opens, moves and closes it;
 * connections_check() belongs to the clock, and sees no connection that is closed. */
#ifndef DAVID_SERVER_HTTP_CONNECTIONS_H
#define DAVID_SERVER_HTTP_CONNECTIONS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/error.h"
#include "server/http/request_id.h"

struct http_route;
struct server;

enum phase {
    PHASE_IDLE,
    PHASE_HEADERS,
    PHASE_BODY,
    PHASE_WORK,
    PHASE_REPLY,
    PHASE_ENDED,
    PHASE_DISCONNECTED
};

struct connection {
    struct connection *prev, *next;
    int fd;
    /* The phase and the time at which it began, in one word: the clock must never see one of
     * them stale. */
    _Atomic uint64_t state;
    /* Of the request whose body comes: set before PHASE_BODY, constant in it. */
    const struct http_route *route;
    char request_id[REQUEST_ID_MAX + 1];
    bool lingers;            /* answered before its body was read */
    uint64_t checked_ns;     /* the clock's: when it last looked for an end of file */
    bool seems_disconnected; /* the clock's: what it saw then */
};

/* A connection is ended in the middle of a request, and libmicrohttpd cannot answer that: the
 * call-back writes the reply to the socket. route: NULL before the headers are read, and
 * request_id is "" then. age_ns: of the phase. */
struct ended_connection {
    int fd;
    const struct http_route *route;
    const char *request_id;
    enum status status;
    const char *detail;
    uint64_t age_ns;
};

struct connections {
    struct server *server; /* time limits, state and metrics */
    void (*ended)(struct server *s, const struct ended_connection *c); /* runs under the lock */
    pthread_mutex_t lock;                                              /* guards the list */
    struct connection *first;
};

void connections_init(struct connections *l, struct server *s,
                      void (*ended)(struct server *s, const struct ended_connection *c));
void connections_done(struct connections *l); /* empty */
/* NULL: no memory. */
struct connection *connection_open(struct connections *l, int fd, uint64_t now_ns);
/* Frees it; the socket is the caller's. */
void connection_close(struct connections *l, struct connection *c);
/* False: it is in another phase than `from`, since the clock has ended it. */
bool connection_move(struct connection *c, enum phase from, enum phase to, uint64_t now_ns);
/* The clock has ended it because it was too slow. */
bool connection_is_ended(const struct connection *c);
void connections_check(struct connections *l, uint64_t now_ns);

#endif
