/* device.h - one GPU: its streams, its memory, and whether it still answers.
 *
 * Everything is asked for on the computing stream, in order, and nothing waits but what says so. A CUDA error that is not about memory is a
 * fault: the context is lost, the first one is remembered, and from then on every call is ST_DEVICE_FAULT. Memory comes and goes
 * while programs are made; a run takes none. Values that differ from run to run (sets, times, labels) travel through a ring of
 * pinned slots. One thread at a time; device_fault() and stream_slots' waits (stream_slots.h) from any. */
#ifndef DAVID_CUDA_DEVICE_H
#define DAVID_CUDA_DEVICE_H

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdatomic.h>

#include "engine/cuda/plans.h"

enum { CUDNN_LEAST = 91300 }; /* engine/cuda.cmake looks for it too */
enum { RING_SLOTS = 8, RING_SLOT_BYTES = 16384, NAME_MAX_BYTES = 64 };

struct ring {
    char *host;   /* pinned, [RING_SLOTS][RING_SLOT_BYTES] */
    char *device; /* the same */
    cudaEvent_t sent[RING_SLOTS];
    uint32_t next;
};

struct gpu {
    int index, major, minor;
    char name[NAME_MAX_BYTES];
    char address[32]; /* on the PCI bus: how other libraries know it */
    size_t total_bytes;
    cudaStream_t stream; /* computing */
    cudnnHandle_t dnn;
    struct ring ring;
    void *workspace; /* of cuDNN's plans, shared: they run one after the other */
    size_t workspace_bytes;
    float *scratch; /* of own kernels */
    size_t scratch_bytes;
    void **outgrown; /* earlier workspaces and scratches: recorded passes may still point at them */
    uint32_t n_outgrown;
    atomic_bool fault_comes,
        is_faulty; /* who sets fault_comes writes `fault`; it may be read once is_faulty */
    struct error fault;
    uint64_t allocations; /* ever; tests see that serving makes none */
};

/* How many GPUs there are; 0 with the reason in `why` where none can be used. */
int gpu_count(char *why, size_t size);
enum status gpu_init(struct gpu *g, int index, struct error *err);
void gpu_done(struct gpu *g); /* takes a zeroed struct */

/* ST_OK, ST_NO_MEMORY_NOW (the device goes on), or the fault. Every CUDA call goes through here, also those of kernels.h. */
enum status gpu_check(struct gpu *g, int cuda_error, const char *what, struct error *err);
enum status gpu_fault(const struct gpu *g, struct error *err); /* ST_OK while there is none */
/* What every op starts with: no fault, and this thread means this device. */
enum status gpu_enter(const struct gpu *g, struct error *err);
/* Another library's call has failed for good, for the reason `why`. */
enum status gpu_note_fault(struct gpu *g, const struct error *why, struct error *err);

enum status gpu_alloc(struct gpu *g, size_t bytes, void **out, struct error *err);
void gpu_free(struct gpu *g, void *p); /* takes NULL */
enum status gpu_copy_in(struct gpu *g, void *device, const void *host, size_t bytes,
                        struct error *err); /* returns when `host` may change */
enum status gpu_copy_out(struct gpu *g, void *host, const void *device, size_t bytes,
                         struct error *err);              /* returns when it is there */
enum status gpu_finish(struct gpu *g, struct error *err); /* waits for everything asked for */

/* At least so much from now on. */
enum status gpu_reserve_workspace(struct gpu *g, size_t bytes, struct error *err);
enum status gpu_reserve_scratch(struct gpu *g, size_t bytes, struct error *err);

/* Gives both back, and those outgrown: nothing that was recorded points at them any more. */
void gpu_release_workspaces(struct gpu *g);

/* A few values for the next kernels: copied now, on the device in order, at `to` or (NULL) somewhere until RING_SLOTS calls later. Not while a batch execution
 * is recorded. */
enum status gpu_send_values(struct gpu *g, const void *host, size_t bytes, void *to,
                            const void **device /* may be NULL */, struct error *err);

#endif
