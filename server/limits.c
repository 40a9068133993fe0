#include "server/limits.h"

#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* Up to two numbers of a small file; "max" and what is missing stay as they were. */
static int read_numbers(const char *path, uint64_t *a, uint64_t *b)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    int n = fscanf(f, "%" SCNu64 " %" SCNu64, a, b);
    (void)fclose(f);
    return n;
}

uint64_t limits_cpus(void)
{
    cpu_set_t set;
    uint64_t n = 1, quota = 0, period = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = (uint64_t)CPU_COUNT(&set);
    if (read_numbers("/sys/fs/cgroup/cpu.max", &quota, &period) != 2) {
        uint64_t unused = 0;
        quota = period = 0;
        (void)read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &unused);
        (void)read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &unused);
    }
    if (quota > 0 && quota < INT64_MAX && period > 0) {
        uint64_t allowed = (quota + period - 1) / period;
        if (allowed < n) n = allowed;
    }
    return n ? n : 1;
}

uint64_t limits_memory_bytes(void)
{
    struct sysinfo info;
    uint64_t bytes = UINT64_C(1) << 30, limit = 0, unused = 0;
    if (sysinfo(&info) == 0) bytes = (uint64_t)info.totalram * info.mem_unit;
    if (read_numbers("/sys/fs/cgroup/memory.max", &limit, &unused) < 1)
        (void)read_numbers("/sys/fs/cgroup/memory/memory.limit_in_bytes", &limit, &unused);
    return limit > 0 && limit < bytes ? limit : bytes;
}

void limits_models_folder(char *out, size_t cap)
{
    static const char *const beside[] = { "/../share/david/models", "/../models" };
    char self[PATH_MAX] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? strrchr(self, '/') : NULL;
    if (slash) *slash = '\0';
    for (size_t i = 0; slash && i < sizeof beside / sizeof beside[0]; i++) {
        struct stat st;
        int len = snprintf(out, cap, "%s%s", self, beside[i]);
        if (len > 0 && (size_t)len < cap && stat(out, &st) == 0 && S_ISDIR(st.st_mode)) return;
    }
    (void)snprintf(out, cap, "models");
}
