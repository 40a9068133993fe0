/* Memory of the fake device, and pinned memory of the host. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda/fake/internal.h"

static struct block *blocks;
static uint64_t next_birth = 1;
static int working; /* device memory is accessible */

struct block *fake_block_of(const void *p)
{
    for (struct block *b = blocks; b; b = b->next)
        if ((const char *)p >= b->data && (const char *)p < b->data + b->bytes) return b;
    return NULL;
}

static void protect(struct block *b, int how)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (mprotect(b->pages, b->mapped - page, how)) fake_die("mprotect of %zu bytes", b->mapped);
}

void fake_begin_work(void)
{
    if (working++ > 0) return;
    for (struct block *b = blocks; b; b = b->next)
        if (!b->is_pinned) protect(b, PROT_READ | PROT_WRITE);
}

void fake_end_work(void)
{
    if (--working > 0) return;
    for (struct block *b = blocks; b; b = b->next)
        if (!b->is_pinned) protect(b, PROT_NONE);
}

void fake_open(const void *p)
{
    struct block *b = working ? NULL : fake_block_of(p);
    if (b && !b->is_pinned) protect(b, PROT_READ | PROT_WRITE);
}

void fake_shut(const void *p)
{
    struct block *b = working ? NULL : fake_block_of(p);
    if (b && !b->is_pinned) protect(b, PROT_NONE);
}

static struct block *block_new(size_t bytes, bool is_pinned)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), align = 256;
    const size_t size = (bytes + align - 1) / align * align;
    struct block *b = calloc(1, sizeof *b);
    if (!b) fake_die("no memory");
    b->mapped = (size + page - 1) / page * page + page;
    b->pages = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->pages == MAP_FAILED) fake_die("no memory for %zu bytes of the device", bytes);
    b->data = b->pages + b->mapped - page - size;
    b->bytes = bytes;
    b->birth = next_birth++;
    b->is_pinned = is_pinned;
    b->device = fake_device();
    /* NaN in every dtype. Large blocks are not filled: that would use real memory. */
    memset(b->data, 0xff, size < ((size_t)64 << 20) ? size : 4096);
    if (mprotect(b->pages + b->mapped - page, page, PROT_NONE)) fake_die("mprotect of a page");
    if (!is_pinned && working == 0) protect(b, PROT_NONE);
    b->next = blocks;
    blocks = b;
    return b;
}

static bool block_free(void *p, bool is_pinned)
{
    for (struct block **at = &blocks; *at; at = &(*at)->next) {
        struct block *b = *at;
        if (b->data != p || b->is_pinned != is_pinned) continue;
        *at = b->next;
        if (!is_pinned) fake_now.allocated_bytes -= b->bytes;
        if (is_pinned) fake_now.pinned--;
        (void)munmap(b->pages, b->mapped);
        free(b);
        return true;
    }
    return false;
}

void fake_expect_device(const void *p, size_t bytes, const char *what)
{
    const struct block *b = fake_block_of(p); /* work is done under the lock */
    if (!b || b->is_pinned) fake_die("%s: %p is no device memory", what, p);
    if (b->device != fake.working)
        fake_die("%s: memory of device %d in work of device %d", what, b->device, fake.working);
    if (bytes > b->bytes - (size_t)((const char *)p - b->data))
        fake_die("%s: %zu bytes at %p, of which %zu are there", what, bytes, p,
                 b->bytes - (size_t)((const char *)p - b->data));
}

uint64_t fake_birth(const void *p)
{
    const struct block *b = fake_block_of(p);
    return b ? b->birth : 0;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    if (fake_any_recording()) return fake_leave(cudaErrorStreamCaptureUnsupported);
    fake_now.allocations++;
    if (fake.fail_allocation && --fake.fail_allocation == 0)
        return fake_leave(cudaErrorMemoryAllocation);
    if (fake_now.allocated_bytes + bytes > fake.memory_bytes)
        return fake_leave(cudaErrorMemoryAllocation);
    fake_now.allocated_bytes += bytes;
    *out = block_new(bytes, false)->data;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaFree(void *p)
{
    fake_enter();
    if (p && !block_free(p, false)) fake_die("cudaFree of %p, which is no device memory", p);
    return fake_leave(cudaSuccess);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    if (fake.fail_allocation && --fake.fail_allocation == 0)
        return fake_leave(cudaErrorMemoryAllocation);
    fake_now.pinned++;
    *out = block_new(bytes, true)->data;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaFreeHost(void *p)
{
    fake_enter();
    if (p && !block_free(p, true)) fake_die("cudaFreeHost of %p, which is not pinned", p);
    return fake_leave(cudaSuccess);
}
