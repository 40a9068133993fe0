/* fake.h - a fake device: device memory on the host, streams in order, graphs recorded and
 * replayed, faults on demand.
 *
 * Replaces libcudart and libcudnn under the plugin's own sources. Work on a stream is stored and
 * done only when a caller waits for it, and then no more than necessary: code that lacks an event,
 * or reuses a buffer too early, reads old numbers. Device memory can be accessed only while work is
 * done; it ends at an inaccessible page and starts as NaN. What CUDA leaves undefined ends the
 * process with a message. All of this holds under valgrind and the sanitizers too. Settings belong
 * to the process; any thread may call. */
#ifndef DAVID_FAKE_H
#define DAVID_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- for tests ----
 *
 * The same from outside: DAVID_FAKE_DEVICES (1), DAVID_FAKE_MEMORY bytes, DAVID_FAKE_BREAK_FILE:
 * the first work after this file appears fails for good; DAVID_FAKE_TELL_FILE: at its end the
 * process writes there, one line per device, how often recorded graphs were replayed on it. */
void fake_set_devices(int count);
void fake_set_memory(uint64_t bytes);
void fake_fail_allocation(uint64_t nth); /* 1: the next one; 0: none */
/* After so many further pieces of work, a sticky error; UINT64_MAX: never. */
void fake_break_after(uint64_t items);
/* 1: the next run of a plan by cuDNN does nothing and returns an error; 0: none. */
void fake_fail_dnn(uint64_t nth);
void fake_repair(void);                    /* restores the state that a new process would find */
void fake_set_dnn_version(size_t version); /* 10000 major + 100 minor + patch */
void fake_set_eager(bool is_eager);        /* work is done when it is issued */
/* Copies that wait for no kernel are done at once, kernels still as late as possible. */
void fake_set_copies_first(bool yes);

struct fake_counts {
    uint64_t allocations, allocated_bytes; /* in total; currently */
    uint64_t launches, copies;             /* done outside of recordings */
    uint64_t recorded, replays;            /* graphs */
    uint64_t dnn_plans, dnn_runs;
    uint64_t descriptors;                     /* of cuDNN, currently allocated */
    uint64_t streams, events, graphs, pinned; /* currently allocated */
};
struct fake_counts fake_count(void);

/* ---- between the files of the fake ---- */

/* Enqueues work on a stream, or records it; `run` is called any number of times, then `drop` once.
 * Returns a cudaError_t; owns `job` unless that is an error. */
int fake_enqueue(void *stream, void (*run)(void *job), void (*drop)(void *job), void *job);
/* Ends the process unless the whole range is in one allocation of device memory; what: for the
 * message. */
void fake_expect_device(const void *p, size_t bytes, const char *what);
uint64_t fake_birth(const void *p); /* differs between allocations */
void fake_spend(uint64_t ns);       /* adds to the device time of the running work */
/* Between two events with timing enabled, cuDNN's plans only spend their time: nobody uses the
 * results. */
bool fake_is_timing(void);
void fake_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Changed under the lock of runtime.c, or by the only thread that calls descriptors.c. */
extern struct fake_counts fake_now;

#endif
