#include "server/throughput.h"

void throughput_record(struct throughput *t, uint64_t rows, uint64_t ns)
{
    if (rows == 0) return;
    uint64_t old = atomic_load(&t->ns_per_row), now = ns / rows;
    /* An eighth of the new: a stall of one batch does not send clients away for minutes. */
    atomic_store(&t->ns_per_row, old ? old - old / 8 + now / 8 : now);
}

unsigned throughput_retry_after(const struct throughput *t, uint64_t rows)
{
    double s = (double)rows * (double)atomic_load(&t->ns_per_row) * 1e-9;
    if (s < 1) return 1;
    return s > 119 ? 120 : (unsigned)s + 1;
}
