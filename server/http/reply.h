/* reply.h - the reply to one request: outcome, HTTP code, headers, body.
 *
 * A plain value; zeroed, it is an empty reply. The body is malloc'd, or static where is_static;
 * http_reply() takes it over. A reply that is not a success carries its status and detail, so
 * that the access log and the metrics can name them. */
#ifndef DAVID_SERVER_HTTP_REPLY_H
#define DAVID_SERVER_HTTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum { REPLY_HEADERS = 12 };

struct reply {
    enum status status; /* ST_OK: a success */
    char detail[sizeof((struct error *)NULL)->detail];
    int code;
    const char *type; /* of the body; static text */
    void *body;
    size_t len;             /* bytes */
    bool is_static, closes; /* closes: Connection: close */
    unsigned n;
    struct {
        const char *name; /* static text */
        char value[160];
    } headers[REPLY_HEADERS];
};

/* Adds a header; one beyond REPLY_HEADERS is left out. */
void reply_header(struct reply *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* application/json; text: malloc'd, NULL where memory was out: then the code is 500. */
void reply_json(struct reply *r, int code, char *text, size_t len);
/* application/problem+json of the error. A 503 gets Retry-After; ST_DRAINING closes the
 * connection. */
void reply_problem(struct reply *r, const struct error *err, const char *request_id,
                   unsigned retry_after_s);

#endif
