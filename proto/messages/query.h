/* query.h - the raw query string of a request, as parameters.
 *
 * Splits at '&', decodes %XX and '+', and refuses what has no honest meaning in a parameter: NUL and other control
 * bytes, broken escapes, bytes that are not UTF-8 (ST_BAD_REQUEST). Order and repetition are kept: whether a name is
 * known, or may come twice, is the caller's to say. Everything is bounded and stored inside the struct: nothing to
 * free, and the raw text may go away. A struct query holds pointers into itself: never copy it. */
#ifndef DAVID_PROTO_MESSAGES_QUERY_H
#define DAVID_PROTO_MESSAGES_QUERY_H

#include <stddef.h>

#include "proto/error.h"

enum { QUERY_MAX_PARAMS = 32, QUERY_MAX_BYTES = 4096 };

struct query_param {
    const char *name, *value; /* terminated UTF-8; `name` without '=' has the value "" */
};

struct query {
    size_t n;
    struct query_param params[QUERY_MAX_PARAMS];
    char text[QUERY_MAX_BYTES + 1];
};

enum status query_parse(struct query *out, const char *raw, size_t len, struct error *err);

#endif
