/* Copies that overlap with computing: one stream in each direction and, for every stream slot, the
 * events that order them with the computing stream. A slot's host and device memory belong to one
 * batch at a time, from its send to its wait. */
#include "engine/cuda/internal.h"

static enum status event_new(struct cuda_backend *c, cudaEvent_t *e, struct error *err)
{
    return gpu_check(
        &c->gpu, (int)cudaEventCreateWithFlags(e, cudaEventDisableTiming | cudaEventBlockingSync),
        "an event", err);
}

enum status cuda_stream_slots_init(struct cuda_backend *c, struct error *err)
{
    enum status s = gpu_check(
        &c->gpu, (int)cudaStreamCreateWithFlags(&c->in, cudaStreamNonBlocking), "a stream", err);
    if (!s)
        s = gpu_check(&c->gpu, (int)cudaStreamCreateWithFlags(&c->out, cudaStreamNonBlocking),
                      "a stream", err);
    for (int i = 0; !s && i < MAX_STREAM_SLOTS; i++) {
        struct stream_slot *l = &c->stream_slots[i];
        s = event_new(c, &l->sent, err);
        if (!s) s = event_new(c, &l->computed, err);
        if (!s) s = event_new(c, &l->received, err);
    }
    return s;
}

void cuda_stream_slots_done(struct cuda_backend *c)
{
    for (int i = 0; i < MAX_STREAM_SLOTS; i++) {
        enum { EVENTS = 3 };
        cudaEvent_t all[EVENTS] = { c->stream_slots[i].sent, c->stream_slots[i].computed,
                                    c->stream_slots[i].received };
        for (int k = 0; k < EVENTS; k++)
            if (all[k]) (void)cudaEventDestroy(all[k]);
    }
    if (c->in) (void)cudaStreamDestroy(c->in);
    if (c->out) (void)cudaStreamDestroy(c->out);
}

enum status cuda_stream_slots_finish(struct cuda_backend *c, struct error *err)
{
    enum status s = gpu_check(&c->gpu, (int)cudaStreamSynchronize(c->in), "copies", err);
    return s ? s : gpu_check(&c->gpu, (int)cudaStreamSynchronize(c->out), "copies", err);
}

enum status cuda_host_alloc(struct backend *b, size_t bytes, void **out, struct error *err)
{
    struct gpu *g = &cuda_of(b)->gpu;
    enum status s = gpu_enter(g, err);
    return s ? s : gpu_check(g, (int)cudaMallocHost(out, bytes ? bytes : 1), "pinned memory", err);
}

void cuda_host_free(struct backend *b, void *p)
{
    (void)b;
    if (p) (void)cudaFreeHost(p);
}

enum status cuda_send(struct backend *b, uint32_t stream_slot, void *device, const void *host,
                      size_t bytes, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct gpu *g = &c->gpu;
    struct stream_slot *l = &c->stream_slots[stream_slot];
    enum status s = gpu_enter(g, err);
    if (!s)
        s = gpu_check(g, (int)cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, c->in),
                      "a copy", err);
    if (!s) s = gpu_check(g, (int)cudaEventRecord(l->sent, c->in), "an event", err);
    if (!s) s = gpu_check(g, (int)cudaStreamWaitEvent(g->stream, l->sent, 0), "an event", err);
    return s;
}

enum status cuda_receive(struct backend *b, uint32_t stream_slot, void *host, const void *device,
                         size_t bytes, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct gpu *g = &c->gpu;
    struct stream_slot *l = &c->stream_slots[stream_slot];
    enum status s = gpu_enter(g, err);
    if (!s) s = gpu_check(g, (int)cudaEventRecord(l->computed, g->stream), "an event", err);
    if (!s) s = gpu_check(g, (int)cudaStreamWaitEvent(c->out, l->computed, 0), "an event", err);
    if (!s)
        s = gpu_check(g, (int)cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->out),
                      "a copy", err);
    if (!s) s = gpu_check(g, (int)cudaEventRecord(l->received, c->out), "an event", err);
    return s;
}

enum status cuda_wait(struct backend *b, uint32_t stream_slot, struct error *err)
{
    struct gpu *g = &cuda_of(b)->gpu;
    enum status s = gpu_enter(g, err);
    return s ? s
             : gpu_check(g,
                         (int)cudaEventSynchronize(cuda_of(b)->stream_slots[stream_slot].received),
                         "waiting for a batch", err);
}
