/* The time of a plan on this device. Made for one load, in which every candidate of cuDNN for an op
 * is timed on synthetic feature maps. */
#include <stdlib.h>

#include "engine/cuda/internal.h"

enum { TIMED_RUNS = 5, NOISE_SIDE = 64, NOISE_CHANNELS = 16 };

struct timer {
    struct gpu *g;
    cudaEvent_t from, to;
    char *memory;
    size_t bytes;
};

enum status timer_new(struct timer **out, struct gpu *g, struct error *err)
{
    struct timer *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a timer");
    t->g = g;
    enum status s = gpu_check(g, (int)cudaEventCreateWithFlags(&t->from, 0), "an event", err);
    if (!s) s = gpu_check(g, (int)cudaEventCreateWithFlags(&t->to, 0), "an event", err);
    if (s)
        timer_free(t);
    else
        *out = t;
    return s;
}

void timer_free(struct timer *t)
{
    if (!t) return;
    if (t->from) (void)cudaEventDestroy(t->from);
    if (t->to) (void)cudaEventDestroy(t->to);
    gpu_free(t->g, t->memory);
    free(t);
}

void timer_rest(struct timer *t)
{
    if (!t || !t->memory) return;
    gpu_free(t->g, t->memory);
    t->memory = NULL;
    t->bytes = 0;
}

static size_t rounded(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* Fills all of it with normals, whatever it will be used as: a device computes zeros faster than
 * real feature maps. */
static enum status fill(struct timer *t, enum dtype dtype, struct error *err)
{
    struct gpu *g = t->g;
    const size_t values = (size_t)NOISE_SIDE * NOISE_SIDE * NOISE_CHANNELS;
    const struct tensor wide = { NULL,           DT_F32,        1, NOISE_SIDE, NOISE_SIDE,
                                 NOISE_CHANNELS, NOISE_CHANNELS };
    struct gpu_copy cast = { .x = wide, .y = wide };
    void *noise = NULL;
    enum status s = gpu_alloc(g, values * (sizeof(float) + dtype_size(dtype)), &noise, err);
    if (s) return s;
    struct gpu_normals normals = {
        .n = 1, .w = NOISE_SIDE, .h = NOISE_SIDE, .channels = NOISE_CHANNELS, .dst = noise
    };
    cast.x.data = noise;
    cast.y.data = (char *)noise + values * sizeof(float);
    cast.y.dtype = dtype;
    s = gpu_check(g, gpu_normals(&normals, g->stream), "noise", err);
    if (!s) s = gpu_check(g, gpu_copy(&cast, g->stream), "noise", err);
    const size_t piece = values * dtype_size(dtype);
    for (size_t at = 0; !s && at < t->bytes; at += piece) {
        size_t n = t->bytes - at < piece ? t->bytes - at : piece;
        s = gpu_check(g,
                      (int)cudaMemcpyAsync(t->memory + at, cast.y.data, n, cudaMemcpyDeviceToDevice,
                                           g->stream),
                      "noise", err);
    }
    if (!s) s = gpu_finish(g, err);
    gpu_free(g, noise);
    return s;
}

static enum status reserve(struct timer *t, size_t bytes, enum dtype dtype, struct error *err)
{
    if (bytes <= t->bytes) return ST_OK;
    timer_rest(t);
    void *p = NULL;
    enum status s = gpu_alloc(t->g, bytes, &p, err);
    if (s) return s;
    t->memory = p;
    t->bytes = bytes;
    return fill(t, dtype, err);
}

/* Bytes of x, weights, bias, residual and y, each in a buffer of its own. */
static void sizes_of(const struct dnn_op *o, uint32_t n, size_t out[5])
{
    const size_t size = dtype_size(o->dtype), px = (size_t)n * o->h * o->w;
    const size_t out_px = (size_t)n * ((o->h + o->stride - 1) / (o->stride ? o->stride : 1)) *
                          ((o->w + o->stride - 1) / (o->stride ? o->stride : 1));
    out[0] = rounded(px * o->x_ld * size);
    out[1] = rounded((size_t)o->ic * o->oc * o->kernel * o->kernel * size);
    out[2] = rounded((size_t)o->oc * sizeof(float));
    out[3] = rounded(o->r_ld ? out_px * o->r_ld * size : 0);
    out[4] = rounded((o->kind == DNN_CONV ? out_px : px) * o->y_ld * size);
}

/* Where an engine cannot be run or recorded, another is chosen; that is no fault, unless the device
 * is lost. */
static enum status no_engine(struct timer *t, const struct error *why, struct error *err)
{
    (void)cudaGetLastError();
    enum status s = gpu_finish(t->g, err);
    return s ? s : error_set(err, ST_UNSUPPORTED, "%s", why->detail);
}

static enum status try_recording(struct timer *t, struct dnn_plan *p, const struct dnn_io *io,
                                 struct error *err)
{
    struct gpu *g = t->g;
    struct error why = { 0 };
    cudaGraph_t graph = NULL;
    enum status s =
        gpu_check(g, (int)cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal),
                  "recording", err);
    if (s) return s;
    s = dnn_plan_run(p, g->dnn, io, &why);
    if (cudaStreamEndCapture(g->stream, &graph) != cudaSuccess && !s)
        s = error_set(&why, ST_UNSUPPORTED, "an engine that cannot be recorded");
    if (graph) (void)cudaGraphDestroy(graph);
    return s ? no_engine(t, &why, err) : ST_OK;
}

enum status timer_time(void *ctx, const struct dnn_op *op, struct dnn_plan *p, uint32_t n,
                       uint64_t *ns, struct error *err)
{
    struct timer *t = ctx;
    struct gpu *g = t->g;
    size_t sizes[5], total = 0;
    char *at[5];
    float ms = 0;
    sizes_of(op, n, sizes);
    for (int i = 0; i < 5; i++)
        total += sizes[i];
    enum status s = reserve(t, total, op->dtype, err);
    if (!s) s = gpu_reserve_workspace(g, dnn_plan_workspace_bytes(p), err);
    if (s) return s;
    at[0] = t->memory;
    for (int i = 1; i < 5; i++)
        at[i] = at[i - 1] + sizes[i - 1];
    const struct dnn_io io = { .x = at[0],
                               .weight = at[1],
                               .bias = at[2],
                               .wide_bias = (const float *)(const void *)at[2],
                               .residual = op->r_ld ? at[3] : NULL,
                               .y = at[4],
                               .workspace = g->workspace };
    for (int i = 0; !s && i <= TIMED_RUNS;
         i++) { /* the first run is not timed: the start is recorded again */
        struct error why = { 0 };
        if (i <= 1) s = gpu_check(g, (int)cudaEventRecord(t->from, g->stream), "an event", err);
        if (!s && dnn_plan_run(p, g->dnn, &io, &why)) return no_engine(t, &why, err);
    }
    if (!s) s = gpu_check(g, (int)cudaEventRecord(t->to, g->stream), "an event", err);
    if (!s) s = gpu_finish(g, err);
    if (!s) s = gpu_check(g, (int)cudaEventElapsedTime(&ms, t->from, t->to), "an event", err);
    if (!s) s = try_recording(t, p, &io, err);
    if (!s) *ns = (uint64_t)((double)ms * 1e6 / TIMED_RUNS);
    return s;
}
