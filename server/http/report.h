/* report.h - what is counted and logged of requests: one line of the access log and one count
 * for each reply.
 *
 * Any thread. The log holds the status by name and the detail of what was refused or failed,
 * without what the client sent. */
#ifndef DAVID_SERVER_HTTP_REPORT_H
#define DAVID_SERVER_HTTP_REPORT_H

#include "server/http/connections.h"
#include "server/http/route.h"
#include "server/log.h"
#include "server/server.h"

/* route: NULL where none was found. age_ns: since the request line, or since the phase began
 * that took too long. */
void report_reply(struct server *s, enum log_level level, const struct http_route *route,
                  const char *method, const char *request_id, const struct reply *r,
                  uint64_t age_ns);
/* Counts a request with a body that is not answered with a success: by the reason of its status;
 * ST_CANCELLED by itself. */
void report_refusal(struct server *s, enum status why);

/* libmicrohttpd cannot answer a connection that the clock ends: writes the reply to its socket,
 * counts and logs it. */
void report_ended(struct server *s, const struct ended_connection *c);

/* The detail without what a client sent. A detail holds the client's values in single quotes or
 * as "name = value", and names settings in the same form: quoted text and the value of whatever
 * is not a setting become "...". out: [cap]. */
void report_redact(char *out, size_t cap, const char *detail);

#endif
