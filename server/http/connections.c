#include "server/http/connections.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "server/clock.h"
#include "server/server.h"

#define IDLE_NS  (75 * NS_PER_S) /* a kept-alive connection without a request */
#define LOOK_NS  (NS_PER_S / 2)  /* between two checks of a silent client for an end of file */
#define ABORT_NS (2 * NS_PER_S)  /* for a client to read its reply once drain_timeout has passed */

enum { PHASE_BITS = 3 };

static uint64_t state_of(enum phase phase, uint64_t now_ns)
{
    return now_ns << PHASE_BITS | (uint64_t)phase;
}

static enum phase phase_of(uint64_t state)
{
    return (enum phase)(state & ((1u << PHASE_BITS) - 1));
}

void connections_init(struct connections *l, struct server *s,
                      void (*ended)(struct server *s, const struct ended_connection *c))
{
    l->server = s;
    l->ended = ended;
    l->first = NULL;
    (void)pthread_mutex_init(&l->lock, NULL);
}

void connections_done(struct connections *l)
{
    (void)pthread_mutex_destroy(&l->lock);
}

struct connection *connection_open(struct connections *l, int fd, uint64_t now_ns)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->fd = fd;
    atomic_init(&c->state, state_of(PHASE_HEADERS, now_ns));
    (void)pthread_mutex_lock(&l->lock);
    c->next = l->first;
    if (c->next) c->next->prev = c;
    l->first = c;
    (void)pthread_mutex_unlock(&l->lock);
    metric_add(&l->server->metrics.connections, 1);
    return c;
}

void connection_close(struct connections *l, struct connection *c)
{
    (void)pthread_mutex_lock(&l->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        l->first = c->next;
    if (c->next) c->next->prev = c->prev;
    (void)pthread_mutex_unlock(&l->lock);
    metric_subtract(&l->server->metrics.connections, 1);
    free(c);
}

bool connection_move(struct connection *c, enum phase from, enum phase to, uint64_t now_ns)
{
    uint64_t state = atomic_load(&c->state);
    return phase_of(state) == from &&
           atomic_compare_exchange_strong(&c->state, &state, state_of(to, now_ns));
}

bool connection_is_ended(const struct connection *c)
{
    return phase_of(atomic_load(&c->state)) == PHASE_ENDED;
}

/* ---- the clock ---- */

static bool is_late(const struct server *s, enum phase phase, uint64_t age_ns)
{
    const struct config *cfg = s->config;
    bool is_aborting = atomic_load(&s->is_aborting);
    switch (phase) {
    case PHASE_IDLE: return age_ns > IDLE_NS;
    case PHASE_HEADERS: return age_ns > cfg->header_timeout;
    case PHASE_BODY: return is_aborting || age_ns > cfg->body_timeout;
    case PHASE_REPLY: return age_ns > (is_aborting ? ABORT_NS : cfg->body_timeout);
    case PHASE_WORK:
    case PHASE_ENDED:
    case PHASE_DISCONNECTED: break;
    }
    return false;
}

/* The client has closed or half-closed the connection, and no byte of it is unread: what the
 * HTTP thread waits for will never come. True at the second check in a row, when that thread has
 * finished with the bytes that it had read. */
static bool is_disconnected(struct connection *c, enum phase phase, uint64_t now_ns)
{
    char byte;
    if (now_ns - c->checked_ns < LOOK_NS) return false;
    c->checked_ns = now_ns;
    const bool seemed_disconnected = c->seems_disconnected;
    c->seems_disconnected = false;
    if (phase != PHASE_IDLE && phase != PHASE_HEADERS && phase != PHASE_BODY) return false;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    c->seems_disconnected = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    return seemed_disconnected && c->seems_disconnected;
}

/* Why a connection that is late in this phase ends, as its client is to read it; ST_OK: it ends
 * without a word. */
static enum status reason_of(const struct server *s, enum phase phase, char *detail, size_t cap)
{
    char limit[32];
    if (phase == PHASE_BODY && atomic_load(&s->is_aborting)) {
        (void)snprintf(detail, cap, "the service is shutting down");
        return ST_DRAINING;
    }
    if (phase == PHASE_BODY) {
        config_duration_text(limit, sizeof limit, s->config->body_timeout);
        (void)snprintf(detail, cap, "the body did not arrive within body_timeout = %s", limit);
        return ST_REQUEST_TIMEOUT;
    }
    if (phase == PHASE_HEADERS) {
        config_duration_text(limit, sizeof limit, s->config->header_timeout);
        (void)snprintf(detail, cap, "the headers did not arrive within header_timeout = %s", limit);
        return ST_REQUEST_TIMEOUT;
    }
    return ST_OK;
}

static void check(struct connections *l, struct connection *c, uint64_t now_ns)
{
    struct server *s = l->server;
    uint64_t state = atomic_load(&c->state), since_ns = state >> PHASE_BITS;
    enum phase phase = phase_of(state);
    char detail[128];
    if (now_ns < since_ns) return;
    if (is_disconnected(c, phase, now_ns)) {
        if (atomic_compare_exchange_strong(&c->state, &state, state_of(PHASE_DISCONNECTED, now_ns)))
            (void)shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (!is_late(s, phase, now_ns - since_ns)) return;
    if (!atomic_compare_exchange_strong(&c->state, &state, state_of(PHASE_ENDED, now_ns))) return;
    if (phase != PHASE_IDLE) metric_add(&s->metrics.slow_clients, 1);
    enum status why = reason_of(s, phase, detail, sizeof detail);
    if (why) {
        const bool has_request = phase == PHASE_BODY;
        const struct ended_connection e = { .fd = c->fd,
                                            .route = has_request ? c->route : NULL,
                                            .request_id = has_request ? c->request_id : "",
                                            .status = why,
                                            .detail = detail,
                                            .age_ns = now_ns - since_ns };
        l->ended(s, &e);
    }
    (void)shutdown(c->fd, SHUT_RDWR);
}

void connections_check(struct connections *l, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&l->lock);
    for (struct connection *c = l->first; c; c = c->next)
        check(l, c, now_ns);
    (void)pthread_mutex_unlock(&l->lock);
}
