/* The fake CUDA runtime: its lock, settings, faults and devices. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/fake/internal.h"

struct fake_counts fake_now;
struct fake_state fake = { .break_after = UINT64_MAX,
                           .memory_bytes = (uint64_t)16 << 30,
                           .devices = 1 };
/* Recursive: work may call the fake cuDNN. */
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static bool has_settings;
static _Thread_local int current;

int fake_device(void)
{
    return current;
}

/* One line per device: the number of replays of recorded graphs. */
static void tell(void)
{
    FILE *f = fopen(fake.tell_file, "we");
    if (!f) return;
    for (int i = 0; i < fake.devices && i < MAX_DEVICES; i++)
        (void)fprintf(f, "%d %llu\n", i, (unsigned long long)fake.replays[i]);
    (void)fclose(f);
}

void fake_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fputs("fake device: ", stderr);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    abort();
}

static void read_settings(void)
{
    if (has_settings) return;
    has_settings = true;
    const char *text = getenv("DAVID_FAKE_DEVICES");
    if (text) fake.devices = (int)strtol(text, NULL, 10);
    text = getenv("DAVID_FAKE_MEMORY");
    if (text) fake.memory_bytes = strtoull(text, NULL, 10);
    fake.break_file = getenv("DAVID_FAKE_BREAK_FILE");
    fake.tell_file = getenv("DAVID_FAKE_TELL_FILE");
    if (fake.tell_file) (void)atexit(tell);
}

void fake_enter(void)
{
    (void)pthread_mutex_lock(&lock);
    read_settings();
}

cudaError_t fake_leave(cudaError_t e)
{
    if (e == cudaSuccess && fake.sticky) e = fake.sticky;
    if (e != cudaSuccess) fake.last = e;
    (void)pthread_mutex_unlock(&lock);
    return e;
}

/* ---- devices, errors, settings ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    fake_enter();
    if (fake.devices <= 0) return fake_leave(cudaErrorNoDevice); /* the count stays unchanged */
    *count = fake.devices;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    fake_enter();
    const bool is_there = device >= 0 && device < fake.devices;
    if (is_there) current = device;
    return fake_leave(is_there ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    fake_enter();
    if (device < 0 || device >= fake.devices) return fake_leave(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    (void)snprintf(p->name, sizeof p->name, "fake device %d", device);
    p->totalGlobalMem = fake.memory_bytes;
    p->major = 9;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaGetLastError(void)
{
    fake_enter();
    cudaError_t e = fake.last;
    fake.last = fake.sticky;
    (void)pthread_mutex_unlock(&lock);
    return e;
}

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaError";
    }
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorNoDevice           ? "no CUDA-capable device is detected"
           : e == cudaErrorMemoryAllocation ? "out of memory"
           : e == cudaErrorIllegalAddress   ? "an illegal memory access was encountered"
                                            : "an error of the fake device";
}

void fake_set_devices(int count)
{
    fake_enter();
    fake.devices = count;
    (void)fake_leave(cudaSuccess);
}

void fake_set_memory(uint64_t bytes)
{
    fake_enter();
    fake.memory_bytes = bytes;
    (void)fake_leave(cudaSuccess);
}

void fake_fail_allocation(uint64_t nth)
{
    fake_enter();
    fake.fail_allocation = nth;
    (void)fake_leave(cudaSuccess);
}

void fake_fail_dnn(uint64_t nth)
{
    fake_enter();
    fake.fail_dnn = nth;
    (void)fake_leave(cudaSuccess);
}

void fake_break_after(uint64_t items)
{
    fake_enter();
    fake.break_after = items;
    (void)fake_leave(cudaSuccess);
}

void fake_repair(void)
{
    fake_enter();
    fake.sticky = fake.last = cudaSuccess;
    fake.break_after = UINT64_MAX;
    fake.fail_allocation = fake.fail_dnn = 0;
    (void)fake_leave(cudaSuccess);
}

void fake_set_copies_first(bool yes)
{
    fake_enter();
    fake.copies_first = yes;
    (void)fake_leave(cudaSuccess);
}

void fake_set_eager(bool eager)
{
    fake_enter();
    fake.is_eager = eager;
    (void)fake_leave(cudaSuccess);
}

struct fake_counts fake_count(void)
{
    fake_enter();
    struct fake_counts c = fake_now;
    (void)fake_leave(cudaSuccess);
    return c;
}
