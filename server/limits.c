#include "server/limits.h"

#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

/* Reads up to two numbers of a small file; returns how many it has. "max" is no number. */
static int read_numbers(const char *folder, const char *name, uint64_t *a, uint64_t *b)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!f) return 0;
    n = fscanf(f, "%" SCNu64 " %" SCNu64, a, b);
    (void)fclose(f);
    return n;
}

static void keep_smaller(uint64_t *limit, uint64_t v)
{
    if (v > 0 && v < *limit) *limit = v;
}

/* folder: of a control group. The quota, rounded up to whole processors. */
static void check_cpus(const char *folder, uint64_t *limit)
{
    uint64_t quota = 0, period = 0, unused = 0;
    if (read_numbers(folder, "cpu.max", &quota, &period) != 2) {
        if (read_numbers(folder, "cpu.cfs_quota_us", &quota, &unused) != 1) return;
        if (read_numbers(folder, "cpu.cfs_period_us", &period, &unused) != 1) return;
    }
    /* -1, as an unsigned number: version 1 has no quota */
    if (quota < INT64_MAX && period > 0) keep_smaller(limit, (quota + period - 1) / period);
}

static void check_memory(const char *folder, uint64_t *limit)
{
    uint64_t bytes = 0, unused = 0;
    if (read_numbers(folder, "memory.max", &bytes, &unused) < 1)
        (void)read_numbers(folder, "memory.limit_in_bytes", &bytes, &unused);
    keep_smaller(limit, bytes);
}

/* Checks every group of version 2 or of this controller that the process is in, and all groups
 * above it. */
static void check_cgroups(const char *root, const char *controller,
                          void (*check)(const char *folder, uint64_t *limit), uint64_t *limit)
{
    char path[PATH_MAX], line[1024], folder[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) { /* number:controllers:/group */
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        bool is_v2 = names[1] == '\0', is_ours = is_v2;
        for (char *more, *name = strtok_r(names + 1, ",", &more); name && !is_ours;
             name = strtok_r(NULL, ",", &more))
            is_ours = strcmp(name, controller) == 0;
        for (char *slash; is_ours && (slash = strrchr(group, '/')) != NULL; *slash = '\0') {
            int n = snprintf(folder, sizeof folder, "%s/sys/fs/cgroup%s%s%s", root,
                             is_v2 ? "" : "/", is_v2 ? "" : controller, group);
            if (n > 0 && (size_t)n < sizeof folder) check(folder, limit);
        }
    }
    if (f) (void)fclose(f);
    /* In a container the folder of the group itself is mounted, whatever /proc calls it. */
    (void)snprintf(folder, sizeof folder, "%s/sys/fs/cgroup", root);
    check(folder, limit);
    (void)snprintf(folder, sizeof folder, "%s/sys/fs/cgroup/%s", root, controller);
    check(folder, limit);
}

uint64_t limits_cpus(const char *root)
{
    cpu_set_t set;
    uint64_t n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = (uint64_t)CPU_COUNT(&set);
    check_cgroups(root, "cpu", check_cpus, &n);
    return n ? n : 1;
}

uint64_t limits_memory_bytes(const char *root)
{
    struct sysinfo info;
    uint64_t bytes = UINT64_C(1) << 30;
    if (sysinfo(&info) == 0) bytes = (uint64_t)info.totalram * info.mem_unit;
    check_cgroups(root, "memory", check_memory, &bytes);
    return bytes;
}

uint64_t limits_files(uint64_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return wanted; /* unknown: the kernel will refuse */
    if (limit.rlim_cur < wanted && limit.rlim_cur < limit.rlim_max) {
        struct rlimit more = { limit.rlim_max < wanted ? limit.rlim_max : wanted, limit.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &more) == 0) limit = more;
    }
    return limit.rlim_cur;
}
