/* request_id.h - the id of a request: X-Request-Id of the client where it is plain, else a
 * random one. */
#ifndef DAVID_SERVER_HTTP_REQUEST_ID_H
#define DAVID_SERVER_HTTP_REQUEST_ID_H

enum { REQUEST_ID_MAX = 128 };

/* out: [REQUEST_ID_MAX + 1]. given: NULL where the client sent none; taken where it is 1 to
 * REQUEST_ID_MAX characters of [A-Za-z0-9._-]. */
void request_id_choose(char *out, const char *given);

#endif
