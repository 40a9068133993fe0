/* multipart.h - parser of multipart/form-data (RFC 7578) for a body that is completely in memory.
 *
 * Parts point into the body: nothing is copied, nothing is allocated, and the body must outlive
 * them. The number of parts and the length of part headers are bounded. Names are compared as raw
 * bytes; repeated names are returned, and the caller decides about them. Errors: ST_BAD_REQUEST,
 * with the place of the first violation. Reentrant. */
#ifndef DAVID_PROTO_MESSAGES_MULTIPART_H
#define DAVID_PROTO_MESSAGES_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/error.h"

enum { MULTIPART_MAX_PARTS = 32, MULTIPART_MAX_HEADER_BYTES = 4096, MULTIPART_MAX_BOUNDARY = 70 };

struct multipart_part {
    const char *name; /* not terminated */
    size_t name_len;
    const char *bytes; /* not terminated */
    size_t len;
};

struct multipart {
    size_t n;
    struct multipart_part parts[MULTIPART_MAX_PARTS];
};

/* Whether a Content-Type value is multipart/form-data; NULL is not. */
bool multipart_is(const char *content_type);

/* The boundary parameter of the Content-Type, checked against the alphabet of RFC 2046. */
enum status multipart_boundary(char out[MULTIPART_MAX_BOUNDARY + 1], const char *content_type,
                               struct error *err);
enum status multipart_parse(struct multipart *out, const char *boundary, const void *body,
                            size_t len, struct error *err);

#endif
