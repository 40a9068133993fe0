/* memory.h - the one budget of bytes that models and requests reserve before they allocate.
 *
 * A request that is larger than what the models leave can never fit: ST_NEVER_FITS, naming
 * memory_budget. A request that does not fit at the moment gets ST_NO_MEMORY_NOW. Nothing is
 * allocated here. Lock-free; any thread. */
#ifndef DAVID_SERVER_MEMORY_H
#define DAVID_SERVER_MEMORY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

struct memory {
    uint64_t budget;           /* bytes */
    _Atomic uint64_t reserved; /* bytes, of models and requests */
    _Atomic uint64_t held;     /* the models' part of `reserved`: no request can wait for it */
};

void memory_init(struct memory *m, uint64_t budget_bytes);
enum status memory_reserve(struct memory *m, uint64_t bytes, struct error *err);
void memory_release(struct memory *m, uint64_t bytes);
enum status memory_hold(struct memory *m, uint64_t bytes, struct error *err); /* for a model */
void memory_unhold(struct memory *m, uint64_t bytes);
uint64_t memory_reserved(const struct memory *m);

#endif
