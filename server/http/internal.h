/* internal.h - what the files of server/http/ share: the library's state, and one request with
 * what only HTTP sees of it. */
#ifndef DAVID_SERVER_HTTP_INTERNAL_H
#define DAVID_SERVER_HTTP_INTERNAL_H

#include <stdatomic.h>

#include "server/http/connections.h"
#include "server/http/http.h"
#include "server/http/watch.h"
#include "server/server.h"

struct MHD_Connection;
struct MHD_Daemon;

struct http {
    const struct http_route *routes; /* [n_routes] */
    size_t n_routes;
    void *context; /* of the routes */
    struct server *server;
    struct MHD_Daemon *daemon;
    struct watch *watch;
    struct connections connections;
    char address[300];
};

enum transaction_state {
    STATE_NEW,
    STATE_BARE,      /* the headers of a request without a body have been read */
    STATE_GATHERING, /* `begin` has accepted it; the body comes */
    STATE_REFUSED,   /* the body was too large; it has been read away */
    STATE_SUBMITTED, /* suspended: the route's */
    STATE_ANSWERED
};

struct transaction {
    struct http_call call; /* first: routes see only this */
    struct http *h;
    struct MHD_Connection *connection;
    struct connection *conn;
    struct reply reply;
    struct error refusal; /* of a body that is too large; answered at its end */
    char *uri;            /* owns what call.path and call.query point to */
    enum transaction_state state;
    atomic_uint references; /* libmicrohttpd's, and the watch's while it cancels */
    bool is_counted;        /* in server->active */
    uint64_t ticket;        /* of the watch */
};

/* headers.c: fills the call from the request line and the headers. */
void headers_read(struct transaction *x, const char *method);
/* What is wrong with the framing of the message; NULL: nothing. */
const char *headers_fault(struct MHD_Connection *connection);

/* body.c: appends n bytes. False: the body is so much too large that the connection must be
 * closed. */
bool body_append(struct transaction *x, const char *data, size_t n);

#endif
