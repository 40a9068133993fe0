#include "server/memory.h"

#include <inttypes.h>

void memory_init(struct memory *m, uint64_t budget_bytes)
{
    m->budget = budget_bytes;
    atomic_init(&m->reserved, 0);
    atomic_init(&m->held, 0);
}

enum status memory_reserve(struct memory *m, uint64_t bytes, struct error *err)
{
    uint64_t held = atomic_load(&m->held), left = held < m->budget ? m->budget - held : 0;
    if (bytes > left)
        return error_set(err, ST_NEVER_FITS,
                         "needs %" PRIu64 " bytes, more than the %" PRIu64
                         " that memory_budget = %" PRIu64 " leaves beside the models",
                         bytes, left, m->budget);
    uint64_t now = atomic_load(&m->reserved);
    do {
        if (now > m->budget || bytes > m->budget - now)
            return error_set(err, ST_NO_MEMORY_NOW,
                             "needs %" PRIu64 " bytes; %" PRIu64 " of memory_budget = %" PRIu64
                             " are reserved at the moment",
                             bytes, now, m->budget);
    } while (!atomic_compare_exchange_weak(&m->reserved, &now, now + bytes));
    return ST_OK;
}

void memory_release(struct memory *m, uint64_t bytes)
{
    atomic_fetch_sub(&m->reserved, bytes);
}

enum status memory_hold(struct memory *m, uint64_t bytes, struct error *err)
{
    enum status s = memory_reserve(m, bytes, err);
    if (s == ST_OK) atomic_fetch_add(&m->held, bytes);
    return s;
}

void memory_unhold(struct memory *m, uint64_t bytes)
{
    atomic_fetch_sub(&m->held, bytes);
    memory_release(m, bytes);
}

uint64_t memory_reserved(const struct memory *m)
{
    return atomic_load(&m->reserved);
}
