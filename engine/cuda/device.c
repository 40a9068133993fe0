#include "engine/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- faults ---- */

enum status gpu_fault(const struct gpu *g, struct error *err)
{
    if (!atomic_load(&g->is_faulty)) return ST_OK;
    return error_set(err, ST_DEVICE_FAULT, "%s", g->fault.detail);
}

static enum status fault(struct gpu *g, const char *detail, struct error *err)
{
    if (!atomic_exchange(&g->fault_comes, true)) {
        (void)error_set(&g->fault, ST_DEVICE_FAULT, "GPU %d (%s): %s", g->index, g->name, detail);
        atomic_store(&g->is_faulty, true);
    }
    return error_set(err, ST_DEVICE_FAULT, "GPU %d (%s): %s", g->index, g->name, detail);
}

enum status gpu_enter(const struct gpu *g, struct error *err)
{
    enum status s = gpu_fault(g, err);
    return s ? s
             : gpu_check((struct gpu *)g, (int)cudaSetDevice(g->index), "choosing a device", err);
}

enum status gpu_check(struct gpu *g, int cuda_error, const char *what, struct error *err)
{
    const cudaError_t e = (cudaError_t)cuda_error;
    char detail[256];
    if (e == cudaSuccess) return ST_OK;
    snprintf(detail, sizeof detail, "%s: %s: %s", what, cudaGetErrorName(e), cudaGetErrorString(e));
    (void)cudaGetLastError(); /* an error that is not sticky must not be reported again */
    if (e == cudaErrorMemoryAllocation)
        return error_set(err, ST_NO_MEMORY_NOW, "GPU %d: %s", g->index, detail);
    return fault(g, detail, err);
}

enum status gpu_note_fault(struct gpu *g, const struct error *why, struct error *err)
{
    return fault(g, why->detail, err);
}

/* ---- open and close ---- */

int gpu_count(char *why, size_t size)
{
    int n = 0; /* stays 0 where there is no driver */
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        snprintf(why, size, "no GPU can be used: %s", cudaGetErrorString(e));
        return 0;
    }
    if (n == 0) snprintf(why, size, "there is no GPU");
    return n;
}

static enum status ring_init(struct gpu *g, struct error *err)
{
    struct ring *r = &g->ring;
    void *host = NULL, *device = NULL;
    const size_t bytes = (size_t)RING_SLOTS * RING_SLOT_BYTES;
    enum status s = gpu_check(g, (int)cudaMallocHost(&host, bytes), "pinned memory", err);
    r->host = host;
    if (!s) s = gpu_alloc(g, bytes, &device, err);
    r->device = device;
    for (uint32_t i = 0; !s && i < RING_SLOTS; i++)
        s = gpu_check(g,
                      (int)cudaEventCreateWithFlags(&r->sent[i],
                                                    cudaEventDisableTiming | cudaEventBlockingSync),
                      "an event", err);
    return s;
}

/* At run time the library may be another one than that of the headers. Attention as one operation
 * is the newest feature in use. */
static enum status open_cudnn(struct gpu *g, struct error *err)
{
    const size_t version = cudnnGetVersion();
    if (version < CUDNN_LEAST)
        return error_set(err, ST_UNSUPPORTED, "GPU %d: cuDNN %zu.%zu is too old: %d.%d or later",
                         g->index, version / 10000, version / 100 % 100, CUDNN_LEAST / 10000,
                         CUDNN_LEAST / 100 % 100);
    cudnnStatus_t e = cudnnCreate(&g->dnn);
    if (e == CUDNN_STATUS_SUCCESS) e = cudnnSetStream(g->dnn, g->stream);
    if (e == CUDNN_STATUS_SUCCESS) return ST_OK;
    return error_set(err, ST_UNSUPPORTED, "GPU %d: cuDNN cannot be opened: %s", g->index,
                     cudnnGetErrorString(e));
}

enum status gpu_init(struct gpu *out, int index, struct error *err)
{
    struct gpu *g = out;
    struct cudaDeviceProp p;
    memset(g, 0, sizeof *g);
    g->index = index;
    enum status s = gpu_check(g, (int)cudaSetDevice(index), "choosing a device", err);
    if (!s) s = gpu_check(g, (int)cudaGetDeviceProperties(&p, index), "asking what it is", err);
    if (s) goto done;
    g->major = p.major;
    g->minor = p.minor;
    g->total_bytes = p.totalGlobalMem;
    snprintf(g->name, sizeof g->name, "%.*s", NAME_MAX_BYTES - 1, p.name);
    snprintf(g->address, sizeof g->address, "%08x:%02x:%02x.0", (unsigned)p.pciDomainID,
             (unsigned)p.pciBusID, (unsigned)p.pciDeviceID);
    s = gpu_check(g, (int)cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "a stream",
                  err);
    if (!s) s = ring_init(g, err);
    if (!s) s = open_cudnn(g, err);
done:
    if (s) gpu_done(g);
    return s;
}

void gpu_done(struct gpu *g)
{
    if (g->stream) (void)cudaStreamSynchronize(g->stream);
    if (g->dnn) (void)cudnnDestroy(g->dnn);
    for (uint32_t i = 0; i < RING_SLOTS; i++)
        if (g->ring.sent[i]) (void)cudaEventDestroy(g->ring.sent[i]);
    if (g->ring.host) (void)cudaFreeHost(g->ring.host);
    gpu_free(g, g->ring.device);
    gpu_release_workspaces(g);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    memset(g, 0, sizeof *g);
}

/* ---- memory ---- */

enum status gpu_alloc(struct gpu *g, size_t bytes, void **out, struct error *err)
{
    enum status s = gpu_enter(g, err);
    if (!s) s = gpu_check(g, (int)cudaMalloc(out, bytes ? bytes : 1), "memory", err);
    g->allocations++;
    return s;
}

void gpu_free(struct gpu *g, void *p)
{
    /* Kernels in flight may use it; after a fault neither call has a meaning. */
    if (!p) return;
    (void)cudaSetDevice(g->index);
    if (g->stream) (void)cudaStreamSynchronize(g->stream);
    (void)cudaFree(p);
}

static enum status reserve(struct gpu *g, void **at, size_t *has, size_t wants, struct error *err)
{
    void *p = NULL;
    if (wants <= *has) return ST_OK;
    enum status s = gpu_alloc(g, wants, &p, err);
    if (s) return s;
    if (*at) {
        void **more = realloc(g->outgrown, (g->n_outgrown + 1) * sizeof *more);
        if (!more) {
            gpu_free(g, p);
            return error_set(err, ST_NO_MEMORY_NOW, "no memory for a list of %u",
                             g->n_outgrown + 1);
        }
        g->outgrown = more;
        g->outgrown[g->n_outgrown++] = *at;
    }
    *at = p;
    *has = wants;
    return ST_OK;
}

enum status gpu_reserve_workspace(struct gpu *g, size_t bytes, struct error *err)
{
    return reserve(g, &g->workspace, &g->workspace_bytes, bytes, err);
}

enum status gpu_reserve_scratch(struct gpu *g, size_t bytes, struct error *err)
{
    void *p = g->scratch;
    enum status s = reserve(g, &p, &g->scratch_bytes, bytes, err);
    g->scratch = p;
    return s;
}

void gpu_release_workspaces(struct gpu *g)
{
    gpu_free(g, g->workspace);
    gpu_free(g, g->scratch);
    for (uint32_t i = 0; i < g->n_outgrown; i++)
        gpu_free(g, g->outgrown[i]);
    free(g->outgrown);
    g->workspace = NULL;
    g->scratch = NULL;
    g->outgrown = NULL;
    g->workspace_bytes = g->scratch_bytes = 0;
    g->n_outgrown = 0;
}

/* ---- copies ---- */

enum status gpu_finish(struct gpu *g, struct error *err)
{
    enum status s = gpu_enter(g, err);
    return s ? s : gpu_check(g, (int)cudaStreamSynchronize(g->stream), "computing", err);
}

static enum status copy(struct gpu *g, void *to, const void *from, size_t bytes,
                        enum cudaMemcpyKind kind, struct error *err)
{
    enum status s = gpu_fault(g, err);
    if (!s) s = gpu_check(g, (int)cudaMemcpyAsync(to, from, bytes, kind, g->stream), "a copy", err);
    return s ? s : gpu_finish(g, err);
}

enum status gpu_copy_in(struct gpu *g, void *device, const void *host, size_t bytes,
                        struct error *err)
{
    return copy(g, device, host, bytes, cudaMemcpyHostToDevice, err);
}

enum status gpu_copy_out(struct gpu *g, void *host, const void *device, size_t bytes,
                         struct error *err)
{
    return copy(g, host, device, bytes, cudaMemcpyDeviceToHost, err);
}

enum status gpu_send_values(struct gpu *g, const void *host, size_t bytes, void *to,
                            const void **device, struct error *err)
{
    struct ring *r = &g->ring;
    const uint32_t slot = r->next;
    char *from = r->host + (size_t)slot * RING_SLOT_BYTES;
    enum status s = gpu_enter(g, err);
    if (!s && bytes > RING_SLOT_BYTES)
        s = error_set(err, ST_INTERNAL, "%zu bytes of values; a slot has %d", bytes,
                      RING_SLOT_BYTES);
    /* The slot's last copy, RING_SLOTS sends ago, is almost always complete. */
    if (!s) s = gpu_check(g, (int)cudaEventSynchronize(r->sent[slot]), "an event", err);
    if (s) return s;
    memcpy(from, host, bytes);
    if (!to) to = r->device + (size_t)slot * RING_SLOT_BYTES;
    s = gpu_check(g, (int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, g->stream),
                  "a copy", err);
    if (!s) s = gpu_check(g, (int)cudaEventRecord(r->sent[slot], g->stream), "an event", err);
    if (s) return s;
    r->next = (slot + 1) % RING_SLOTS;
    if (device) *device = to;
    return ST_OK;
}
