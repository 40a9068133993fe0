/* listener.h - the socket that the daemon listens on. */
#ifndef DAVID_SERVER_LISTENER_H
#define DAVID_SERVER_LISTENER_H

#include <stddef.h>

#include "proto/error.h"

/* listen_at: "ADDRESS:PORT", an IPv6 address in brackets, no address = every one, port 0 = a free one. address: as bound,
 * "127.0.0.1:43817". ST_BAD_PARAMETER: not an address; ST_IO: not to be had. */
enum status listener_open(int *out, char *address, size_t cap, const char *listen_at,
                          struct error *err);

#endif
