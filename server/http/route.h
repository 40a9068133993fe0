/* route.h - a row of the table of routes, and the call that its call-backs get. http.h says what
 * happens to a call. */
#ifndef DAVID_SERVER_HTTP_ROUTE_H
#define DAVID_SERVER_HTTP_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/http/reply.h"
#include "server/http/request_id.h"
#include "server/reservation.h"

struct http_call {
    char method[16], request_id[REQUEST_ID_MAX + 1], accept[512], content_type[256];
    const char *path, *query;       /* raw; query "" where there is none */
    const struct http_route *route; /* NULL: none */
    uint64_t started_ns;            /* when the request line was read */
    bool has_length, has_body, is_chunked;
    uint64_t length; /* Content-Length, bytes */
    uint8_t *body;   /* [body_len]; NULL after http_drop_body() */
    size_t body_len, body_cap;
    /* The bytes of the body, then what the route makes of it; given back when the reply is sent. */
    struct reservation reservation;
    void *user_data; /* malloc'd by `begin`; http frees it when no call-back can see it any more */
};

/* One row of the table of routes. `context` is what http_new() was given. */
struct http_route {
    const char *path, *method; /* a GET row answers HEAD too */
    /* Writes the reply at once, on an HTTP thread. */
    void (*answer)(void *context, const struct http_call *call, struct reply *r);
    /* Judges the headers, on an HTTP thread, before the body is read. NULL: every request is
     * accepted. */
    enum status (*begin)(void *context, struct http_call *call, struct error *err);
    /* Takes the call with its whole body; it or another thread calls http_reply(). */
    void (*submit)(void *context, struct http_call *call);
    /* A call that `begin` accepted and that is never submitted; frees what user_data points to,
     * not user_data itself. */
    void (*abandon)(void *context, struct http_call *call);
    /* The client of a submitted call has closed its connection. Runs on the watch's thread,
     * beside the owner of the call and perhaps after its reply: it may use user_data and atomics
     * in it, and the call only where it has become the owner. */
    void (*cancel)(void *context, struct http_call *call);
    /* Some 50 times a second, on the watch's thread. */
    void (*tick)(void *context, uint64_t now_ns);
};

#endif
