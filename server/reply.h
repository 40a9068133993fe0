/* reply.h - an answer on its way to http.c: code, headers, body. The body is malloc'd (or static) and goes with the reply. */
#ifndef DAVID_SERVER_REPLY_H
#define DAVID_SERVER_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum { REPLY_HEADERS = 12 };

struct reply {
    int code;
    const char *type; /* of the body; static text */
    void *body;
    size_t len;
    bool is_static, closes; /* closes: Connection: close */
    uint64_t reserved;      /* bytes of the budget that the body holds until it is sent */
    unsigned n;
    struct {
        const char *name;
        char value[160];
    } headers[REPLY_HEADERS];
};

void reply_header(struct reply *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* problem+json; retry_after 0: no such header. */
void reply_problem(struct reply *r, const struct error *err, const char *request_id,
                   unsigned retry_after_s);

#endif
