/* listener.h - the socket that the daemon listens on. */
#ifndef DAVID_SERVER_HTTP_LISTENER_H
#define DAVID_SERVER_HTTP_LISTENER_H

#include <stddef.h>

#include "proto/error.h"

/* listen_at: "ADDRESS:PORT", an IPv6 address in brackets; no address listens on every one, port
 * 0 on a free one. address: [cap], as bound, "127.0.0.1:43817". out: the socket, the caller's.
 * ST_BAD_PARAMETER: not an address; ST_IO: it cannot be bound. */
enum status listener_open(int *out, char *address, size_t cap, const char *listen_at,
                          struct error *err);

#endif
