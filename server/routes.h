/* routes.h - the one table of paths: method, who may call, and what answers. */
#ifndef DAVID_SERVER_ROUTES_H
#define DAVID_SERVER_ROUTES_H

#include "server/http.h"

enum role { ROLE_ANYONE, ROLE_OPERATOR };

struct route {
    const char *path, *method;
    enum role role;
    /* Answered at once... */
    void (*answer)(struct server *s, struct http_call *call, struct reply *r);
    /* ...or after a body: begin looks at the headers, submit gets the suspended call, abandon one whose body never ended,
     * has_left: because its client closed. */
    enum status (*begin)(struct server *s, struct http_call *call, struct error *err);
    void (*submit)(struct server *s, struct http_call *call);
    void (*abandon)(struct server *s, struct http_call *call, bool has_left);
};

extern const struct route routes[];
extern const unsigned n_routes;

const struct route *route_find(const char *path); /* NULL: none */
unsigned route_index(const struct route *r);      /* n_routes for NULL */
/* "GET, HEAD" */
const char *route_allow(const struct route *r);

#endif
