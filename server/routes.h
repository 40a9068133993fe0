/* routes.h - the table of paths: method, and what answers. The context of every row is the
 * struct service. */
#ifndef DAVID_SERVER_ROUTES_H
#define DAVID_SERVER_ROUTES_H

#include "server/http/http.h"

extern const struct http_route routes[]; /* [n_routes] */
extern const size_t n_routes;

#endif
