/* openapi.h - the description of the HTTP interface, which /openapi.json returns. */
#ifndef DAVID_PROTO_MESSAGES_OPENAPI_H
#define DAVID_PROTO_MESSAGES_OPENAPI_H

#include <stddef.h>

extern const char openapi_json[]; /* not terminated */
extern const size_t openapi_json_len;

#endif
