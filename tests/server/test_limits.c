/* What control groups leave to the process, from made-up /proc and /sys; and the files that may
 * be open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/limits.h"

enum { MAX_FILES = 6 };

struct machine {
    const char *name, *groups; /* of /proc/self/cgroup */
    struct {
        const char *path, *text;
    } files[MAX_FILES];
    uint64_t cpus, bytes; /* wanted; UINT64_MAX: as without any group */
};

static const struct machine machines[] = {
    { "no groups at all", NULL, { { NULL, NULL } }, UINT64_MAX, UINT64_MAX },
    { "version 2 without limits",
      "0::/\n",
      { { "/sys/fs/cgroup/cpu.max", "max 100000\n" }, { "/sys/fs/cgroup/memory.max", "max\n" } },
      UINT64_MAX,
      UINT64_MAX },
    { "a container's root",
      "0::/\n",
      { { "/sys/fs/cgroup/cpu.max", "50000 100000\n" },
        { "/sys/fs/cgroup/memory.max", "1048576\n" } },
      1,
      1048576 },
    { "a service below a slice that binds more",
      "0::/system.slice/david.service\n",
      { { "/sys/fs/cgroup/system.slice/david.service/memory.max", "8388608\n" },
        { "/sys/fs/cgroup/system.slice/memory.max", "4194304\n" },
        { "/sys/fs/cgroup/system.slice/david.service/cpu.max", "100000 100000\n" },
        { "/sys/fs/cgroup/system.slice/cpu.max", "max 100000\n" } },
      1,
      4194304 },
    { "version 1, several controllers on a line",
      "12:memory:/david\n4:cpu,cpuacct:/david\n1:name=systemd:/x\n",
      { { "/sys/fs/cgroup/memory/david/memory.limit_in_bytes", "2097152\n" },
        { "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n" },
        { "/sys/fs/cgroup/cpu/david/cpu.cfs_quota_us", "10000\n" },
        { "/sys/fs/cgroup/cpu/david/cpu.cfs_period_us", "100000\n" },
        { "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n" },
        { "/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n" } },
      1,
      2097152 },
    { "a group that is named but not mounted",
      "0::/docker/abc\n",
      { { "/sys/fs/cgroup/memory.max", "3145728\n" } },
      UINT64_MAX,
      3145728 },
    { "nonsense",
      "::\nx\n0:\n0::/..\n:::\n",
      { { "/sys/fs/cgroup/memory.max", "-\n" }, { "/sys/fs/cgroup/cpu.max", "0 0\n" } },
      UINT64_MAX,
      UINT64_MAX },
};

static void write_file(const char *root, const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s%s", root, name);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void groups_bind_with_all_above_them(void **state)
{
    (void)state;
    char empty[] = "limits-XXXXXX";
    assert_non_null(mkdtemp(empty));
    const uint64_t all_cpus = limits_cpus(empty), all_bytes = limits_memory_bytes(empty);
    assert_true(all_cpus >= 1);
    assert_true(all_bytes > 16 << 20);
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const struct machine *m = &machines[i];
        char root[] = "limits-XXXXXX";
        assert_non_null(mkdtemp(root));
        if (m->groups) write_file(root, "/proc/self/cgroup", m->groups);
        for (size_t k = 0; k < MAX_FILES && m->files[k].path; k++)
            write_file(root, m->files[k].path, m->files[k].text);
        uint64_t cpus = m->cpus == UINT64_MAX ? all_cpus : m->cpus;
        uint64_t bytes = m->bytes == UINT64_MAX ? all_bytes : m->bytes;
        if (limits_cpus(root) != cpus || limits_memory_bytes(root) != bytes)
            fail_msg("%s: %llu processors, %llu bytes", m->name,
                     (unsigned long long)limits_cpus(root),
                     (unsigned long long)limits_memory_bytes(root));
    }
}

/* The soft limit is raised as far as necessary, never above the hard one, and never lowered. */
static void open_files_are_raised_to_what_is_wanted(void **state)
{
    (void)state;
    struct rlimit low = { 100, 200 }, now;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(limits_files(50), 100);
    assert_int_equal(limits_files(150), 150);
    assert_int_equal(limits_files(1000), 200);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 200);
}

static int enter_a_folder(void **state)
{
    (void)state;
    static char folder[] = "/tmp/test-limits-XXXXXX";
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int leave_it(void **state)
{
    (void)state;
    char here[256];
    char command[300];
    if (!getcwd(here, sizeof here) || strncmp(here, "/tmp/test-limits-", 17) != 0) return -1;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", here);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_bind_with_all_above_them),
        cmocka_unit_test(open_files_are_raised_to_what_is_wanted),
    };
    return cmocka_run_group_tests(tests, enter_a_folder, leave_it);
}
