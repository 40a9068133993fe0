/* Spins of waiting threads: libgomp reads its settings before main does, so they are set by starting again. */
#include "cli/thread_pool.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* How often libgomp's waiting threads look before they sleep. Its own default is milliseconds: where anything else wants the
 * processors (another process, or our codec workers), the team then burns the time that the thread it waits for would need. Not
 * looking at all makes every small op pay for a wake-up. Some 40 us lose little either way; a look's length is the processor's. */
static long spin_count(void)
{
    enum { LOOKS = 10000, SPIN_NS = 40000 };
    struct timespec a, b;
    (void)clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < LOOKS; i++) {
#if defined __x86_64__
        __builtin_ia32_pause();
#else
        __asm__ volatile("" ::: "memory");
#endif
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &b);
    double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
    double count = ns > 0 ? SPIN_NS * (double)LOOKS / ns : 1000;
    return count < 500 ? 500 : count > 100000 ? 100000 : (long)count;
}

void restart_with_thread_pool_settings(char **argv)
{
    static const char *const set_by_others[] = { "OMP_WAIT_POLICY", "GOMP_SPINCOUNT" };
    char path[PATH_MAX], count[32];
    for (size_t i = 0; i < sizeof set_by_others / sizeof *set_by_others; i++)
        if (getenv(set_by_others[i])) return;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    (void)snprintf(count, sizeof count, "%ld", spin_count());
    if (n <= 0 || setenv("GOMP_SPINCOUNT", count, 0)) return;
    path[n] = '\0';
    (void)execv(path, argv); /* returns on failure only; then it runs as it is */
}
