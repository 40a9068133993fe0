#include "server/http.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/connections.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/restore.h"
#include "server/routes.h"
#include "server/server.h"
#include "server/watch.h"

struct http {
    struct server *server;
    struct MHD_Daemon *daemon;
    struct watch *watch;
    struct connections connections;
    char address[300];
};

struct transaction {
    struct http_call call; /* first: callers see only this */
    struct http *h;
    struct MHD_Connection *connection;
    struct connection *conn;
    struct reply reply;
    enum { NEW, BARE, GATHERING, SUBMITTED, ANSWERED } state;
    bool is_counted; /* in server->active */
    uint64_t ticket;
};

/* ---- answering ---- */

static enum MHD_Result send_reply(struct transaction *x)
{
    struct reply *r = &x->reply;
    struct server *s = x->h->server;
    enum phase from = x->state == SUBMITTED ? PHASE_WORK : PHASE_BODY;
    if (!connection_move(x->conn, from, PHASE_REPLY, clock_now_ns())) return MHD_NO;
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
              "ms", LOG_NUMBER, (double)ns * 1e-6, NULL);
    x->state = ANSWERED;
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)r->code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_problem(struct transaction *x, enum status why, const char *detail)
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
    struct transaction *x = (struct transaction *)call;
    x->reply = *reply;
    watch_remove(x->h->watch, x->ticket);
    MHD_resume_connection(x->connection);
}

/* ---- the headers ---- */

static void choose_request_id(char *out, const char *given)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = given ? strlen(given) : 0;
    if (n > 0 && n <= REQUEST_ID_MAX && strspn(given, allowed) == n)
        memcpy(out, given, n + 1);
    else
        request_id_make(out);
}

static const char *header(struct transaction *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* How long the body is must be said once, so that a proxy in front and this daemon see the same requests on a connection (RFC 9112,
 * section 6.3). The library takes the first of two lengths, and a name with a space behind it for another name. */
struct framing {
    unsigned lengths, encodings;
    bool is_other; /* an encoding that is not chunked */
    bool is_name;  /* every name is a token */
};

static enum MHD_Result note_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    (void)kind;
    struct framing *f = cls;
    if (name[0] == '\0' || strpbrk(name, " \t")) f->is_name = false;
    if (strcasecmp(name, "Content-Length") == 0) f->lengths++;
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        if (!value || strcasecmp(value, "chunked") != 0) f->is_other = true;
    }
    return MHD_YES;
}

static const char *framing_fault(struct MHD_Connection *connection)
{
    struct framing f = { .is_name = true };
    (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, note_header, &f);
    if (!f.is_name) return "a header's name is empty or holds a space";
    if (f.lengths + f.encodings > 1)
        return "Content-Length and Transfer-Encoding: one of them, once, is needed";
    if (f.is_other) return "Transfer-Encoding is not chunked, the only one that is read";
    return NULL;
}

static void read_headers(struct transaction *x, const char *method)
{
    struct http_call *c = &x->call;
    const char *accept = header(x, "Accept"), *type = header(x, "Content-Type");
    const char *length = header(x, "Content-Length");
    (void)snprintf(c->method, sizeof c->method, "%s", method);
    (void)snprintf(c->accept, sizeof c->accept, "%s", accept ? accept : "");
    (void)snprintf(c->content_type, sizeof c->content_type, "%s", type ? type : "");
    choose_request_id(c->request_id, header(x, "X-Request-Id"));
    c->is_chunked = header(x, "Transfer-Encoding") != NULL;
    if (length && !c->is_chunked) {
        char *end;
        errno = 0;
        c->length = strtoull(length, &end, 10);
        if (errno || *end) c->length = UINT64_MAX;
        c->has_length = true;
    }
    c->has_body = c->is_chunked || c->length > 0;
    c->route = route_find(c->path);
}

static enum MHD_Result begin(struct transaction *x, const char *method)
{
    struct http_call *c = &x->call;
    struct server *s = x->h->server;
    const struct route *r = c->route;
    const char *fault = framing_fault(x->connection);
    if (fault) {
        x->reply.closes = true;
        return send_problem(x, ST_BAD_REQUEST, fault);
    }
    if (!r && strcmp(method, "OPTIONS") == 0 && strcmp(c->path, "*") == 0) {
        x->reply.code = 204;
        reply_header(&x->reply, "Allow", "GET, HEAD, POST, OPTIONS");
        x->reply.closes = c->has_body;
        return send_reply(x);
    }
    if (!r) return send_problem(x, ST_NOT_FOUND, "no such path; /openapi.json lists what there is");
    bool is_read = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (strcmp(r->method, method) != 0 && !(is_read && strcmp(r->method, "GET") == 0)) {
        char detail[64];
        reply_header(&x->reply, "Allow", "%s", route_allow(r));
        (void)snprintf(detail, sizeof detail, "this path takes %s", route_allow(r));
        return send_problem(x, ST_METHOD_NOT_ALLOWED, detail);
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

static void refuse_body(struct transaction *x, const struct error *err)
{
    x->call.refusal = *err;
    free(x->call.body);
    x->call.body = NULL;
    x->call.body_cap = 0;
    memory_release(&x->h->server->memory, x->call.body_reserved);
    x->call.body_reserved = 0;
}

/* Room for `need` bytes: all of it at once where the length is known, else in doubling steps that are reserved first. */
static enum status reserve_body(struct transaction *x, size_t need, struct error *err)
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

static enum MHD_Result append_body(struct transaction *x, const char *data, size_t n)
{
    struct http_call *c = &x->call;
    struct error err = { 0 };
    if (n > SIZE_MAX / 4 - c->body_len) return MHD_NO;
    if (c->refusal.status == ST_OK) {
        if (reserve_body(x, c->body_len + n, &err))
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
    struct transaction *x = *req_cls;
    if (!x || !x->conn) return MHD_NO;
    switch (x->state) {
    case NEW:
        read_headers(x, method);
        x->conn->route = x->call.route;
        memcpy(x->conn->request_id, x->call.request_id, sizeof x->conn->request_id);
        if (!connection_move(x->conn, PHASE_HEADERS, PHASE_BODY, clock_now_ns())) return MHD_NO;
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
            return append_body(x, upload, n);
        }
        if (!connection_move(x->conn, PHASE_BODY, PHASE_WORK, clock_now_ns())) return MHD_NO;
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
    struct transaction *x = calloc(1, sizeof *x);
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
    if (x->conn) (void)connection_move(x->conn, PHASE_IDLE, PHASE_HEADERS, x->call.started_ns);
    return x;
}

static void note_completed(void *cls, struct MHD_Connection *connection, void **req_cls,
                           enum MHD_RequestTerminationCode code)
{
    (void)connection;
    struct http *h = cls;
    struct transaction *x = *req_cls;
    if (!x) return;
    *req_cls = NULL;
    if (x->state == GATHERING) {
        /* It was neither told that it is late, nor sent too much, nor answered by the library. */
        bool has_left = x->conn && !connection_is_ended(x->conn) && !x->call.refusal.status &&
                        code != MHD_REQUEST_TERMINATED_COMPLETED_OK;
        x->call.route->abandon(h->server, &x->call, has_left);
    }
    free(x->call.body);
    memory_release(&h->server->memory, x->call.body_reserved + x->reply.reserved);
    if (x->is_counted) atomic_fetch_sub(&h->server->active, 1);
    if (!x->reply.is_static) free(x->reply.body);
    if (x->conn) (void)connection_move(x->conn, PHASE_REPLY, PHASE_IDLE, clock_now_ns());
    free(x->call.uri);
    free(x);
}

/* Closing a socket with unread bytes resets it, and the client would lose the answer: it is kept open for a while. */
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

static void tick(void *cls, uint64_t now_ns)
{
    struct http *h = cls;
    connections_check(&h->connections, now_ns);
    restore_tick(h->server, now_ns);
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

enum status http_new(struct http **out, struct server *s, struct error *err)
{
    int fd = -1;
    struct http *h = calloc(1, sizeof *h);
    if (!h) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the listener");
    h->server = s;
    connections_init(&h->connections, s);
    struct watch_hooks hooks = { restore_disconnected, restore_cancel, tick, h };
    enum status st = listener_open(&fd, h->address, sizeof h->address, s->config->listen, err);
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
