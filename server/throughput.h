/* throughput.h - the measured rate of tile jobs, and the Retry-After that follows from it. Any
 * thread. */
#ifndef DAVID_SERVER_THROUGHPUT_H
#define DAVID_SERVER_THROUGHPUT_H

#include <stdatomic.h>
#include <stdint.h>

struct throughput {
    _Atomic uint64_t ns_per_job; /* moving mean over batches; 0: nothing measured yet */
};

/* The engines together have taken ns for so many jobs. */
void throughput_record(struct throughput *t, uint64_t jobs, uint64_t ns);
/* Whole seconds until `jobs` are done, 1 to 120. */
unsigned throughput_retry_after(const struct throughput *t, uint64_t jobs);

#endif
