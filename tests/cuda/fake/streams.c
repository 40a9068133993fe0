/* Streams, events, copies and graphs of the fake runtime: work is stored until a caller waits for
 * it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda/fake/internal.h"

static struct CUstream_st *streams;

bool fake_any_recording(void)
{
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s->recording) {
            s->is_spoilt = true;
            return true;
        }
    return false;
}

cudaStream_t fake_stream_of(void *p)
{
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s == p) return s;
    fake_die("%p is no stream", p);
}

void fake_do(const struct item *i)
{
    if (fake.sticky) return; /* nothing is done any more */
    if (fake.break_file && access(fake.break_file, F_OK) == 0) fake.break_after = 0;
    if (fake.break_after == 0) {
        fake.sticky = cudaErrorIllegalAddress;
        return;
    }
    if (fake.break_after != UINT64_MAX) fake.break_after--;
    if (i->run) i->run(i->job);
}

/* The elapsed time is counted from one event with timing enabled to another. */
static void note_time(cudaEvent_t e, const struct CUstream_st *s)
{
    if (e->stream != s || e->number != s->done + 1) return; /* recorded again since then */
    e->ns = fake.clock_ns;
    if (e->is_timed) fake.stopwatch = fake.stopwatch && fake.stopwatch != e ? NULL : e;
}

static void run_copy(void *job);

bool fake_is_timing(void)
{
    return fake.stopwatch != NULL;
}

void fake_work(cudaStream_t s, uint64_t number)
{
    bool is_open = false;
    const int working = fake.working;
    if (s->done >= number) return;
    while (s->done < number) {
        struct item *i = s->first;
        if (i->wait_stream) fake_work(i->wait_stream, i->wait_number);
        fake.working = s->device;
        if (i->record) {
            note_time(i->record, s);
        } else if (!i->wait_stream) {
            /* Making all memory accessible takes longer than a copy, which opens only its own. */
            if (i->run != run_copy && !is_open) fake_begin_work();
            is_open = is_open || i->run != run_copy;
            fake_do(i);
        }
        s->first = i->next;
        if (!s->first) s->end = &s->first;
        s->done++;
        if (i->drop) i->drop(i->job);
        free(i);
    }
    if (is_open) fake_end_work();
    fake.working = working;
}

/* True if it holds only copies, and none that waits for unfinished work. */
static bool is_free_to_copy(const struct CUstream_st *s)
{
    for (const struct item *i = s->first; i; i = i->next)
        if (i->wait_stream ? i->wait_stream->done < i->wait_number
                           : !i->record && i->run != run_copy)
            return false;
    return true;
}

void fake_ask(cudaStream_t s, struct item what)
{
    struct item *i = malloc(sizeof *i);
    if (!i) fake_die("no memory");
    *i = what;
    i->next = NULL;
    if (s->recording) {
        *s->recording->end = i;
        s->recording->end = &i->next;
        return;
    }
    *s->end = i;
    s->end = &i->next;
    s->asked++;
    if (fake.is_eager || (fake.copies_first && is_free_to_copy(s))) fake_work(s, s->asked);
}

int fake_enqueue(void *stream, void (*run)(void *job), void (*drop)(void *job), void *job)
{
    fake_enter();
    if (fake.sticky) return (int)fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    if (s->device != fake_device()) return (int)fake_leave(cudaErrorInvalidResourceHandle);
    if (!s->recording) fake_now.launches++;
    fake_ask(s, (struct item){ .run = run, .drop = drop, .job = job });
    (void)fake_leave(cudaSuccess);
    return cudaSuccess; /* the job is owned; the next call reports a fault of the work */
}

void fake_spend(uint64_t ns)
{
    fake.clock_ns += ns;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    if (flags != cudaStreamNonBlocking) fake_die("a stream with flags %u", flags);
    struct CUstream_st *s = calloc(1, sizeof *s);
    if (!s) fake_die("no memory");
    s->end = &s->first;
    s->device = fake_device();
    s->next = streams;
    streams = s;
    fake_now.streams++;
    *out = s;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    fake_enter();
    cudaStream_t s = fake_stream_of(stream);
    if (s->recording) fake_die("a stream is destroyed while it is recorded");
    fake_work(s, s->asked);
    for (struct CUstream_st **at = &streams; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    free(s);
    fake_now.streams--;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    if (s->recording) {
        s->is_spoilt = true;
        return fake_leave(cudaErrorStreamCaptureUnsupported);
    }
    fake_work(s, s->asked);
    return fake_leave(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    struct CUevent_st *e = calloc(1, sizeof *e);
    if (!e) fake_die("no memory");
    e->device = fake_device();
    e->is_timed = !(flags & cudaEventDisableTiming);
    fake_now.events++;
    *out = e;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    fake_enter();
    if (event->stream) fake_work(fake_stream_of(event->stream), event->number);
    if (fake.stopwatch == event) fake.stopwatch = NULL;
    free(event);
    fake_now.events--;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    if (s->recording) fake_die("events are not recorded into graphs here");
    if (s->device != event->device) return fake_leave(cudaErrorInvalidResourceHandle);
    event->stream = s;
    event->number = s->asked + 1;
    fake_ask(s, (struct item){ .record = event });
    return fake_leave(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    fake_enter();
    (void)flags;
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    /* as in CUDA: there is nothing to wait for */
    if (!event->stream) return fake_leave(cudaSuccess);
    fake_ask(s, (struct item){
                    .wait = event, .wait_stream = event->stream, .wait_number = event->number });
    return fake_leave(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    if (fake_any_recording()) return fake_leave(cudaErrorStreamCaptureUnsupported);
    if (event->stream) fake_work(fake_stream_of(event->stream), event->number);
    return fake_leave(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    if (!start->is_timed || !end->is_timed) return fake_leave(cudaErrorInvalidResourceHandle);
    *ms = (float)(end->ns - start->ns) / 1e6f;
    return fake_leave(cudaSuccess);
}

/* ---- copies ---- */

struct copy_job {
    void *to;
    const void *from;
    void *kept; /* the data of a copy from unpinned memory, which is read at once */
    size_t bytes;
    enum cudaMemcpyKind kind;
};

static void run_copy(void *job)
{
    const struct copy_job *c = job;
    if (c->kind != cudaMemcpyDeviceToHost) fake_expect_device(c->to, c->bytes, "a copy");
    if (c->kind != cudaMemcpyHostToDevice) fake_expect_device(c->from, c->bytes, "a copy");
    fake_open(c->to);
    fake_open(c->from);
    memcpy(c->to, c->kept ? c->kept : c->from, c->bytes);
    fake_shut(c->to);
    fake_shut(c->from);
    fake_spend(c->bytes / 2);
}

static void drop_copy(void *job)
{
    struct copy_job *c = job;
    free(c->kept);
    free(c);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    const void *host = kind == cudaMemcpyHostToDevice   ? from
                       : kind == cudaMemcpyDeviceToHost ? to
                                                        : NULL;
    const struct block *b = host ? fake_block_of(host) : NULL;
    const bool is_pageable = host && !(b && b->is_pinned);
    if (b && !b->is_pinned) fake_die("a copy whose host side is device memory");
    if (is_pageable && s->recording) {
        s->is_spoilt = true;
        return fake_leave(cudaErrorStreamCaptureUnsupported);
    }
    struct copy_job *c = malloc(sizeof *c);
    if (!c) fake_die("no memory");
    *c = (struct copy_job){ to, from, NULL, bytes, kind };
    if (is_pageable && kind == cudaMemcpyHostToDevice) {
        c->kept = malloc(bytes ? bytes : 1);
        if (!c->kept) fake_die("no memory");
        memcpy(c->kept, from, bytes);
    }
    if (!s->recording) fake_now.copies++;
    fake_ask(s, (struct item){ .run = run_copy, .drop = drop_copy, .job = c });
    if (is_pageable && kind == cudaMemcpyDeviceToHost) fake_work(s, s->asked);
    return fake_leave(cudaSuccess);
}

struct set_job {
    void *to;
    int value;
    size_t bytes;
};

static void run_set(void *job)
{
    const struct set_job *c = job;
    fake_expect_device(c->to, c->bytes, "a memset");
    memset(c->to, c->value, c->bytes);
    fake_spend(c->bytes / 4);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    struct set_job *c = malloc(sizeof *c);
    if (!c) fake_die("no memory");
    *c = (struct set_job){ to, value, bytes };
    const int e = fake_enqueue(stream, run_set, free, c);
    if (e) free(c);
    return (cudaError_t)e;
}

/* ---- graphs ---- */

static void graph_drop(struct CUgraph_st *g)
{
    if (--g->users > 0) return;
    while (g->first) {
        struct item *i = g->first;
        g->first = i->next;
        if (i->drop) i->drop(i->job);
        free(i);
    }
    free(g);
    fake_now.graphs--;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    if (mode != cudaStreamCaptureModeThreadLocal) fake_die("recording in mode %d", (int)mode);
    if (s->recording) return fake_leave(cudaErrorInvalidValue);
    s->recording = calloc(1, sizeof *s->recording);
    if (!s->recording) fake_die("no memory");
    s->recording->end = &s->recording->first;
    s->recording->users = 1;
    s->is_spoilt = false;
    fake_now.graphs++;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    fake_enter();
    cudaStream_t s = fake_stream_of(stream);
    struct CUgraph_st *g = s->recording;
    *out = NULL;
    if (!g) return fake_leave(cudaErrorInvalidValue);
    s->recording = NULL;
    if (s->is_spoilt || fake.sticky) {
        graph_drop(g);
        return fake_leave(cudaErrorStreamCaptureInvalidated);
    }
    fake_now.recorded++;
    *out = g;
    return fake_leave(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    fake_enter();
    (void)flags;
    if (fake.sticky) return fake_leave(fake.sticky);
    struct CUgraphExec_st *e = calloc(1, sizeof *e);
    if (!e) fake_die("no memory");
    e->graph = graph;
    graph->users++;
    *out = e;
    return fake_leave(cudaSuccess);
}

static void run_graph(void *job)
{
    struct CUgraphExec_st *e = job;
    for (const struct item *i = e->graph->first; i; i = i->next)
        fake_do(i);
}

static void drop_launch(void *job)
{
    struct CUgraphExec_st *e = job;
    e->pending--;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    fake_enter();
    if (fake.sticky) return fake_leave(fake.sticky);
    cudaStream_t s = fake_stream_of(stream);
    if (s->device != fake_device()) return fake_leave(cudaErrorInvalidResourceHandle);
    exec->pending++;
    fake_now.replays++;
    fake.replays[s->device % MAX_DEVICES]++;
    fake_ask(s, (struct item){ .run = run_graph, .drop = drop_launch, .job = exec });
    return fake_leave(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    fake_enter();
    if (exec->pending && !fake.sticky) fake_die("a graph is destroyed before it has run");
    graph_drop(exec->graph);
    free(exec);
    return fake_leave(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    fake_enter();
    graph_drop(graph);
    return fake_leave(cudaSuccess);
}
