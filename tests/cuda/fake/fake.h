/* fake.h - a device that is not there: device memory on the host, streams in order, graphs recorded and replayed, faults on demand.
 *
 * Stands in for libcudart and libcudnn under the plugin's own sources. Work on a stream is kept and done only when somebody waits for it, and
 * then no more than must be: what lacks an event, or reuses a buffer too early, reads old numbers. Device memory can be touched only
 * while work is done, ends at a page that cannot, and starts as NaN; what CUDA leaves undefined ends the process with a message.
 * Under valgrind or a sanitizer everything holds as well. Settings are the process's; all of it from any thread. */
#ifndef DAVID_FAKE_H
#define DAVID_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- for tests ----
 * The same from outside: DAVID_FAKE_DEVICES (1), DAVID_FAKE_MEMORY bytes, DAVID_FAKE_BREAK_FILE: the work done first after
 * such a file is there fails for good; DAVID_FAKE_TELL_FILE: where the process writes at its end, a line a device, how
 * often recorded graphs were replayed on it. */
void fake_set_devices(int count);
void fake_set_memory(uint64_t bytes);
void fake_fail_allocation(uint64_t nth); /* 1: the next; 0: none */
void fake_break_after(
    uint64_t items); /* that many pieces of work more, then a sticky error; UINT64_MAX: never */
void fake_fail_dnn(
    uint64_t nth);      /* 1: cuDNN's next run of a plan does nothing and says so; 0: none */
void fake_repair(void); /* as a new process would find the device */
void fake_set_dnn_version(size_t version); /* 10000 major + 100 minor + patch */
void fake_set_eager(bool is_eager);        /* work is done when it is asked for */
void fake_set_copies_first(
    bool yes); /* copies that wait for no kernel are done at once, kernels as late as ever */

struct fake_counts {
    uint64_t allocations, allocated_bytes; /* ever; now */
    uint64_t launches, copies;             /* done outside of recordings */
    uint64_t recorded, replays;            /* graphs */
    uint64_t dnn_plans, dnn_runs;
    uint64_t descriptors;                     /* of cuDNN, that are there now */
    uint64_t streams, events, graphs, pinned; /* that are there now */
};
struct fake_counts fake_count(void);

/* ---- between the files of the fake ---- */

/* Work for a stream, or for what is being recorded from it; `run` maybe more than once, then `drop` once. Returns a cudaError_t;
 * `job` is taken unless that is an error. */
int fake_enqueue(void *stream, void (*run)(void *job), void (*drop)(void *job), void *job);
/* Ends the process unless all of it is in one piece of device memory; what: who wants it. */
void fake_expect_device(const void *p, size_t bytes, const char *what);
uint64_t fake_birth(const void *p); /* differs from allocation to allocation */
void fake_spend(uint64_t ns);       /* time of the device that the running work takes */
/* Between two events that take times plans of cuDNN only spend theirs: what they would compute is for nobody. */
bool fake_is_timing(void);
void fake_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
extern struct fake_counts
    fake_now; /* changed under the lock of runtime.c, or by cudnn.c's callers' one thread */

#endif
