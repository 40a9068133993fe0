/* query.h - parser of a request's query string.
 *
 * Splits at '&', decodes %XX and '+', and refuses bytes that no parameter may hold: NUL and other
 * control characters, broken escapes, bytes that are not UTF-8 (ST_BAD_REQUEST). Order and
 * repetition are kept: the caller decides whether a name is known and whether it may be repeated.
 * The struct is bounded and holds all text: nothing to free, and the raw text may be freed. A
 * struct query holds pointers into itself and must not be copied. */
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
