/* internal.h - what the fake runtime's files share. Everything is under one lock, from fake_enter
 * to fake_leave. */
#ifndef DAVID_FAKE_INTERNAL_H
#define DAVID_FAKE_INTERNAL_H

#include <cuda_runtime_api.h>

#include "tests/cuda/fake/fake.h"

enum { MAX_DEVICES = 16 };

struct fake_state {
    cudaError_t sticky, last;
    uint64_t clock_ns, fail_allocation, fail_dnn, break_after, memory_bytes;
    int devices;
    bool is_eager, copies_first;
    cudaEvent_t stopwatch; /* the event that started it; NULL: it does not run */
    const char *break_file;
    const char *tell_file; /* written at the end: the counts of each device */
    int working;           /* the device whose work is being done */
    uint64_t replays[MAX_DEVICES];
};
extern struct fake_state fake;

void fake_enter(void);
cudaError_t fake_leave(cudaError_t e);
int fake_device(void); /* this thread's */

/* Defined in memory.c. */
struct block {
    char *pages; /* including the inaccessible one at its end */
    size_t mapped;
    char *data;
    size_t bytes;
    uint64_t birth;
    bool is_pinned;
    int device;
    struct block *next;
};
struct block *fake_block_of(const void *p); /* NULL: none */
void fake_begin_work(void);                 /* device memory is accessible until fake_end_work */
void fake_end_work(void);
/* The same only for the block that p points into; does nothing where all is accessible, or p is
 * host memory. */
void fake_open(const void *p);
void fake_shut(const void *p);

/* Defined in streams.c. */
struct item {
    void (*run)(void *job);
    void (*drop)(void *job);
    void *job;
    cudaEvent_t record, wait; /* instead of a job */
    /* The position of the event when the wait was issued. */
    cudaStream_t wait_stream;
    uint64_t wait_number;
    struct item *next;
};

struct CUgraph_st {
    struct item *first, **end;
    uint32_t users; /* the graph and its executables */
};

struct CUgraphExec_st {
    struct CUgraph_st *graph;
    uint32_t pending; /* launches not done yet */
};

struct CUstream_st {
    struct item *first, **end;
    uint64_t asked, done; /* number of items in total */
    struct CUgraph_st *recording;
    int device;
    bool is_spoilt; /* an operation that cannot be recorded was issued */
    struct CUstream_st *next;
};

struct CUevent_st {
    cudaStream_t stream; /* NULL: never recorded */
    uint64_t number;     /* of its item */
    uint64_t ns;
    int device;
    bool is_timed;
};

cudaStream_t fake_stream_of(void *p);
void fake_ask(cudaStream_t s, struct item what);
/* Does the work of `s` up to item `number`, and the work of other streams that it waits for. */
void fake_work(cudaStream_t s, uint64_t number);
void fake_do(const struct item *i);
/* For an operation that is not allowed during a recording: invalidates the recording. */
bool fake_any_recording(void);

#endif
