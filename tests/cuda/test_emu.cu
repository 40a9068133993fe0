/* The emulation itself: it runs correct kernels correctly in every order, and exposes errors in
 * wrong ones. What ends the process is tried in a child; a wrong number must appear in at least one
 * of the seven orders. */
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#include "engine/cuda/kernels/device.cuh"
#include "tests/cuda/emu/emu.h"

static const uint64_t orders[] = { EMU_ASCENDING, EMU_DESCENDING, 3, 5, 8, 13, 21 };
enum { ORDERS = sizeof orders / sizeof *orders, THREADS = 128 };

/* ---- kernels, correct and wrong ---- */

/* Every thread reads what its neighbour in another warp wrote. */
template <bool HAS_BARRIER> __global__ void rotate(const int *in, int *out)
{
    struct box {
        int of[THREADS];
    };
    SHARED(box, shared);
    unsigned i = blockIdx.x * THREADS + threadIdx.x;
    shared.of[threadIdx.x] = in[i];
    if (HAS_BARRIER) __syncthreads();
    out[i] = shared.of[(threadIdx.x + 33) % THREADS];
}

/* Uses the same shared memory twice without a barrier in between. */
template <bool HAS_BARRIER> __global__ void block_sums(const float *in, float *out)
{
    struct box {
        float of[THREADS / 32];
    };
    SHARED(box, shared);
    for (int k = 0; k < 2; k++) {
        float v = warp_sum(in[threadIdx.x] * (float)(k + 1));
        if (threadIdx.x % 32 == 0) shared.of[threadIdx.x / 32] = v;
        __syncthreads();
        float total = 0;
        for (int w = 0; w < THREADS / 32; w++)
            total += shared.of[w];
        out[k * THREADS + threadIdx.x] = total;
        if (HAS_BARRIER) __syncthreads();
    }
}

/* Lanes of one warp exchange a value through shared memory. */
template <bool HAS_BARRIER> __global__ void within_a_warp(int *out)
{
    struct box {
        int of[32];
    };
    SHARED(box, shared);
    shared.of[threadIdx.x] = (int)threadIdx.x;
    if (HAS_BARRIER) __syncwarp();
    out[threadIdx.x] = shared.of[threadIdx.x ^ 1];
}

__global__ void divergent_barrier(int *out)
{
    if (threadIdx.x < 64)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void barrier_after_return(int *out)
{
    if (threadIdx.x >= 64) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void shuffle_from_nobody(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(0xffffu, (int)threadIdx.x, 16 + (int)threadIdx.x);
}

__global__ void shuffle_half_there(int *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
}

__global__ void uninitialised(float *out)
{
    struct box {
        float of[THREADS];
    };
    SHARED(box, shared);
    if (threadIdx.x != 5) shared.of[threadIdx.x] = 1;
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = shared.of[threadIdx.x];
}

__global__ void misaligned(const float *in, float *out)
{
    DEVICE_TOUCH(in + 1, 16, false);
    out[0] = in[1];
}

__global__ void sums_through_atomics(unsigned *out)
{
    atomicAdd(out, threadIdx.x + blockIdx.x);
}

__global__ void votes(int *out)
{
    int some = __syncthreads_count((int)threadIdx.x < 40), none = __syncthreads_or(0),
        all = __syncthreads_and(1);
    out[threadIdx.x] = some * 100 + none * 10 + all;
}

struct large_box {
    int of[10240];
};

/* 40 KiB, plus the launch's dynamic shared memory. */
__global__ void both_shared(int *out)
{
    SHARED(large_box, shared);
    DYNAMIC_SHARED(int, more);
    if (threadIdx.x > 0) return;
    shared.of[0] = more[0] = 1;
    out[0] = shared.of[0] + more[0];
}

__global__ void dynamic_shared(int *out, unsigned count)
{
    DYNAMIC_SHARED(int, shared);
    for (unsigned i = threadIdx.x; i < count; i += THREADS)
        shared[i] = (int)i;
    __syncthreads();
    if (threadIdx.x == 0) out[0] = shared[count - 1];
}

__global__ void strided_reads(const float *in, float *out, unsigned stride)
{
    DEVICE_TOUCH(in + threadIdx.x * stride, 4, false);
    DEVICE_TOUCH(out + threadIdx.x, 4, true);
    out[threadIdx.x] = in[threadIdx.x * stride];
}

/* ---- runs of the kernels ---- */

static bool rotates(bool has_barrier)
{
    std::vector<int> in(4 * THREADS), out(4 * THREADS);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = (int)(i * i % 1009);
    assert_int_equal(launch(has_barrier ? rotate<true> : rotate<false>, dim3(4), THREADS, 0,
                            nullptr, in.data(), out.data()),
                     0);
    for (size_t i = 0; i < out.size(); i++)
        if (out[i] != in[i / THREADS * THREADS + (i % THREADS + 33) % THREADS]) return false;
    return true;
}

static bool sums(bool has_barrier)
{
    std::vector<float> in(THREADS), out(2 * THREADS);
    float total = 0;
    for (int i = 0; i < THREADS; i++)
        total += in[(size_t)i] = (float)i;
    assert_int_equal(launch(has_barrier ? block_sums<true> : block_sums<false>, dim3(1), THREADS, 0,
                            nullptr, in.data(), out.data()),
                     0);
    for (int i = 0; i < 2 * THREADS; i++)
        if (out[(size_t)i] != total * (float)(i / THREADS + 1)) return false;
    return true;
}

static bool passes_within_a_warp(bool has_barrier)
{
    std::vector<int> out(32);
    assert_int_equal(launch(has_barrier ? within_a_warp<true> : within_a_warp<false>, dim3(1), 32,
                            0, nullptr, out.data()),
                     0);
    for (int i = 0; i < 32; i++)
        if (out[(size_t)i] != (i ^ 1)) return false;
    return true;
}

static void right_kernels_are_right_and_wrong_ones_show_in_some_order(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool (*run)(bool);
    } cases[] = { { "rotate", rotates },
                  { "block_sums", sums },
                  { "within_a_warp", passes_within_a_warp } };
    for (const auto &c : cases) {
        int shown = 0;
        for (uint64_t order : orders) {
            emu_set_order(order);
            if (!c.run(true)) fail_msg("%s is wrong in order %d", c.name, (int)order);
            shown += !c.run(false);
        }
        printf("%s without its barrier: wrong in %d of %d orders\n", c.name, shown, (int)ORDERS);
        if (!shown) fail_msg("%s without its barrier is right in every order", c.name);
    }
}

static void what_was_never_written_is_no_number(void **state)
{
    (void)state;
    std::vector<float> out(3 * THREADS);
    assert_int_equal(launch(uninitialised, dim3(3), THREADS, 0, nullptr, out.data()), 0);
    for (size_t i = 0; i < out.size(); i++)
        assert_true(i % THREADS == 5 ? out[i] != out[i] : out[i] == 1);
}

/* True if `run` ends its process with this text. */
static bool dies(void (*run)(), const char *text)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], 2);
        (void)close(ends[0]);
        (void)close(ends[1]);
        run();
        _exit(0);
    }
    (void)close(ends[1]);
    std::vector<char> said(1 << 16);
    size_t length = 0;
    for (ssize_t n; (n = read(ends[0], said.data() + length, said.size() - 1 - length)) > 0;)
        length += (size_t)n;
    (void)close(ends[0]);
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    if (strstr(said.data(), text) && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) return true;
    print_message("wanted \"%s\", got status %d: %.500s\n", text, status, said.data());
    return false;
}

static int ints[4 * THREADS];
static float floats[4 * THREADS];

static void what_cuda_leaves_undefined_ends_the_process(void **state)
{
    (void)state;
    for (uint64_t order : orders) {
        emu_set_order(order);
        assert_true(
            dies([] { (void)launch(divergent_barrier, dim3(1), THREADS, 0, nullptr, ints); },
                 "__syncthreads: thread"));
        assert_true(
            dies([] { (void)launch(barrier_after_return, dim3(1), THREADS, 0, nullptr, ints); },
                 "64 threads have returned"));
        assert_true(dies([] { (void)launch(shuffle_from_nobody, dim3(1), 32, 0, nullptr, ints); },
                         "not in mask"));
        assert_true(dies([] { (void)launch(shuffle_half_there, dim3(1), 32, 0, nullptr, ints); },
                         "of the mask"));
    }
    assert_true(dies([] { (void)launch(misaligned, dim3(1), 1, 0, nullptr, floats, floats); },
                     "not aligned"));
    assert_true(dies([] { (void)launch(dynamic_shared, dim3(1), THREADS, 0, nullptr, ints, 1u); },
                     "without dynamic"));
}

/* The 48 KiB without a request cover both kinds together; launch() makes the request. */
static void shared_memory_of_both_kinds_is_counted_together(void **state)
{
    (void)state;
    int out = 0;
    cudaLaunchConfig_t c = {};
    c.gridDim = c.blockDim = dim3(1);
    c.dynamicSmemBytes = 8192;
    assert_int_equal(cudaLaunchKernelEx(&c, both_shared, &out), cudaSuccess);
    assert_int_equal(out, 2);
    assert_true(dies(
        [] {
            static int never;
            cudaLaunchConfig_t d = {};
            d.gridDim = d.blockDim = dim3(1);
            d.dynamicSmemBytes = 8192 + 16;
            (void)cudaLaunchKernelEx(&d, both_shared, &never);
        },
        "static and dynamic"));
    assert_int_equal(launch(both_shared, dim3(1), 1, 8192 + 16, nullptr, &out), cudaSuccess);
    assert_true(dies(
        [] {
            static int never;
            (void)launch(both_shared, dim3(1), 1, 60 * 1024, nullptr, &never);
        },
        "static and dynamic"));
}

static void launches_beyond_the_limits_are_refused(void **state)
{
    (void)state;
    int out = 0;
    assert_int_equal(launch(dynamic_shared, dim3(1), THREADS, 40000, nullptr, &out, 10000u),
                     cudaSuccess);
    assert_int_equal(out, 9999);
    assert_int_equal(launch(dynamic_shared, dim3(1), THREADS, 88000, nullptr, &out, 22000u),
                     cudaSuccess);
    assert_int_equal(out, 21999);
    assert_int_not_equal(launch(dynamic_shared, dim3(1), THREADS, 100000, nullptr, &out, 1u),
                         cudaSuccess);
    assert_int_not_equal(launch(votes, dim3(1), 1025, 0, nullptr, &out), cudaSuccess);
    assert_int_not_equal(launch(votes, dim3(1, 65536), 32, 0, nullptr, &out), cudaSuccess);
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(1);
    c.blockDim = dim3(THREADS);
    c.dynamicSmemBytes = 48 * 1024 + 16;
    assert_int_not_equal(cudaLaunchKernelEx(&c, sums_through_atomics, (unsigned *)nullptr),
                         cudaSuccess);
}

static void blocks_atomics_and_votes_add_up(void **state)
{
    (void)state;
    for (uint64_t order : orders) {
        emu_set_order(order);
        unsigned total = 0;
        assert_int_equal(launch(sums_through_atomics, dim3(7, 3, 2), 50, 0, nullptr, &total), 0);
        assert_int_equal(total, 6 * (7 * 49 * 50 / 2 + 50 * 21));
        assert_int_equal(launch(votes, dim3(1), THREADS, 0, nullptr, ints), 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(ints[i], 4001);
    }
}

static void traffic_counts_sectors_as_a_warp_touches_them(void **state)
{
    (void)state;
    alignas(128) static float in[32 * 8], out[32];
    struct emu_traffic t;
    for (unsigned stride = 1; stride <= 8; stride *= 2) {
        emu_traffic_begin();
        assert_int_equal(launch(strided_reads, dim3(1), 32, 0, nullptr, in, out, stride), 0);
        emu_traffic_end(&t);
        assert_int_equal(t.read_bytes, 128);
        assert_int_equal(t.read_sectors, 4 * stride);
        assert_int_equal(t.written_sectors, 4);
    }
}

static std::vector<struct emu_job *> kept;

static int keep(void *stream, struct emu_job *job)
{
    if (stream == &kept) return cudaErrorLaunchFailure;
    kept.push_back(job);
    return cudaSuccess;
}

static void launches_can_be_kept_and_run_again(void **state)
{
    (void)state;
    unsigned total = 0;
    emu_set_launch_hook(keep);
    assert_int_equal(launch(sums_through_atomics, dim3(1), 3, 0, nullptr, &total), cudaSuccess);
    assert_int_equal(launch(sums_through_atomics, dim3(1), 3, 0, &kept, &total),
                     cudaErrorLaunchFailure);
    emu_set_launch_hook(nullptr);
    assert_int_equal(kept.size(), 1);
    assert_int_equal(total, 0);
    emu_run(kept[0]);
    emu_run(kept[0]);
    emu_drop(kept[0]);
    kept.clear();
    assert_int_equal(total, 6);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_are_right_and_wrong_ones_show_in_some_order),
        cmocka_unit_test(what_was_never_written_is_no_number),
        cmocka_unit_test(what_cuda_leaves_undefined_ends_the_process),
        cmocka_unit_test(shared_memory_of_both_kinds_is_counted_together),
        cmocka_unit_test(launches_beyond_the_limits_are_refused),
        cmocka_unit_test(blocks_atomics_and_votes_add_up),
        cmocka_unit_test(traffic_counts_sectors_as_a_warp_touches_them),
        cmocka_unit_test(launches_can_be_kept_and_run_again),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
