#include "server/http/http.h"

#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/http/internal.h"
#include "server/http/listener.h"
#include "server/http/report.h"

static bool takes_body(const struct http_route *r)
{
    return r && r->submit;
}

/* ---- answering ---- */

static enum MHD_Result send_reply(struct transaction *x)
{
    struct reply *r = &x->reply;
    struct http_call *c = &x->call;
    struct server *s = x->h->server;
    enum phase from = x->state == STATE_SUBMITTED ? PHASE_WORK : PHASE_BODY;
    if (!connection_move(x->conn, from, PHASE_REPLY, clock_now_ns())) return MHD_NO;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        r->len, r->body, r->is_static ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);
    if (!response) return MHD_NO;
    r->body = NULL; /* the response's */
    if (r->type) (void)MHD_add_response_header(response, "Content-Type", r->type);
    (void)MHD_add_response_header(response, "X-Request-Id", c->request_id);
    for (unsigned i = 0; i < r->n; i++)
        (void)MHD_add_response_header(response, r->headers[i].name, r->headers[i].value);
    if (r->closes || atomic_load(&s->is_refusing))
        (void)MHD_add_response_header(response, "Connection", "close");
    uint64_t ns = clock_now_ns() - c->started_ns;
    const bool has_body = takes_body(c->route);
    if (has_body) metric_time(&s->metrics.request_duration, ns);
    report_reply(s, has_body ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG, c->route, c->method, c->request_id,
                 r, ns);
    x->state = STATE_ANSWERED;
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)r->code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_problem(struct transaction *x, const struct error *err)
{
    reply_problem(&x->reply, err, x->call.request_id, server_retry_after(x->h->server));
    if (takes_body(x->call.route)) report_refusal(x->h->server, err->status);
    return send_reply(x);
}

/* Refuses a request whose body, if it has one, has not been read. */
static enum MHD_Result refuse(struct transaction *x, const struct error *err)
{
    if (x->call.has_body) {
        x->reply.closes = true;
        x->conn->lingers = true;
    }
    return send_problem(x, err);
}

void http_reply(struct http_call *call, const struct reply *reply)
{
    struct transaction *x = (struct transaction *)call;
    x->reply = *reply;
    /* Not where the reply is sent: libmicrohttpd drops a request whose client has gone without
     * another call-back. */
    if (reply->status) report_refusal(x->h->server, reply->status);
    watch_remove(x->h->watch, x->ticket);
    MHD_resume_connection(x->connection);
}

/* ---- the headers ---- */

static const char *allow(const struct http_route *r)
{
    return strcmp(r->method, "GET") == 0 ? "GET, HEAD" : r->method;
}

/* What the headers alone can refuse of a request with a body, in the order in which a client is
 * told. */
static enum status accept_body(struct transaction *x, struct error *err)
{
    struct http_call *c = &x->call;
    const struct http_route *r = c->route;
    struct server *s = x->h->server;
    enum status st = server_admits(s, err);
    if (!st && c->has_length && c->length > s->config->max_body)
        st = error_set(err, ST_BODY_TOO_LARGE,
                       "the body has %" PRIu64 " bytes, more than max_body = %" PRIu64, c->length,
                       s->config->max_body);
    if (!st && r->begin) st = r->begin(x->h->context, c, err);
    if (st) return st;
    if (c->has_length && c->length > 0) st = reservation_add(&c->reservation, c->length, err);
    if (st && r->abandon) r->abandon(x->h->context, c);
    return st;
}

static enum MHD_Result begin(struct transaction *x, const char *method)
{
    struct http_call *c = &x->call;
    struct server *s = x->h->server;
    const struct http_route *r = c->route;
    struct error err = { 0 };
    const char *fault = headers_fault(x->connection);
    if (fault) {
        x->reply.closes = true;
        (void)error_set(&err, ST_BAD_REQUEST, "%s", fault);
        return refuse(x, &err);
    }
    if (!r && strcmp(method, "OPTIONS") == 0 && strcmp(c->path, "*") == 0) {
        x->reply.code = 204;
        reply_header(&x->reply, "Allow", "GET, HEAD, POST, OPTIONS");
        x->reply.closes = c->has_body;
        return send_reply(x);
    }
    if (!r) {
        (void)error_set(&err, ST_NOT_FOUND, "no such path; /openapi.json lists what there is");
        return refuse(x, &err);
    }
    bool is_read = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (strcmp(r->method, method) != 0 && !(is_read && strcmp(r->method, "GET") == 0)) {
        reply_header(&x->reply, "Allow", "%s", allow(r));
        (void)error_set(&err, ST_METHOD_NOT_ALLOWED, "this path takes %s", allow(r));
        return refuse(x, &err);
    }
    if (r->answer) {
        r->answer(x->h->context, c, &x->reply);
        x->reply.closes |= c->has_body;
        return send_reply(x);
    }
    /* Counted before server_admits() reads is_refusing; the drain sets is_refusing before it
     * reads the count: one of the two sees the other. */
    atomic_fetch_add(&s->active, 1);
    if (accept_body(x, &err)) {
        atomic_fetch_sub(&s->active, 1);
        return refuse(x, &err);
    }
    x->is_counted = true;
    x->state = STATE_GATHERING;
    return MHD_YES;
}

/* ---- one request, from its request line to its end ---- */

/* The body is whole: the request goes to its route, or is refused where its body was too large. */
static enum MHD_Result submit(struct transaction *x)
{
    struct http *h = x->h;
    const struct http_route *r = x->call.route;
    if (x->refusal.status) {
        if (r->abandon) r->abandon(h->context, &x->call);
        x->state = STATE_REFUSED;
        return send_problem(x, &x->refusal);
    }
    if (!connection_move(x->conn, PHASE_BODY, PHASE_WORK, clock_now_ns())) return MHD_NO;
    x->state = STATE_SUBMITTED;
    MHD_suspend_connection(x->connection);
    if (r->cancel) x->ticket = watch_add(h->watch, x->conn->fd, x);
    r->submit(h->context, &x->call);
    return MHD_YES;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **req_cls)
{
    (void)cls, (void)url, (void)version, (void)connection;
    struct transaction *x = *req_cls;
    if (!x || !x->conn) return MHD_NO;
    switch (x->state) {
    case STATE_NEW:
        headers_read(x, method);
        x->conn->route = x->call.route;
        memcpy(x->conn->request_id, x->call.request_id, sizeof x->conn->request_id);
        if (!connection_move(x->conn, PHASE_HEADERS, PHASE_BODY, clock_now_ns())) return MHD_NO;
        if (x->call.has_body) return begin(x, method);
        x->state =
            STATE_BARE; /* libmicrohttpd closes connections that are answered on the first call */
        return MHD_YES;
    case STATE_BARE: {
        enum MHD_Result result = begin(x, method);
        if (!result || x->state != STATE_GATHERING) return result;
    } /* fall through: a body of no bytes is complete */
        __attribute__((fallthrough));
    case STATE_GATHERING:
        if (*upload_size > 0) {
            size_t n = *upload_size;
            *upload_size = 0;
            return body_append(x, upload, n) ? MHD_YES : MHD_NO;
        }
        return submit(x);
    case STATE_SUBMITTED: return send_reply(x);
    case STATE_REFUSED:
    case STATE_ANSWERED: break;
    }
    return MHD_YES;
}

static void *note_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    struct http *h = cls;
    struct transaction *x = calloc(1, sizeof *x);
    char *copy = strdup(uri);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!x || !copy || !info) {
        free(x);
        free(copy);
        return NULL;
    }
    x->h = h;
    x->connection = connection;
    x->conn = info->socket_context;
    x->uri = copy;
    atomic_init(&x->references, 1);
    reservation_init(&x->call.reservation, &h->server->memory);
    x->call.path = copy;
    x->call.started_ns = clock_now_ns();
    char *mark = strchr(copy, '?');
    x->call.query = mark ? mark + 1 : "";
    if (mark) *mark = '\0';
    if (x->conn) (void)connection_move(x->conn, PHASE_IDLE, PHASE_HEADERS, x->call.started_ns);
    return x;
}

static void unreference(struct transaction *x)
{
    if (atomic_fetch_sub(&x->references, 1) != 1) return;
    free(x->call.user_data);
    free(x);
}

/* A request whose body never ended. */
static void abandon(struct transaction *x, enum MHD_RequestTerminationCode code)
{
    struct http_call *c = &x->call;
    /* Its client has closed: the clock has not ended it, nothing was refused, and libmicrohttpd
     * has not answered. */
    if (x->conn && !connection_is_ended(x->conn) && !x->refusal.status &&
        code != MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        report_refusal(x->h->server, ST_CANCELLED);
        log_event(LOG_LEVEL_INFO, "client left in its body", "request_id", LOG_TEXT, c->request_id,
                  "bytes", LOG_NUMBER, (double)c->body_len, NULL);
    }
    if (c->route->abandon) c->route->abandon(x->h->context, c);
}

static void note_completed(void *cls, struct MHD_Connection *connection, void **req_cls,
                           enum MHD_RequestTerminationCode code)
{
    (void)connection;
    struct http *h = cls;
    struct transaction *x = *req_cls;
    if (!x) return;
    *req_cls = NULL;
    if (x->state == STATE_GATHERING) abandon(x, code);
    http_drop_body(&x->call);
    reservation_keep(&x->call.reservation, 0);
    if (!x->reply.is_static) free(x->reply.body);
    if (x->is_counted) atomic_fetch_sub(&h->server->active, 1);
    if (x->conn) (void)connection_move(x->conn, PHASE_REPLY, PHASE_IDLE, clock_now_ns());
    free(x->uri);
    unreference(x);
}

/* A close of a socket with unread bytes resets the connection, and the client would lose the
 * answer: the socket stays open for a while. */
static void linger(struct http *h, int fd)
{
    int kept = dup(fd);
    if (kept < 0) return;
    (void)shutdown(kept, SHUT_WR);
    watch_linger(h->watch, kept, clock_now_ns());
}

static void note_connection(void *cls, struct MHD_Connection *connection, void **context,
                            enum MHD_ConnectionNotificationCode code)
{
    struct http *h = cls;
    struct connection *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (info) *context = connection_open(&h->connections, info->connect_fd, clock_now_ns());
    } else if (c) {
        if (c->lingers) linger(h, c->fd);
        connection_close(&h->connections, c);
        *context = NULL;
    }
}

/* ---- the watch ---- */

static void note_disconnected(void *who)
{
    struct transaction *x = who;
    atomic_fetch_add(&x->references, 1);
}

static void cancel(void *who)
{
    struct transaction *x = who;
    x->call.route->cancel(x->h->context, &x->call);
    unreference(x);
}

static void tick(void *cls, uint64_t now_ns)
{
    struct http *h = cls;
    connections_check(&h->connections, now_ns);
    for (size_t i = 0; i < h->n_routes; i++)
        if (h->routes[i].tick) h->routes[i].tick(h->context, now_ns);
}

/* ---- start and end ---- */

static void note_library(void *cls, const char *format, va_list args)
{
    (void)cls;
    char text[256];
    (void)vsnprintf(text, sizeof text, format, args);
    size_t n = strlen(text);
    if (n && text[n - 1] == '\n') text[n - 1] = '\0';
    log_event(LOG_LEVEL_DEBUG, "http library", "detail", LOG_TEXT, text, NULL);
}

enum status http_new(struct http **out, const struct http_route *routes, size_t n, void *context,
                     struct server *s, struct error *err)
{
    enum { THREADS_MIN = 2, THREADS_MAX = 4 };
    int fd = -1;
    struct http *h = calloc(1, sizeof *h);
    if (!h) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the listener");
    h->routes = routes;
    h->n_routes = n;
    h->context = context;
    h->server = s;
    connections_init(&h->connections, s, report_ended);
    struct watch_hooks hooks = { note_disconnected, cancel, tick, h };
    enum status st = listener_open(&fd, h->address, sizeof h->address, s->config->listen, err);
    if (!st) st = watch_new(&h->watch, s->config->max_connections, &hooks, err);
    if (st) goto failed;
    unsigned pool = s->config->threads < THREADS_MIN   ? THREADS_MIN
                    : s->config->threads > THREADS_MAX ? THREADS_MAX
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
    connections_done(&h->connections);
    free(h);
    return st;
}

void http_free(struct http *h)
{
    if (!h) return;
    MHD_stop_daemon(h->daemon);
    watch_free(h->watch);
    connections_done(&h->connections);
    free(h);
}

const char *http_address(const struct http *h)
{
    return h->address;
}
