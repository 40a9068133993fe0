/* Spinning of waiting threads. libgomp reads its settings before main runs, so the program sets
 * them and starts itself again. */
#include "cli/thread_pool.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* How often libgomp's waiting threads poll before they sleep. libgomp's default takes milliseconds:
 * where other threads need the processors (another process, or our codec workers), the pool then
 * uses up the time that the awaited thread needs. Without polling, every small op pays for a
 * wake-up. About 40 us costs little in both cases; the duration of one poll depends on the
 * processor. */
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
    (void)execv(path, argv); /* returns on failure only; the program then runs with the defaults */
}
