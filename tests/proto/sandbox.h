/* sandbox.h - cmocka and a temporary folder for the tests of files; the folder is removed with its
 * files. */
#ifndef DAVID_TESTS_PROTO_SANDBOX_H
#define DAVID_TESTS_PROTO_SANDBOX_H

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char sandbox_folder[64];

static inline int sandbox_enter(void **state)
{
    (void)state;
    strcpy(sandbox_folder, "/tmp/david-test.XXXXXX");
    return mkdtemp(sandbox_folder) ? 0 : -1;
}

/* Counts the files in the folder; removes them where `clear`. */
static inline size_t sandbox_files(int clear)
{
    size_t n = 0;
    DIR *folder = opendir(sandbox_folder);
    assert_non_null(folder);
    for (struct dirent *e; (e = readdir(folder));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        n++;
        if (clear) unlinkat(dirfd(folder), e->d_name, 0);
    }
    closedir(folder);
    return n;
}

static inline int sandbox_leave(void **state)
{
    (void)state;
    sandbox_files(1);
    return rmdir(sandbox_folder);
}

static inline const char *sandbox_path(const char *name)
{
    static char path[2][128];
    static int turn;
    turn = !turn;
    (void)snprintf(path[turn], sizeof path[0], "%s/%s", sandbox_folder, name);
    return path[turn];
}

#endif
