#include "server/throughput.h"

void throughput_record(struct throughput *t, uint64_t jobs, uint64_t ns)
{
    if (jobs == 0) return;
    uint64_t old = atomic_load(&t->ns_per_job), now = ns / jobs;
    /* The weight of the new value is an eighth: a stall of one batch does not turn clients away
     * for minutes. */
    atomic_store(&t->ns_per_job, old ? old - old / 8 + now / 8 : now);
}

unsigned throughput_retry_after(const struct throughput *t, uint64_t jobs)
{
    double s = (double)jobs * (double)atomic_load(&t->ns_per_job) * 1e-9;
    if (s < 1) return 1;
    return s > 119 ? 120 : (unsigned)s + 1;
}
