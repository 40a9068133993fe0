/* The number of threads that this process may keep busy: its affinity, and the quota of its control
 * groups (v2, else v1). */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"

static int affinity_threads(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

/* Whole threads for a quota, rounded up; 0: no limit. */
static int quota_threads(long long quota, long long period)
{
    if (quota <= 0 || period <= 0) return 0;
    long long n = (quota + period - 1) / period;
    return n > 4096 ? 4096 : (int)n;
}

static int v2_limit(const char *folder)
{
    char path[1200];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", folder);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    int n = fscanf(f, "%lld %lld", &quota, &period); /* "max 100000" reads no number */
    fclose(f);
    return n == 2 ? quota_threads(quota, period) : 0;
}

static long long number_in(const char *path)
{
    long long v = 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    if (fscanf(f, "%lld", &v) != 1) v = 0;
    fclose(f);
    return v;
}

static int smaller(int a, int b)
{
    return a > 0 && (b == 0 || a < b) ? a : b;
}

static int cgroup_threads(void)
{
    int limit = quota_threads(number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
                              number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    char line[1024];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        char *folder = line + 3;
        folder[strcspn(folder, "\n")] = 0;
        /* The limits of the groups above hold too. */
        for (char *slash; (slash = strrchr(folder, '/')); *slash = 0)
            limit = smaller(v2_limit(folder), limit);
    }
    if (f) fclose(f);
    return smaller(v2_limit(""), limit);
}

int threads_available(void)
{
    int n = affinity_threads(), limit = cgroup_threads();
    return limit > 0 && limit < n ? limit : n;
}
