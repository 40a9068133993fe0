#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "proto/atomic_file.h"
#include "proto/models/digest.h"
#include "tests/proto/sandbox.h"

static void assert_content(const char *path, const char *text)
{
    char found[64] = { 0 };
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(found, 1, sizeof found - 1, f);
    (void)fclose(f);
    assert_int_equal(n, strlen(text));
    assert_string_equal(found, text);
}

static void a_file_appears_whole_and_nothing_beside_it(void **state)
{
    (void)state;
    assert_int_equal(atomic_file_save(sandbox_path("a"), "old", 3, NULL), ST_OK);
    assert_content(sandbox_path("a"), "old");
    struct atomic_file *f = NULL;
    assert_int_equal(atomic_file_open(&f, sandbox_path("a"), NULL), ST_OK);
    assert_int_equal(atomic_file_write(f, "ne", 2, NULL), ST_OK);
    assert_content(sandbox_path("a"), "old");
    assert_int_equal(atomic_file_write(f, "wer", 3, NULL), ST_OK);
    assert_int_equal(atomic_file_commit(f, NULL), ST_OK);
    assert_content(sandbox_path("a"), "newer");
    assert_int_equal(sandbox_files(1), 1);
}

static void an_abandoned_file_leaves_the_old_one_and_no_trace(void **state)
{
    (void)state;
    struct atomic_file *f = NULL;
    assert_int_equal(atomic_file_save(sandbox_path("a"), "old", 3, NULL), ST_OK);
    assert_int_equal(atomic_file_open(&f, sandbox_path("a"), NULL), ST_OK);
    assert_int_equal(atomic_file_write(f, "new", 3, NULL), ST_OK);
    assert_int_equal(sandbox_files(0), 2);
    atomic_file_abort(f);
    assert_content(sandbox_path("a"), "old");
    assert_int_equal(sandbox_files(1), 1);
}

/* A writer that is killed leaves the old bytes in the target. */
static void a_killed_writer_leaves_the_old_file(void **state)
{
    (void)state;
    assert_int_equal(atomic_file_save(sandbox_path("a"), "old", 3, NULL), ST_OK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct atomic_file *f = NULL;
        if (atomic_file_open(&f, sandbox_path("a"), NULL) ||
            atomic_file_write(f, "half a file", 11, NULL))
            _exit(1);
        (void)raise(SIGKILL);
        _exit(1);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    assert_content(sandbox_path("a"), "old");
    sandbox_files(1);
}

/* A full disk, simulated by the limit on a file's size. */
static void a_full_disk_is_an_error_and_leaves_the_old_file(void **state)
{
    (void)state;
    struct rlimit before, small;
    struct error err = { 0 };
    static char large[8192];
    assert_int_equal(atomic_file_save(sandbox_path("a"), "old", 3, NULL), ST_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum status s = atomic_file_save(sandbox_path("a"), large, sizeof large, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(s, ST_IO);
    assert_non_null(strstr(err.detail, "/a"));
    assert_content(sandbox_path("a"), "old");
    assert_int_equal(sandbox_files(1), 1);
}

static void a_link_stays_a_link_and_odd_targets_are_refused(void **state)
{
    (void)state;
    struct stat info;
    assert_int_equal(atomic_file_save(sandbox_path("real"), "old", 3, NULL), ST_OK);
    assert_int_equal(symlink(sandbox_path("real"), sandbox_path("link")), 0);
    assert_int_equal(atomic_file_save(sandbox_path("link"), "new", 3, NULL), ST_OK);
    assert_int_equal(lstat(sandbox_path("link"), &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_content(sandbox_path("real"), "new");
    assert_int_equal(atomic_file_save(sandbox_folder, "x", 1, NULL), ST_IO);
    assert_int_equal(atomic_file_save("/dev/null", "x", 1, NULL), ST_IO);
    assert_int_equal(atomic_file_save(sandbox_path("no/such/folder"), "x", 1, NULL), ST_IO);
    assert_int_equal(atomic_file_save("", "x", 1, NULL), ST_IO);
    sandbox_files(1);
}

static void digests_are_those_of_sha256sum(void **state)
{
    (void)state;
    char d[DIGEST_HEX] = "x";
    assert_int_equal(digest_bytes(d, "abc", 3, NULL), ST_OK);
    assert_string_equal(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(digest_bytes(d, NULL, 0, NULL), ST_OK);
    assert_string_equal(d, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(atomic_file_save(sandbox_path("a"), "abc", 3, NULL), ST_OK);
    assert_int_equal(digest_file(d, sandbox_path("a"), NULL), ST_OK);
    assert_string_equal(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    strcpy(d, "untouched");
    assert_int_equal(digest_file(d, sandbox_path("missing"), NULL), ST_IO);
    assert_string_equal(d, "untouched");
    sandbox_files(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_appears_whole_and_nothing_beside_it),
        cmocka_unit_test(an_abandoned_file_leaves_the_old_one_and_no_trace),
        cmocka_unit_test(a_killed_writer_leaves_the_old_file),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_the_old_file),
        cmocka_unit_test(a_link_stays_a_link_and_odd_targets_are_refused),
        cmocka_unit_test(digests_are_those_of_sha256sum),
    };
    return cmocka_run_group_tests(tests, sandbox_enter, sandbox_leave);
}
