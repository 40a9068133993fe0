#include "server/http.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/messages.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/restore.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/watch.h"

#define IDLE_NS  (75 * NS_PER_S) /* a kept-alive connection without a request */
#define ABORT_NS (2 * NS_PER_S)  /* for a reply to be taken once drain_timeout is over */

/* Where a connection stands; the clock ends it by moving it to PHASE_ENDED, which whoever comes next must find. */
enum phase { PHASE_IDLE, PHASE_HEADERS, PHASE_BODY, PHASE_WORK, PHASE_REPLY, PHASE_ENDED };

struct conn {
    struct conn *prev, *next;
    int fd;
    atomic_int phase;
    _Atomic uint64_t since_ns; /* of the phase */
    bool lingers;              /* answered before its body was read */
};

struct http {
    struct server *server;
    struct MHD_Daemon *daemon;
    struct watch *watch;
    char address[300];
    pthread_mutex_t lock; /* guards the list of connections */
    struct conn *conns;
};

struct exchange {
    struct http_call call; /* first: callers see only this */
    struct http *h;
    struct MHD_Connection *connection;
    struct conn *conn;
    struct reply reply;
    enum { NEW, BARE, GATHERING, SUBMITTED, ANSWERED } state;
    bool is_counted; /* in server->active */
    uint64_t ticket;
};

static bool move(struct conn *c, enum phase from, enum phase to)
{
    int expected = from;
    if (!atomic_compare_exchange_strong(&c->phase, &expected, to)) return false;
    atomic_store(&c->since_ns, clock_now_ns());
    return true;
}

/* ---- answering ---- */

static enum MHD_Result send_reply(struct exchange *x)
{
    struct reply *r = &x->reply;
    struct server *s = x->h->server;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        r->len, r->body, r->is_static ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);
    if (!response) return MHD_NO;
    r->body = NULL; /* the response's */
    if (r->type) (void)MHD_add_response_header(response, "Content-Type", r->type);
    (void)MHD_add_response_header(response, "X-Request-Id", x->call.request_id);
    for (unsigned i = 0; i < r->n; i++)
        (void)MHD_add_response_header(response, r->headers[i].name, r->headers[i].value);
    if (r->closes || atomic_load(&s->is_refusing))
        (void)MHD_add_response_header(response, "Connection", "close");
    uint64_t ns = clock_now_ns() - x->call.started_ns;
    metric_request(&s->metrics, route_index(x->call.route), x->call.method, r->code);
    if (x->call.route && x->call.route->submit) metric_time(&s->metrics.request_duration, ns);
    log_event(x->call.route && x->call.route->submit ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG, "request",
              "request_id", LOG_TEXT, x->call.request_id, "route", LOG_TEXT,
              x->call.route ? x->call.route->path : "other", "status", LOG_NUMBER, (double)r->code,
              "ms", LOG_NUMBER, (double)(ns / 1000) * 1e-3, NULL);
    x->state = ANSWERED;
    atomic_store(&x->conn->since_ns, clock_now_ns());
    atomic_store(&x->conn->phase, PHASE_REPLY);
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)r->code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_problem(struct exchange *x, enum status why, const char *detail)
{
    struct error err = { 0 };
    (void)error_set(&err, why, "%s", detail);
    reply_problem(&x->reply, &err, x->call.request_id, server_retry_after(x->h->server));
    if (x->call.has_body) {
        x->reply.closes = true;
        x->conn->lingers = true;
    }
    return send_reply(x);
}

void http_reply(struct http_call *call, const struct reply *reply)
{
    struct exchange *x = (struct exchange *)call;
    x->reply = *reply;
    watch_remove(x->h->watch, x->ticket);
    MHD_resume_connection(x->connection);
}

/* ---- the headers ---- */

static void make_request_id(char *out, const char *given)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = given ? strlen(given) : 0;
    if (n > 0 && n <= 128 && strspn(given, allowed) == n) {
        memcpy(out, given, n + 1);
        return;
    }
    unsigned char bytes[16] = { 0 };
    if (getrandom(bytes, sizeof bytes, 0) < 0) memcpy(bytes, &out, sizeof out);
    for (unsigned i = 0; i < sizeof bytes; i++)
        (void)sprintf(out + 2 * (size_t)i, "%02x", bytes[i]);
}

static const char *header(struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static void read_headers(struct exchange *x, const char *method)
{
    struct http_call *c = &x->call;
    const char *accept = header(x, "Accept"), *type = header(x, "Content-Type");
    const char *length = header(x, "Content-Length");
    (void)snprintf(c->method, sizeof c->method, "%s", method);
    (void)snprintf(c->accept, sizeof c->accept, "%s", accept ? accept : "");
    (void)snprintf(c->content_type, sizeof c->content_type, "%s", type ? type : "");
    make_request_id(c->request_id, header(x, "X-Request-Id"));
    c->is_chunked = header(x, "Transfer-Encoding") != NULL;
    if (length && !c->is_chunked) {
        char *end;
        errno = 0;
        c->length = strtoull(length, &end, 10);
        if (errno || *end) c->length = UINT64_MAX;
        c->has_length = true;
    }
    c->has_body = c->is_chunked || c->length > 0;
}

static enum MHD_Result begin(struct exchange *x, const char *method)
{
    struct http_call *c = &x->call;
    struct server *s = x->h->server;
    const struct route *r = route_find(c->path);
    c->route = r;
    if (!r && strcmp(method, "OPTIONS") == 0 && strcmp(c->path, "*") == 0) {
        x->reply.code = 204;
        reply_header(&x->reply, "Allow", "GET, HEAD, POST, OPTIONS");
        x->reply.closes = c->has_body;
        return send_reply(x);
    }
    if (!r) return send_problem(x, ST_NOT_FOUND, "no such path; /openapi.json lists what there is");
    bool is_read = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (strcmp(r->method, method) != 0 && !(is_read && strcmp(r->method, "GET") == 0)) {
        reply_header(&x->reply, "Allow", "%s", route_allow(r));
        return send_problem(x, ST_METHOD_NOT_ALLOWED, "see the header Allow");
    }
    if (r->answer) {
        r->answer(s, c, &x->reply);
        x->reply.closes |= c->has_body;
        return send_reply(x);
    }
    struct error err = { 0 };
    if (r->begin(s, c, &err)) {
        restore_count_refusal(s, err.status);
        return send_problem(x, err.status, err.detail);
    }
    x->is_counted = true;
    x->state = GATHERING;
    return MHD_YES;
}

/* ---- the body ---- */

static void refuse_body(struct exchange *x, const struct error *err)
{
    x->call.refusal = *err;
    free(x->call.body);
    x->call.body = NULL;
    x->call.body_cap = 0;
    memory_release(&x->h->server->memory, x->call.body_reserved);
    x->call.body_reserved = 0;
}

/* Room for `need` bytes: all of it at once where the length is known, else in doubling steps that are reserved first. */
static enum status make_room(struct exchange *x, size_t need, struct error *err)
{
    enum { FIRST_ROOM = 65536 };
    struct http_call *c = &x->call;
    struct memory *m = &x->h->server->memory;
    uint64_t max = x->h->server->config->max_body;
    if (need > max)
        return error_set(err, ST_BODY_TOO_LARGE, "the body has more bytes than max_body = %" PRIu64,
                         max);
    if (need <= c->body_cap) return ST_OK;
    size_t cap = c->has_length ? (size_t)c->length : c->body_cap ? c->body_cap * 2 : FIRST_ROOM;
    if (cap < need) cap = need;
    if (cap > max) cap = (size_t)max;
    if (cap > c->body_reserved) {
        enum status s = memory_reserve(m, cap - c->body_reserved, err);
        if (s) return s;
        c->body_reserved = cap;
    }
    uint8_t *body = realloc(c->body, cap);
    if (!body) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a body of %zu bytes", cap);
    c->body = body;
    c->body_cap = cap;
    return ST_OK;
}

static enum MHD_Result gather(struct exchange *x, const char *data, size_t n)
{
    struct http_call *c = &x->call;
    struct error err = { 0 };
    if (n > SIZE_MAX / 4 - c->body_len) return MHD_NO;
    if (c->refusal.status == ST_OK) {
        if (make_room(x, c->body_len + n, &err))
            refuse_body(x, &err);
        else
            memcpy(c->body + c->body_len, data, n);
    }
    c->body_len += n;
    /* Nothing can be answered while a body comes: it is read away up to twice the limit, then the connection is closed. */
    return c->body_len > 2 * x->h->server->config->max_body ? MHD_NO : MHD_YES;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **req_cls)
{
    (void)cls, (void)url, (void)version;
    struct exchange *x = *req_cls;
    if (!x || !x->conn) return MHD_NO;
    switch (x->state) {
    case NEW:
        read_headers(x, method);
        if (!move(x->conn, PHASE_HEADERS, PHASE_BODY)) return MHD_NO;
        if (x->call.has_body) return begin(x, method);
        x->state = BARE; /* the library closes connections that are answered on the first call */
        return MHD_YES;
    case BARE: {
        enum MHD_Result result = begin(x, method);
        if (!result || x->state != GATHERING) return result;
    } /* fall through: a body of no bytes is complete */
        __attribute__((fallthrough));
    case GATHERING:
        if (*upload_size > 0) {
            size_t n = *upload_size;
            *upload_size = 0;
            return gather(x, upload, n);
        }
        if (!move(x->conn, PHASE_BODY, PHASE_WORK)) return MHD_NO;
        x->state = SUBMITTED;
        MHD_suspend_connection(connection);
        x->ticket = watch_add(x->h->watch, x->conn->fd, &x->call);
        x->call.route->submit(x->h->server, &x->call);
        return MHD_YES;
    case SUBMITTED: return send_reply(x);
    case ANSWERED: break;
    }
    return MHD_YES;
}

/* ---- the life of connections and requests ---- */

static void *note_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct exchange *x = calloc(1, sizeof *x);
    char *copy = strdup(uri);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!x || !copy || !info) {
        free(x);
        free(copy);
        return NULL;
    }
    x->h = cls;
    x->connection = connection;
    x->conn = info->socket_context;
    x->call.uri = copy;
    x->call.path = copy;
    x->call.started_ns = clock_now_ns();
    char *mark = strchr(copy, '?');
    x->call.query = mark ? mark + 1 : "";
    if (mark) *mark = '\0';
    if (x->conn) (void)move(x->conn, PHASE_IDLE, PHASE_HEADERS);
    return x;
}

static void note_completed(void *cls, struct MHD_Connection *connection, void **req_cls,
                           enum MHD_RequestTerminationCode code)
{
    (void)connection, (void)code;
    struct http *h = cls;
    struct exchange *x = *req_cls;
    if (!x) return;
    *req_cls = NULL;
    if (x->state == GATHERING) x->call.route->abandon(h->server, &x->call);
    free(x->call.body);
    memory_release(&h->server->memory, x->call.body_reserved + x->reply.reserved);
    if (x->is_counted) atomic_fetch_sub(&h->server->active, 1);
    if (!x->reply.is_static) free(x->reply.body);
    if (x->conn) (void)move(x->conn, PHASE_REPLY, PHASE_IDLE);
    free(x->call.uri);
    free(x);
}

static void note_connection(void *cls, struct MHD_Connection *connection, void **context,
                            enum MHD_ConnectionNotificationCode code)
{
    struct http *h = cls;
    struct conn *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        c = calloc(1, sizeof *c);
        if (!c || !info) {
            free(c);
            return;
        }
        c->fd = info->connect_fd;
        atomic_init(&c->phase, PHASE_HEADERS);
        atomic_init(&c->since_ns, clock_now_ns());
        (void)pthread_mutex_lock(&h->lock);
        c->next = h->conns;
        if (c->next) c->next->prev = c;
        h->conns = c;
        (void)pthread_mutex_unlock(&h->lock);
        atomic_fetch_add(&h->server->metrics.connections, 1);
        *context = c;
        return;
    }
    if (!c) return;
    (void)pthread_mutex_lock(&h->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    (void)pthread_mutex_unlock(&h->lock);
    atomic_fetch_sub(&h->server->metrics.connections, 1);
    /* Closing a socket with unread bytes resets it, and the client would lose the answer: keep it open for a while. */
    if (c->lingers) {
        int fd = dup(c->fd);
        if (fd >= 0) {
            (void)shutdown(fd, SHUT_WR);
            watch_linger(h->watch, fd, clock_now_ns());
        }
    }
    free(c);
    *context = NULL;
}

/* ---- the clock ---- */

/* The library cannot answer in these phases, so the answer is written past it and the socket is shut. */
static void end_connection(struct conn *c, enum status why, const char *setting)
{
    char text[1024], detail[160];
    size_t len = 0;
    (void)snprintf(detail, sizeof detail, "%s", setting);
    char *body = message_problem(&len, why, detail, NULL);
    int n = snprintf(
        text, sizeof text,
        "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        "Content-Length: %zu\r\n\r\n%s",
        status_http(why), why == ST_REQUEST_TIMEOUT ? "Request Timeout" : "Service Unavailable",
        body ? len : 0, body ? body : "");
    if (n > 0 && (size_t)n < sizeof text)
        (void)send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(c->fd, SHUT_RDWR);
    free(body);
}

static void check_conn(struct http *h, struct conn *c, uint64_t now)
{
    const struct config *cfg = h->server->config;
    bool is_aborting = atomic_load(&h->server->is_aborting);
    uint64_t age = now - atomic_load(&c->since_ns);
    if ((int64_t)age < 0) return;
    enum phase phase = (enum phase)atomic_load(&c->phase);
    int expected = (int)phase;
    bool is_late = (phase == PHASE_IDLE && age > IDLE_NS) ||
                   (phase == PHASE_HEADERS && age > cfg->header_timeout) ||
                   (phase == PHASE_BODY && (age > cfg->body_timeout || is_aborting)) ||
                   (phase == PHASE_REPLY && age > (is_aborting ? ABORT_NS : cfg->body_timeout));
    if (!is_late || !atomic_compare_exchange_strong(&c->phase, &expected, PHASE_ENDED)) return;
    if (phase != PHASE_IDLE) metric_add(&h->server->metrics.slow_clients, 1);
    if (phase == PHASE_BODY && is_aborting)
        end_connection(c, ST_DRAINING, "the service is shutting down");
    else if (phase == PHASE_BODY)
        end_connection(c, ST_REQUEST_TIMEOUT, "the body did not arrive within body_timeout");
    else if (phase == PHASE_HEADERS)
        end_connection(c, ST_REQUEST_TIMEOUT, "the headers did not arrive within header_timeout");
    else
        (void)shutdown(c->fd, SHUT_RDWR);
}

static void tick(void *cls, uint64_t now_ns)
{
    struct http *h = cls;
    (void)pthread_mutex_lock(&h->lock);
    for (struct conn *c = h->conns; c; c = c->next)
        check_conn(h, c, now_ns);
    (void)pthread_mutex_unlock(&h->lock);
    restore_tick(h->server, now_ns);
}

/* ---- start and end ---- */

static enum status bind_listener(int *out, char *address, size_t cap, const char *listen_at,
                                 struct error *err)
{
    char host[256];
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    (void)snprintf(host, sizeof host, "%s", listen_at);
    char *colon = strrchr(host, ':');
    if (!colon)
        return error_set(err, ST_BAD_PARAMETER, "listen = %.80s is not ADDRESS:PORT", listen_at);
    *colon = '\0';
    char *name = host;
    if (name[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        name++;
    }
    int failed = getaddrinfo(name[0] ? name : NULL, colon + 1, &hints, &list);
    if (failed)
        return error_set(err, ST_BAD_PARAMETER, "listen = %.80s: %s", listen_at,
                         gai_strerror(failed));
    int one = 1;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    failed = fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, 1024);
    freeaddrinfo(list);
    if (failed) {
        enum status s = error_set(err, ST_IO, "listen = %.80s: %s", listen_at, strerror(errno));
        if (fd >= 0) (void)close(fd);
        return s;
    }
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char number[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    if (getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&at, len, number, sizeof number, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(address, cap, at.ss_family == AF_INET6 ? "[%.200s]:%.20s" : "%.200s:%.20s",
                   number, port);
    *out = fd;
    return ST_OK;
}

static void note_library(void *cls, const char *format, va_list args)
{
    (void)cls;
    char text[256];
    (void)vsnprintf(text, sizeof text, format, args);
    size_t n = strlen(text);
    if (n && text[n - 1] == '\n') text[n - 1] = '\0';
    log_event(LOG_LEVEL_DEBUG, "http library", "detail", LOG_TEXT, text, NULL);
}

enum status http_new(struct http **out, struct server *s, struct error *err)
{
    int fd = -1;
    struct http *h = calloc(1, sizeof *h);
    if (!h) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the listener");
    h->server = s;
    (void)pthread_mutex_init(&h->lock, NULL);
    struct watch_hooks hooks = { restore_gone, restore_cancel, tick, h };
    enum status st = bind_listener(&fd, h->address, sizeof h->address, s->config->listen, err);
    if (!st) st = watch_new(&h->watch, s->config->max_connections, &hooks, err);
    if (st) goto failed;
    unsigned pool = s->config->threads < 2   ? 2
                    : s->config->threads > 4 ? 4
                                             : (unsigned)s->config->threads;
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        handle, h, MHD_OPTION_EXTERNAL_LOGGER, note_library, h, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_THREAD_POOL_SIZE, pool, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->config->max_connections, MHD_OPTION_URI_LOG_CALLBACK, note_uri, h,
        MHD_OPTION_NOTIFY_COMPLETED, note_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        note_connection, h, MHD_OPTION_END);
    if (!h->daemon) {
        st = error_set(err, ST_INTERNAL, "cannot start the HTTP threads on %s", h->address);
        goto failed;
    }
    *out = h;
    return ST_OK;
failed:
    if (fd >= 0) (void)close(fd);
    watch_free(h->watch);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
    return st;
}

void http_free(struct http *h)
{
    if (!h) return;
    MHD_stop_daemon(h->daemon);
    watch_free(h->watch);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}

const char *http_address(const struct http *h)
{
    return h->address;
}
