#include "server/connections.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "proto/messages/messages.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/routes.h"
#include "server/server.h"

#define IDLE_NS  (75 * NS_PER_S) /* a kept-alive connection without a request */
#define LOOK_NS  (NS_PER_S / 2)  /* how often a client from which nothing comes is looked for */
#define ABORT_NS (2 * NS_PER_S)  /* for a reply to be taken once drain_timeout is over */

enum { PHASE_BITS = 3 };

static uint64_t state_of(enum phase phase, uint64_t now_ns)
{
    return now_ns << PHASE_BITS | (uint64_t)phase;
}

static enum phase phase_of(uint64_t state)
{
    return (enum phase)(state & ((1u << PHASE_BITS) - 1));
}

void request_id_make(char *out)
{
    unsigned char bytes[16] = { 0 };
    /* Before the kernel has entropy there is only the address to tell two apart; the id protects nothing. */
    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) < 0) memcpy(bytes, &out, sizeof out);
    for (unsigned i = 0; i < sizeof bytes; i++)
        (void)snprintf(out + 2 * (size_t)i, 3, "%02x", bytes[i]);
}

void connections_init(struct connections *l, struct server *s)
{
    l->server = s;
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
    atomic_fetch_add(&l->server->metrics.connections, 1);
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
    atomic_fetch_sub(&l->server->metrics.connections, 1);
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

/* The library cannot answer in these phases, so the answer is written past it and the socket is shut. */
static void send_problem(struct connections *l, struct connection *c, enum status why,
                         const char *detail, const struct route *route, const char *request_id)
{
    char text[1024];
    char again[32] = "";
    size_t len = 0;
    char *body = message_problem(&len, why, detail, request_id);
    if (status_http(why) == 503)
        (void)snprintf(again, sizeof again, "Retry-After: %u\r\n", server_retry_after(l->server));
    int n = snprintf(
        text, sizeof text,
        "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        "%sX-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
        status_http(why), why == ST_REQUEST_TIMEOUT ? "Request Timeout" : "Service Unavailable",
        again, request_id, body ? len : 0, body ? body : "");
    if (n > 0 && (size_t)n < sizeof text)
        (void)send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    free(body);
    metric_request(&l->server->metrics, route_index(route), route ? route->method : "",
                   status_http(why));
    log_event(LOG_LEVEL_INFO, "request", "request_id", LOG_TEXT, request_id, "route", LOG_TEXT,
              route ? route->path : "other", "status", LOG_NUMBER, (double)status_http(why),
              "detail", LOG_TEXT, detail, NULL);
}

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

/* Its client has closed, or half-closed, and no byte of it is unread: what the HTTP thread waits for will never come. Believed at
 * the second look in a row, when that thread is done with what it had read. */
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

static void check(struct connections *l, struct connection *c, uint64_t now_ns)
{
    struct server *s = l->server;
    uint64_t state = atomic_load(&c->state), since_ns = state >> PHASE_BITS;
    enum phase phase = phase_of(state);
    char request_id[REQUEST_ID_MAX + 1], detail[128], limit[32];
    if (now_ns < since_ns) return;
    if (is_disconnected(c, phase, now_ns)) {
        if (atomic_compare_exchange_strong(&c->state, &state, state_of(PHASE_DISCONNECTED, now_ns)))
            (void)shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (!is_late(s, phase, now_ns - since_ns)) return;
    if (!atomic_compare_exchange_strong(&c->state, &state, state_of(PHASE_ENDED, now_ns))) return;
    if (phase != PHASE_IDLE) metric_add(&s->metrics.slow_clients, 1);
    if (phase == PHASE_BODY && atomic_load(&s->is_aborting)) {
        send_problem(l, c, ST_DRAINING, "the service is shutting down", c->route, c->request_id);
    } else if (phase == PHASE_BODY) {
        config_duration_text(limit, sizeof limit, s->config->body_timeout);
        (void)snprintf(detail, sizeof detail, "the body did not arrive within body_timeout = %s",
                       limit);
        send_problem(l, c, ST_REQUEST_TIMEOUT, detail, c->route, c->request_id);
    } else if (phase == PHASE_HEADERS) {
        request_id_make(request_id);
        config_duration_text(limit, sizeof limit, s->config->header_timeout);
        (void)snprintf(detail, sizeof detail,
                       "the headers did not arrive within header_timeout = %s", limit);
        send_problem(l, c, ST_REQUEST_TIMEOUT, detail, NULL, request_id);
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
