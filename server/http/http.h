/* http.h - HTTP as a library over libmicrohttpd. It knows routes as rows of call-backs and
 * nothing of what they do.
 *
 * A call is one request. A route with `answer` is answered on its HTTP thread, from the headers
 * alone. A route with `submit` takes a body: `begin` judges the headers; the body is then
 * gathered whole, within max_body and the memory budget; then the connection is suspended, and
 * the call belongs to the route until http_reply(), which any thread may call, exactly once, and
 * after which the call must not be touched. http_free() needs every call to be answered. */
#ifndef DAVID_SERVER_HTTP_H
#define DAVID_SERVER_HTTP_H

#include "server/http/route.h"

struct server;

struct http;
/* Listens on the setting `listen` and serves; routes: [n], static; s: limits, memory, state and
 * metrics. ST_BAD_PARAMETER, ST_IO: the address cannot be listened on. */
enum status http_new(struct http **out, const struct http_route *routes, size_t n, void *context,
                     struct server *s, struct error *err);
void http_free(struct http *h);                 /* takes NULL */
const char *http_address(const struct http *h); /* as bound: "127.0.0.1:43817" */

void http_drop_body(struct http_call *call); /* frees it; the reservation stays as it is */
/* Sends the reply and takes over its body. The reservation should be what the reply's body
 * holds. */
void http_reply(struct http_call *call, const struct reply *reply);

#endif
