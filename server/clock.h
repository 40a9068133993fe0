/* clock.h - the monotonic clock. Only threads and their call-backs read it; everything below
 * takes `now_ns`. */
#ifndef DAVID_SERVER_CLOCK_H
#define DAVID_SERVER_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

static inline uint64_t clock_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* From one reading to another; 0 where the second is the earlier: another thread took it before
 * it waited for a lock. */
static inline uint64_t clock_since_ns(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? to_ns - from_ns : 0;
}

#endif
