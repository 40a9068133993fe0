/* http.h - HTTP as a library over libmicrohttpd. It knows routes as rows of call-backs and nothing of what they do.
 *
 * A call is one request. A route with `answer` is answered on its HTTP thread, from the headers alone. A route with
 * `submit` takes a body: `begin` judges the headers; the body is then gathered whole, within max_body and the memory
 * budget; then the connection is suspended, and the call belongs to the route until http_reply(), which any thread may
 * call, exactly once, and after which the call must not be touched. http_free() needs every call to be answered. */
#ifndef DAVID_SERVER_HTTP_H
#define DAVID_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/http/reply.h"
#include "server/http/request_id.h"
#include "server/reservation.h"

struct server;

struct http_call {
    char method[16], request_id[REQUEST_ID_MAX + 1], accept[512], content_type[256];
    const char *path, *query;       /* raw; query "" where there is none */
    const struct http_route *route; /* NULL: none */
    uint64_t started_ns;            /* when the request line was read */
    bool has_length, has_body, is_chunked;
    uint64_t length; /* Content-Length, bytes */
    uint8_t *body;   /* [body_len]; NULL after http_drop_body() */
    size_t body_len, body_cap;
    struct reservation
        reservation; /* of the body; then whatever the route makes of it, until the reply is sent */
    void *user_data; /* malloc'd by `begin`; http frees it when no call-back can see it any more */
};

/* One row of the table of routes. `context` is what http_new() was given. */
struct http_route {
    const char *path, *method; /* a GET row answers HEAD too */
    /* Writes the reply at once, on an HTTP thread. */
    void (*answer)(void *context, const struct http_call *call, struct reply *r);
    /* Judges the headers, on an HTTP thread, before the body is read. NULL: every request is accepted. */
    enum status (*begin)(void *context, struct http_call *call, struct error *err);
    /* Takes the call with its whole body; it or another thread calls http_reply(). */
    void (*submit)(void *context, struct http_call *call);
    /* A call that `begin` accepted and that is never submitted; frees what user_data points to, not user_data itself. */
    void (*abandon)(void *context, struct http_call *call);
    /* The client of a submitted call has closed its connection. Runs on the watch's thread, beside the owner of the call
     * and perhaps after its reply: it may use user_data and atomics in it, and the call only where it has become the owner. */
    void (*cancel)(void *context, struct http_call *call);
    /* Some 50 times a second, on the watch's thread. */
    void (*tick)(void *context, uint64_t now_ns);
};

struct http;
/* Listens on the setting `listen` and serves; routes: [n], static; s: limits, memory, state and metrics. ST_BAD_PARAMETER,
 * ST_IO: the address cannot be listened on. */
enum status http_new(struct http **out, const struct http_route *routes, size_t n, void *context,
                     struct server *s, struct error *err);
void http_free(struct http *h);                 /* takes NULL */
const char *http_address(const struct http *h); /* as bound: "127.0.0.1:43817" */

void http_drop_body(struct http_call *call); /* frees it; the reservation stays as it is */
/* Sends the reply and takes over its body. The reservation should be what the reply's body holds. */
void http_reply(struct http_call *call, const struct reply *reply);

#endif
