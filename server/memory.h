/* memory.h - one budget of bytes that models and requests reserve before they take memory.
 *
 * A request that is larger than what models leave can never fit: ST_NEVER_FITS (names memory_budget); one that does not fit
 * now gets ST_NO_MEMORY_NOW. Nothing is allocated here. Lock-free; any thread. */
#ifndef DAVID_SERVER_MEMORY_H
#define DAVID_SERVER_MEMORY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct memory {
    uint64_t budget; /* bytes */
    _Atomic uint64_t reserved,
        held; /* held: the part of `reserved` that is never given back, the models' */
};

void memory_init(struct memory *m, uint64_t budget_bytes);
enum status memory_reserve(struct memory *m, uint64_t bytes, struct error *err);
void memory_release(struct memory *m, uint64_t bytes);
enum status memory_hold(struct memory *m, uint64_t bytes, struct error *err); /* for a model */
void memory_unhold(struct memory *m, uint64_t bytes);
uint64_t memory_reserved(const struct memory *m);

#endif
