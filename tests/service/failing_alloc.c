/* failing_alloc.c - preloaded: makes one allocation of the process fail, the n-th from the moment
 * at which a test sets n.
 *
 * $FAILING_ALLOC names a file of one uint64 that is shared with the test: 0: none fails; n: the
 * n-th from now, and then 0 again. Allocations of the C library, the loader, OpenMP's team, OpenSSL
 * and the CUDA runtime inside our plugin are left alone: none of them can report a failure. Those
 * of $FAILING_ALLOC_SPARES are left alone too: without memory the parser of jansson 2.14 drops
 * bytes and then ends the process. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic uint64_t *left;

__attribute__((constructor)) static void open_counter(void)
{
    const char *path = getenv("FAILING_ALLOC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *p = mmap(NULL, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (p != MAP_FAILED) left = p;
}

static bool is_spared(const void *caller)
{
    static const char *const spared[] = { "libc.so",    "libgomp",   "ld-linux",
                                          "libpthread", "libcrypto", "libdavid_cuda" };
    Dl_info info;
    if (!dladdr(caller, &info) || !info.dli_fname) return true;
    const char *slash = strrchr(info.dli_fname, '/'), *name = slash ? slash + 1 : info.dli_fname;
    for (size_t i = 0; i < sizeof spared / sizeof *spared; i++)
        if (strncmp(name, spared[i], strlen(spared[i])) == 0) return true;
    const char *more = getenv("FAILING_ALLOC_SPARES");
    return more && strncmp(name, more, strlen(more)) == 0;
}

static bool fails(const void *caller)
{
    uint64_t n = left ? atomic_load(left) : 0;
    if (n == 0 || is_spared(caller)) return false;
    while (n && !atomic_compare_exchange_weak(left, &n, n - 1))
        continue;
    if (n == 1) errno = ENOMEM;
    return n == 1;
}

/* The allocator of the C library, by the names that it keeps for preloaded ones. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    if (fails(__builtin_return_address(0))) return ENOMEM;
    void *p = __libc_memalign(alignment, bytes);
    if (p) *out = p;
    return p ? 0 : ENOMEM;
}
