#include "server/reservation.h"

void reservation_init(struct reservation *r, struct memory *memory)
{
    *r = (struct reservation){ .memory = memory };
}

enum status reservation_add(struct reservation *r, uint64_t bytes, struct error *err)
{
    enum status s = memory_reserve(r->memory, bytes, err);
    if (!s) r->bytes += bytes;
    return s;
}

void reservation_keep(struct reservation *r, uint64_t bytes)
{
    if (bytes >= r->bytes) return;
    memory_release(r->memory, r->bytes - bytes);
    r->bytes = bytes;
}
