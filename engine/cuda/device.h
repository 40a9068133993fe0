/* device.h - one GPU: its streams, its memory, and its health.
 *
 * All work is issued to the computing stream, in order; only functions that say so wait. A CUDA
 * error other than out of memory is a fault: the context is lost, the first error is kept, and from
 * then on every call returns ST_DEVICE_FAULT. Memory is allocated and freed while programs are
 * made; a run allocates none. Values that differ from run to run (condition indices, times, labels)
 * pass through a ring of pinned slots. One thread at a time; device_fault() and the waits of stream
 * slots (stream_slots.c) may be called from any thread. */
#ifndef DAVID_CUDA_DEVICE_H
#define DAVID_CUDA_DEVICE_H

#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdatomic.h>

#include "engine/cuda/plans.h"

enum { CUDNN_LEAST = 91300 }; /* engine/cuda.cmake checks for it too */
enum { RING_SLOTS = 8, RING_SLOT_BYTES = 16384, NAME_MAX_BYTES = 64 };

struct ring {
    char *host;   /* pinned, [RING_SLOTS][RING_SLOT_BYTES] */
    char *device; /* device memory of the same size */
    cudaEvent_t sent[RING_SLOTS];
    uint32_t next;
};

struct gpu {
    int index, major, minor;
    char name[NAME_MAX_BYTES];
    char address[32]; /* PCI bus address, by which other libraries identify the device */
    size_t total_bytes;
    cudaStream_t stream; /* computing */
    cudnnHandle_t dnn;
    struct ring ring;
    void *workspace; /* of cuDNN's plans; shared, since they run one after the other */
    size_t workspace_bytes;
    float *scratch; /* of our own kernels */
    size_t scratch_bytes;
    /* Earlier workspaces and scratches: recorded graphs may still point at them. */
    void **outgrown;
    uint32_t n_outgrown;
    /* The thread that sets fault_comes writes `fault`; others read it once is_faulty is set. */
    atomic_bool fault_comes, is_faulty;
    struct error fault;
    uint64_t allocations; /* in total; tests check that serving adds none */
};

/* The number of GPUs; 0, and the reason in `why`, where none can be used. */
int gpu_count(char *why, size_t size);
enum status gpu_init(struct gpu *g, int index, struct error *err);
void gpu_done(struct gpu *g); /* takes a zeroed struct */

/* Returns ST_OK, ST_NO_MEMORY_NOW (the device goes on), or the fault. Every CUDA call is checked
 * here, also those of kernels.h. */
enum status gpu_check(struct gpu *g, int cuda_error, const char *what, struct error *err);
enum status gpu_fault(const struct gpu *g, struct error *err); /* ST_OK while there is no fault */
/* Every op begins with it: checks that there is no fault and makes this the thread's device. */
enum status gpu_enter(const struct gpu *g, struct error *err);
/* Records that another library's call has failed for good, for the reason `why`. */
enum status gpu_note_fault(struct gpu *g, const struct error *why, struct error *err);

enum status gpu_alloc(struct gpu *g, size_t bytes, void **out, struct error *err);
void gpu_free(struct gpu *g, void *p); /* takes NULL */
enum status gpu_copy_in(struct gpu *g, void *device, const void *host, size_t bytes,
                        struct error *err); /* returns when `host` may change */
enum status gpu_copy_out(struct gpu *g, void *host, const void *device, size_t bytes,
                         struct error *err);              /* returns when the data has arrived */
enum status gpu_finish(struct gpu *g, struct error *err); /* waits for all work that was issued */

/* Grows the workspace to at least `bytes`. */
enum status gpu_reserve_workspace(struct gpu *g, size_t bytes, struct error *err);
enum status gpu_reserve_scratch(struct gpu *g, size_t bytes, struct error *err);

/* Frees the workspace and the scratch, and those outgrown: no recorded graph points at them any
 * more. */
void gpu_release_workspaces(struct gpu *g);

/* Copies a few values for the next kernels; on the device the copy takes its place in the stream's
 * order, at `to` or (NULL) at an address that stays valid for RING_SLOTS calls. Not while a batch
 * execution is recorded. */
enum status gpu_send_values(struct gpu *g, const void *host, size_t bytes, void *to,
                            const void **device /* may be NULL */, struct error *err);

#endif
