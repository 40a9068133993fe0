/* http.h - the conversation with clients; the only room that knows libmicrohttpd.
 *
 * A call is one request. Its first refusals come from the headers alone; a body is gathered whole, within max_body and the
 * memory budget; then the connection is suspended and the call is its user_data's until http_reply(), which any thread may
 * call, exactly once, and after which the call must not be touched. Headers and bodies that come too slowly are ended by a
 * clock of our own. http_free() needs every call answered. */
#ifndef DAVID_SERVER_HTTP_H
#define DAVID_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/connections.h"
#include "server/reply.h"

struct server;
struct route;

struct http_call {
    char method[16], request_id[REQUEST_ID_MAX + 1], accept[512], content_type[256];
    char *uri;                 /* owns what path and query point to */
    const char *path, *query;  /* raw; query "" where there is none */
    const struct route *route; /* NULL: none */
    uint64_t started_ns;
    bool has_length, has_body, is_chunked;
    uint64_t length; /* Content-Length, bytes */
    uint8_t *body;
    size_t body_len, body_cap;
    uint64_t body_reserved;
    struct error refusal; /* of a body that came too large; answered at its end */
    void *user_data;      /* the restoration's; NULL: none */
    void *http;           /* private to http.c */
};

struct http;
enum status http_new(struct http **out, struct server *s, struct error *err);
void http_free(struct http *h);                 /* takes NULL */
const char *http_address(const struct http *h); /* as bound: "127.0.0.1:43817" */
void http_reply(struct http_call *call, const struct reply *reply);

#endif
