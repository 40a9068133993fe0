/* reservation.h - the bytes of the memory budget that one request holds, from its headers to its
 * reply.
 *
 * A plain value that belongs to the owner of the request; nothing is allocated here. The owner
 * adds bytes before it allocates them and gives them back with reservation_keep(). One thread at
 * a time uses a reservation; the budget behind it is lock-free. */
#ifndef DAVID_SERVER_RESERVATION_H
#define DAVID_SERVER_RESERVATION_H

#include "server/memory.h"

struct reservation {
    struct memory *memory;
    uint64_t bytes; /* reserved now */
};

void reservation_init(struct reservation *r, struct memory *memory);
/* ST_NEVER_FITS, ST_NO_MEMORY_NOW: nothing has changed. */
enum status reservation_add(struct reservation *r, uint64_t bytes, struct error *err);
/* Gives back what is above `bytes`; 0 gives back everything. */
void reservation_keep(struct reservation *r, uint64_t bytes);

#endif
