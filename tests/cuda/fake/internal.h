/* internal.h - what the fake runtime's files share. Everything is under one lock, from fake_enter to fake_leave. */
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
    cudaEvent_t stopwatch; /* the event that started it; NULL: none runs */
    const char *break_file;
    const char *tell_file; /* written at the end: what each device has done */
    int working;           /* the device whose work is being done */
    uint64_t replays[MAX_DEVICES];
};
extern struct fake_state fake;

void fake_enter(void);
cudaError_t fake_leave(cudaError_t e);
int fake_device(void); /* this thread's */

/* memory.c */
struct block {
    char *pages; /* with the one that cannot be touched at its end */
    size_t mapped;
    char *data;
    size_t bytes;
    uint64_t birth;
    bool is_pinned;
    int device;
    struct block *next;
};
struct block *fake_block_of(const void *p); /* NULL: none */
void fake_begin_work(void);                 /* device memory can be touched until fake_end_work */
void fake_end_work(void);
/* The same for what p points into alone; nothing where all can be touched anyway, or p is the host's. */
void fake_open(const void *p);
void fake_shut(const void *p);

/* streams.c */
struct item {
    void (*run)(void *job);
    void (*drop)(void *job);
    void *job;
    cudaEvent_t record, wait; /* instead of a job */
    cudaStream_t wait_stream; /* where the event stood when the wait was asked for */
    uint64_t wait_number;
    struct item *next;
};

struct CUgraph_st {
    struct item *first, **end;
    uint32_t users; /* the graph and what was made of it */
};

struct CUgraphExec_st {
    struct CUgraph_st *graph;
    uint32_t pending; /* launches not done yet */
};

struct CUstream_st {
    struct item *first, **end;
    uint64_t asked, done; /* items, ever */
    struct CUgraph_st *recording;
    int device;
    bool is_spoilt; /* something was asked for that cannot be recorded */
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
/* Does what is asked for of `s`, up to item `number`, and of other streams what that waits for. */
void fake_work(cudaStream_t s, uint64_t number);
void fake_do(const struct item *i);
/* Something that cannot be done while anything is recorded: spoils the recording. */
bool fake_any_recording(void);

#endif
