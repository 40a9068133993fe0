#include "proto/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

struct atomic_file {
    int fd, dir;  /* -1: not open */
    char *target; /* name inside dir */
    char *temp;   /* name inside dir; NULL: not created, or already renamed */
    char *path;   /* as the caller gave it, for messages */
};

static enum status io_error(const struct atomic_file *f, const char *what, int code,
                            struct error *err)
{
    return error_set(err, ST_IO, "%s: cannot %s: %s", f->path, what, strerror(code));
}

void atomic_file_abort(struct atomic_file *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    if (f->temp && f->dir >= 0) unlinkat(f->dir, f->temp, 0);
    if (f->dir >= 0) close(f->dir);
    free(f->target);
    free(f->temp);
    free(f->path);
    free(f);
}

/* Opens the folder of `path` and keeps the last component as the target's name. */
static enum status open_folder(struct atomic_file *f, const char *path, struct error *err)
{
    char *folder = NULL;
    enum status s = ST_OK;
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (*name == '\0') return error_set(err, ST_IO, "\"%s\" names no file", path);
    folder = !slash          ? strdup(".")
             : slash == path ? strdup("/")
                             : strndup(path, (size_t)(slash - path));
    f->target = strdup(name);
    if (!folder || !f->target) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to write %s", path);
        goto done;
    }
    f->dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir < 0) s = io_error(f, "open its folder", errno, err);
done:
    free(folder);
    return s;
}

static enum status create_temp(struct atomic_file *f, struct error *err)
{
    for (int attempt = 0; attempt < 16; attempt++) {
        uint64_t random = 0;
        char *name = NULL;
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
            return io_error(f, "draw a temporary name", errno, err);
        /* A target of the longest legal name must still have a legal temporary name: hence the
         * cut. */
        if (asprintf(&name, ".%.200s.%016" PRIx64 ".tmp", f->target, random) < 0)
            return error_set(err, ST_NO_MEMORY_NOW, "no memory to write %s", f->path);
        f->fd = openat(f->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0) {
            f->temp = name;
            return ST_OK;
        }
        int code = errno;
        free(name);
        if (code != EEXIST) return io_error(f, "create a temporary file beside it", code, err);
    }
    return io_error(f, "create a temporary file beside it", EEXIST, err);
}

enum status atomic_file_open(struct atomic_file **out, const char *path, struct error *err)
{
    char *resolved = NULL;
    struct stat info;
    enum status s;
    struct atomic_file *f = calloc(1, sizeof *f);
    if (!f) return error_set(err, ST_NO_MEMORY_NOW, "no memory to write %s", path);
    f->fd = f->dir = -1;
    f->path = strdup(path);
    if (!f->path) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to write %s", path);
        goto done;
    }
    if (stat(path, &info) == 0) {
        if (!S_ISREG(info.st_mode)) {
            s = error_set(err, ST_IO, "%s is there and is not a regular file", path);
            goto done;
        }
        resolved = realpath(path, NULL); /* follows a symbolic link: its target is replaced */
    }
    s = open_folder(f, resolved ? resolved : path, err);
    if (s) goto done;
    s = create_temp(f, err);
    if (s) goto done;
    *out = f;
    f = NULL;
done:
    free(resolved);
    atomic_file_abort(f);
    return s;
}

enum status atomic_file_write(struct atomic_file *f, const void *bytes, size_t len,
                              struct error *err)
{
    const char *p = bytes;
    while (len > 0) {
        /* Linux writes at most 2 GiB a call. */
        ssize_t n = write(f->fd, p, len < ((size_t)1 << 30) ? len : (size_t)1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error(f, "write it", errno, err);
        p += n;
        len -= (size_t)n;
    }
    return ST_OK;
}

enum status atomic_file_commit(struct atomic_file *f, struct error *err)
{
    enum status s = ST_OK;
    if (fsync(f->fd) != 0) {
        s = io_error(f, "fsync it", errno, err);
        goto done;
    }
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) != 0) {
        s = io_error(f, "close it", errno, err);
        goto done;
    }
    if (renameat(f->dir, f->temp, f->dir, f->target) != 0) {
        s = io_error(f, "rename the finished file", errno, err);
        goto done;
    }
    free(f->temp);
    f->temp = NULL;
    /* Some file systems cannot fsync a directory (EINVAL); there is nothing to flush then. */
    if (fsync(f->dir) != 0 && errno != EINVAL) s = io_error(f, "fsync its folder", errno, err);
done:
    atomic_file_abort(f);
    return s;
}

enum status atomic_file_save(const char *path, const void *bytes, size_t len, struct error *err)
{
    struct atomic_file *f = NULL;
    enum status s = atomic_file_open(&f, path, err);
    if (s) return s;
    s = atomic_file_write(f, bytes, len, err);
    if (s) {
        atomic_file_abort(f);
        return s;
    }
    return atomic_file_commit(f, err);
}
