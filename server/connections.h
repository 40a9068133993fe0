/* connections.h - every open connection, the phase it is in, and the clock that ends it.
 *
 * libmicrohttpd knows inactivity only; here headers, bodies and replies have a time as a whole. A connection whose phase
 * lasts too long is moved to PHASE_ENDED, told why where the library cannot (408; 503 where the daemon aborts) and shut: its
 * HTTP thread finds that when its next connection_move() fails, and then lets the request go. One whose client has closed is
 * moved to PHASE_DISCONNECTED and shut: the library misses an end that comes together with bytes.
 * Threads: a connection is its HTTP thread's, which opens, moves and closes it; connections_check() is the clock's, and sees
 * no connection that was closed. */
#ifndef DAVID_SERVER_CONNECTIONS_H
#define DAVID_SERVER_CONNECTIONS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct server;
struct route;

enum { REQUEST_ID_MAX = 128 };
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
    _Atomic uint64_t
        state; /* its phase and since when, in one word: the clock must never see one of them stale */
    /* Of the request whose body comes: set before PHASE_BODY, untouched in it. */
    const struct route *route;
    char request_id[REQUEST_ID_MAX + 1];
    bool lingers;            /* answered before its body was read */
    uint64_t checked_ns;     /* the clock's: when it last looked whether the client is there */
    bool seems_disconnected; /* the clock's: what it saw then */
};

struct connections {
    struct server *server;
    pthread_mutex_t lock; /* guards the list */
    struct connection *first;
};

void connections_init(struct connections *l, struct server *s);
void connections_done(struct connections *l); /* empty */
/* NULL: no memory */
struct connection *connection_open(struct connections *l, int fd, uint64_t now_ns);
void connection_close(struct connections *l,
                      struct connection *c); /* frees it; the socket is the caller's */
/* False: it is in another phase than `from`; the clock has ended it. */
bool connection_move(struct connection *c, enum phase from, enum phase to, uint64_t now_ns);
/* The clock has told the client why it is ended. */
bool connection_is_ended(const struct connection *c);
void connections_check(struct connections *l, uint64_t now_ns);

/* Random: [REQUEST_ID_MAX + 1] */
void request_id_make(char *out);

#endif
