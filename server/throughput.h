/* throughput.h - how fast the engine gets through jobs, as measured, and what Retry-After follows from it. */
#ifndef DAVID_SERVER_THROUGHPUT_H
#define DAVID_SERVER_THROUGHPUT_H

#include <stdatomic.h>
#include <stdint.h>

struct throughput {
    _Atomic uint64_t ns_per_job; /* moving mean over batches; 0: nothing measured yet */
};

void throughput_record(struct throughput *t, uint64_t jobs,
                       uint64_t ns); /* any thread; as if all engines together took ns */
/* Whole seconds until `jobs` are done, 1 to 120. */
unsigned throughput_retry_after(const struct throughput *t, uint64_t jobs);

#endif
