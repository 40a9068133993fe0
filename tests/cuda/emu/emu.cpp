/* The emulation: blocks one after the other, each thread of a block as a fiber; a warp runs until
 * it waits. */
#include "tests/cuda/emu/emu.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda/emu/device.h"
#include "tests/cuda/emu/fiber.h"

struct emu_job {
    std::function<void()> body;
    dim3 grid, block;
    size_t shared;
    bool is_raised; /* the kernel may use more than 48 KiB */
};

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu
{

enum { WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP };
/* SHARED_LIMIT: of the smallest card for which the kernels are built (sm_89, sm_120). */
enum { SHARED_STATIC_LIMIT = 48 * 1024, SHARED_LIMIT = 99 * 1024, GRID_YZ_LIMIT = 65535 };
static const uint32_t GRID_X_LIMIT = 0x7fffffff;

enum state { RUNS, AT_BARRIER, AT_WARP, DONE };

struct copy {
    void *to;
    const void *from;
    size_t bytes, batch;
};

struct thread {
    fiber stack;
    state now;
    uint3 index;
    site where;       /* the place where it waits */
    const char *what; /* at AT_WARP: the kind of exchange; at AT_BARRIER: NULL */
    unsigned mask;
    vote kind;
    int value;
    uint64_t word;
    std::vector<copy> copies; /* not yet complete */
    size_t batch;             /* of the next copy */
};

struct variable {
    const void *tag;
    void *memory;
    size_t bytes;
};

/* The state of the running block. Guarded by `turn`. */
static std::mutex turn;
static thread threads[MAX_THREADS];
static uint64_t words[MAX_WARPS][WARP]; /* of each warp's last exchange */
static int made, count,
    /* Threads that have a stack; threads of this block; the running one, -1: none. */
    running;
static int vote_result;
static fiber scheduler;
static const std::function<void()> *kernel_body;
static std::vector<variable> variables;
static void *dynamic;
static size_t dynamic_bytes;
static bool is_raised; /* the kernel's shared memory limit was raised */

static uint64_t order, random_state;
static emu_launch_hook hook;
bool is_rough = true;

void fault(site where, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "emulated kernel: %s:%d: ", where.file ? where.file : "?", where.line);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, " (block %u,%u,%u", blockIdx.x, blockIdx.y, blockIdx.z);
    if (running >= 0) fprintf(stderr, ", thread %d", running);
    fprintf(stderr, " of %d; order %llu)\n", count, (unsigned long long)order);
    abort();
}

static uint64_t draw()
{
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool is_seeded()
{
    return order != EMU_ASCENDING && order != EMU_DESCENDING;
}

static bool same(site a, site b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

/* ---- called by threads ---- */

static void leave(state why)
{
    thread &t = threads[running];
    t.now = why;
    fiber_to(&t.stack, &scheduler);
}

/* The barriers met so far, without the waits for copies. */
static std::vector<site> barriers;
static const char *const skipped = getenv("EMU_SKIP_BARRIER");

static std::string text_of(site where)
{
    return std::string(where.file) + ":" + std::to_string(where.line);
}

static struct lister {
    ~lister()
    {
        const char *path = getenv("EMU_LIST_BARRIERS");
        FILE *f = path ? fopen(path, "w") : nullptr;
        for (const site &s : barriers)
            if (f) fprintf(f, "%s\n", text_of(s).c_str());
        if (f) fclose(f);
    }
} list_at_exit;

static bool is_skipped(site where)
{
    bool known =
        std::any_of(barriers.begin(), barriers.end(), [&](site s) { return same(s, where); });
    if (!known) barriers.push_back(where);
    return skipped && text_of(where) == skipped;
}

int block_barrier(site where, vote kind, int value)
{
    if (kind == VOTE_NONE && is_skipped(where)) return 0;
    thread &t = threads[running];
    t.where = where;
    t.what = nullptr;
    t.kind = kind;
    t.value = value;
    leave(AT_BARRIER);
    return vote_result;
}

int lane()
{
    return running % WARP;
}

const uint64_t *warp_exchange(site where, const char *what, unsigned mask, uint64_t word)
{
    if (strcmp(what, "__syncwarp") == 0 && is_skipped(where)) return nullptr;
    thread &t = threads[running];
    t.where = where;
    t.what = what;
    t.mask = mask;
    t.word = word;
    int warp = running / WARP;
    leave(AT_WARP);
    return words[warp];
}

void *shared_variable(const void *tag, size_t bytes, size_t alignment)
{
    for (const variable &v : variables)
        if (v.tag == tag) return v.memory;
    variable v = { tag, nullptr, bytes };
    size_t total = bytes;
    for (const variable &other : variables)
        total += other.bytes;
    if (total > SHARED_STATIC_LIMIT)
        fault({}, "%zu bytes of static shared memory, more than %d", total, SHARED_STATIC_LIMIT);
    const size_t all = total + dynamic_bytes,
                 limit = is_raised ? SHARED_LIMIT : SHARED_STATIC_LIMIT;
    if (all > limit)
        fault({}, "%zu bytes of static and dynamic shared memory, more than %zu", all, limit);
    if (posix_memalign(&v.memory, std::max(alignment, sizeof(void *)), bytes)) abort();
    memset(v.memory, 0xff, bytes);
    variables.push_back(v);
    return v.memory;
}

void *shared_dynamic()
{
    if (!dynamic) fault({}, "the kernel was launched without dynamic shared memory");
    return dynamic;
}

void copy_later(void *to, const void *from, size_t bytes)
{
    if (bytes != 4 && bytes != 8 && bytes != 16)
        fault({}, "an asynchronous copy of %zu bytes", bytes);
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes)
        fault({}, "an asynchronous copy of %zu bytes from %p to %p: not aligned", bytes, from, to);
    thread &t = threads[running];
    t.copies.push_back({ to, from, bytes, t.batch });
}

void copies_commit()
{
    threads[running].batch++;
}

void copies_wait(site where, size_t left)
{
    if (is_skipped(where)) left = SIZE_MAX / 2; /* no copy completes */
    thread &t = threads[running];
    size_t keep = 0;
    for (const copy &c : t.copies)
        if (c.batch + left < t.batch)
            memcpy(c.to, c.from, c.bytes);
        else
            t.copies[keep++] = c;
    t.copies.resize(keep);
}

/* ---- warps ---- */

static int lanes_of(int warp)
{
    return std::min<int>(WARP, count - warp * WARP);
}

static int place_in_order(int i, int n, uint64_t salt)
{
    if (order == EMU_ASCENDING) return i;
    if (order == EMU_DESCENDING) return n - 1 - i;
    uint64_t step = salt % (uint64_t)n | 1; /* a step that is coprime to n visits all */
    while (std::__gcd<uint64_t>(step, (uint64_t)n) != 1)
        step += 2;
    return (int)((salt / 64 + (uint64_t)i * step) % (uint64_t)n);
}

/* Releases lanes that wait for each other and are complete. True: some were released. */
static bool release(int warp)
{
    thread *lanes = threads + warp * WARP;
    const int n = lanes_of(warp);
    unsigned here = 0;
    bool woke = false;
    for (int i = 0; i < n; i++)
        if (lanes[i].now == AT_WARP) here |= 1u << i;
    for (int i = 0; i < n; i++) {
        thread &t = lanes[i];
        if (t.now != AT_WARP) continue;
        running = warp * WARP + i;
        if (!(t.mask >> i & 1))
            fault(t.where, "%s: the lane is not in its own mask %08x", t.what, t.mask);
        if (n < WARP && t.mask >> n)
            fault(t.where, "%s: mask %08x names lanes that do not exist", t.what, t.mask);
        for (int k = 0; k < n; k++)
            if (t.mask >> k & 1 && lanes[k].now == DONE)
                fault(t.where, "%s: lane %d of the mask has returned", t.what, k);
        if ((t.mask & here) != t.mask) continue;
        for (int k = 0; k < n; k++) {
            if (!(t.mask >> k & 1)) continue;
            const thread &other = lanes[k];
            if (other.mask != t.mask || strcmp(other.what, t.what) != 0 ||
                !same(other.where, t.where))
                fault(t.where, "%s with mask %08x: lane %d is at %s:%d, %s with mask %08x", t.what,
                      t.mask, k, other.where.file, other.where.line, other.what, other.mask);
        }
        unsigned mask = t.mask;
        for (int k = 0; k < n; k++) {
            if (!(mask >> k & 1)) continue;
            words[warp][k] = lanes[k].word;
            lanes[k].now = RUNS;
            here &= ~(1u << k);
        }
        woke = true;
    }
    running = -1;
    return woke;
}

static void go(int i)
{
    running = i;
    threadIdx = threads[i].index;
    fiber_to(&scheduler, &threads[i].stack);
    running = -1;
}

/* Runs each lane that can run until it waits; false: the warp as a whole has to wait. */
static bool run_warp(int warp)
{
    const int n = lanes_of(warp);
    const uint64_t salt = is_seeded() ? draw() : 0;
    for (int i = 0; i < n; i++) {
        int lane = place_in_order(i, n, salt);
        if (threads[warp * WARP + lane].now == RUNS) go(warp * WARP + lane);
    }
    return release(warp);
}

/* ---- a block ---- */

static void thread_main(void *argument)
{
    (void)argument;
    for (;;) { /* the stack is used by the thread of this number in every block */
        (*kernel_body)();
        if (!threads[running].copies.empty()) fault({}, "returns while copies are under way");
        leave(DONE);
    }
}

/* All threads wait: a barrier that all have reached releases them; anything else is a fault. False:
 * the block is done. */
static bool pass_barrier()
{
    int done = 0, first = -1;
    for (int i = 0; i < count; i++) {
        done += threads[i].now == DONE;
        if (threads[i].now == AT_WARP) {
            running = i;
            fault(threads[i].where, "%s with mask %08x: not every lane of the mask comes here",
                  threads[i].what, threads[i].mask);
        }
        if (threads[i].now == AT_BARRIER && first < 0) first = i;
    }
    if (done == count) return false;
    const thread &one = threads[first];
    running = first;
    if (done > 0) fault(one.where, "__syncthreads: %d threads have returned", done);
    int ones = 0;
    for (int i = 0; i < count; i++) {
        const thread &t = threads[i];
        if (!same(t.where, one.where) || t.kind != one.kind)
            fault(one.where, "__syncthreads: thread %d is at %s:%d", i, t.where.file, t.where.line);
        ones += t.value != 0;
    }
    vote_result = one.kind == VOTE_COUNT ? ones : one.kind == VOTE_AND ? ones == count : ones > 0;
    for (int i = 0; i < count; i++)
        threads[i].now = RUNS;
    running = -1;
    return true;
}

/* Usually the same warp continues until it meets a barrier: what it then does too early becomes
 * visible to the others. */
static bool changes_warp()
{
    return is_seeded() && draw() % 8 == 0;
}

static int pick_warp(const bool *ready, int n)
{
    int pick = order == EMU_ASCENDING    ? 0
               : order == EMU_DESCENDING ? n - 1
                                         : (int)(draw() % (uint64_t)n);
    for (int warp = 0;; warp++)
        if (ready[warp] && pick-- == 0) return warp;
}

static void run_block()
{
    const int warps = (count + WARP - 1) / WARP;
    bool ready[MAX_WARPS];
    for (const variable &v : variables)
        memset(v.memory, 0xff, v.bytes); /* no block may read what the previous one left there */
    if (dynamic) memset(dynamic, 0xff, dynamic_bytes);
    for (int i = 0; i < count; i++) {
        thread &t = threads[i];
        t.now = RUNS;
        t.index.x = (unsigned)i % blockDim.x;
        t.index.y = (unsigned)i / blockDim.x % blockDim.y;
        t.index.z = (unsigned)i / (blockDim.x * blockDim.y);
    }
    do {
        std::fill(ready, ready + warps, true);
        int warp = -1;
        for (int left = warps; left > 0;) {
            if (warp < 0 || !ready[warp] || changes_warp()) warp = pick_warp(ready, left);
            if (run_warp(warp)) continue;
            ready[warp] = false;
            left--;
        }
    } while (pass_barrier());
}

/* ---- a launch ---- */

/* The dynamic shared memory of a kernel, where its limit was raised. */
static std::map<const void *, size_t> allowed;

cudaError_t allow_shared(const void *kernel, size_t bytes)
{
    std::lock_guard<std::mutex> lock(turn);
    if (bytes > SHARED_LIMIT) return cudaErrorInvalidValue;
    allowed[kernel] = bytes;
    return cudaSuccess;
}

static bool can_launch(const cudaLaunchConfig_t *c, const void *kernel, bool *may_more)
{
    std::lock_guard<std::mutex> lock(turn);
    const dim3 g = c->gridDim, b = c->blockDim;
    auto raised = allowed.find(kernel);
    size_t limit = raised == allowed.end() ? (size_t)SHARED_STATIC_LIMIT : raised->second;
    *may_more = raised != allowed.end();
    return g.x && g.y && g.z && b.x && b.y && b.z && g.x <= GRID_X_LIMIT && g.y <= GRID_YZ_LIMIT &&
           g.z <= GRID_YZ_LIMIT && (uint64_t)b.x * b.y * b.z <= MAX_THREADS && b.z <= 64 &&
           c->dynamicSmemBytes <= limit;
}

cudaError_t launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body)
{
    bool may_more = false;
    if (!can_launch(config, kernel, &may_more)) return cudaErrorInvalidConfiguration;
    emu_job *job = new emu_job{ std::move(body), config->gridDim, config->blockDim,
                                config->dynamicSmemBytes, may_more };
    if (hook) {
        cudaError_t e = (cudaError_t)hook(config->stream, job);
        if (e) emu_drop(job);
        return e;
    }
    emu_run(job);
    emu_drop(job);
    return cudaSuccess;
}

/* ---- traffic ---- */

/* The k-th access of a lane at one place of the program is paired with the k-th access of its
 * neighbours. */
struct access {
    const void *place;
    int warp;
    uint32_t turn;
    bool is_write;
    uint64_t first_sector, last_sector;
};
static bool counts_traffic;
static emu_traffic traffic;
static std::vector<access> accesses;
static std::map<std::pair<const void *, int>, uint32_t> turns;

__attribute__((noinline)) void touch(const void *address, size_t bytes, bool is_write)
{
    if ((uintptr_t)address % bytes)
        fault({}, "%s of %zu bytes at %p, which is not aligned to that",
              is_write ? "store" : "load", bytes, address);
    if (!counts_traffic) return;
    const void *place = __builtin_return_address(0);
    uint64_t at = (uintptr_t)address;
    accesses.push_back({ place, running / WARP, turns[{ place, running }]++, is_write, at / 32,
                         (at + bytes - 1) / 32 });
    (is_write ? traffic.written_bytes : traffic.read_bytes) += bytes;
}

static void count_sectors()
{
    std::map<std::pair<const void *, std::pair<int, uint32_t>>, std::vector<uint64_t>> by_warp[2];
    for (const access &a : accesses) {
        auto &sectors = by_warp[a.is_write][{ a.place, { a.warp, a.turn } }];
        for (uint64_t s = a.first_sector; s <= a.last_sector; s++)
            sectors.push_back(s);
    }
    for (int w = 0; w < 2; w++)
        for (auto &entry : by_warp[w]) {
            std::vector<uint64_t> &s = entry.second;
            std::sort(s.begin(), s.end());
            (w ? traffic.written_sectors : traffic.read_sectors) +=
                (uint64_t)(std::unique(s.begin(), s.end()) - s.begin());
        }
    accesses.clear();
    turns.clear();
}

} // namespace emu

/* ---- emu.h ---- */

using namespace emu;

void emu_run(emu_job *job)
{
    std::lock_guard<std::mutex> lock(turn);
    gridDim = job->grid;
    blockDim = job->block;
    count = (int)(blockDim.x * blockDim.y * blockDim.z);
    for (; made < count; made++)
        fiber_make(&threads[made].stack, thread_main, nullptr);
    fiber_here(&scheduler);
    kernel_body = &job->body;
    random_state = order;
    running = -1;
    dynamic_bytes = job->shared;
    is_raised = job->is_raised;
    dynamic = nullptr;
    if (job->shared && posix_memalign(&dynamic, 128, job->shared)) abort();

    const uint64_t blocks = (uint64_t)gridDim.x * gridDim.y * gridDim.z;
    const uint64_t salt = is_seeded() ? draw() : 0;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = blocks > 0x7fffffff ? i : (uint64_t)place_in_order((int)i, (int)blocks, salt);
        blockIdx.x = (unsigned)(b % gridDim.x);
        blockIdx.y = (unsigned)(b / gridDim.x % gridDim.y);
        blockIdx.z = (unsigned)(b / gridDim.x / gridDim.y);
        run_block();
        if (counts_traffic) count_sectors();
    }
    for (const variable &v : variables)
        free(v.memory);
    variables.clear();
    free(dynamic);
    fiber_free(&scheduler);
}

void emu_drop(emu_job *job)
{
    delete job;
}

void emu_set_order(uint64_t value)
{
    order = value;
}

void emu_set_rough(bool value)
{
    is_rough = value;
}

void emu_set_launch_hook(emu_launch_hook value)
{
    hook = value;
}

void emu_traffic_begin(void)
{
    traffic = {};
    counts_traffic = true;
}

void emu_traffic_end(struct emu_traffic *out)
{
    counts_traffic = false;
    *out = traffic;
}
