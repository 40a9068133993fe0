/* The CUDA back end: checks shapes and launches kernels in order on one stream; it waits for copies
 * only. */
#include "engine/cuda/internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { TIMED_OFFERS = 8 };

enum status cuda_expect(bool ok, const char *what, struct error *err)
{
    return ok ? ST_OK : error_set(err, ST_INTERNAL, "cuda back end: %s", what);
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c;
}

/* True if y has x's shape, doubled or halved. */
static bool is_resampled(const struct tensor *x, const struct tensor *y, enum resample how)
{
    const struct tensor *small = how == RESAMPLE_UP ? x : y, *large = how == RESAMPLE_UP ? y : x;
    const uint32_t times = how == RESAMPLE_NONE ? 1 : 2;
    return large->h == times * small->h && large->w == times * small->w && x->c == y->c &&
           x->n == y->n;
}

static bool is_vector(const struct tensor *t)
{
    return t->dtype == DT_F32 && t->h == 1 && t->w == 1 && t->ld == t->c;
}

static enum status launched(struct cuda_backend *c, int e, const char *what, struct error *err)
{
    return gpu_check(&c->gpu, e, what, err);
}

/* ---- properties ---- */

static const char *isa(struct backend *b)
{
    return cuda_of(b)->isa;
}

static bool has_dtype(struct backend *b, enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || (t == DT_BF16 && cuda_of(b)->gpu.major >= 8);
}

static enum dtype best_dtype(struct backend *b)
{
    return has_dtype(b, DT_BF16) ? DT_BF16 : DT_F32;
}

static uint32_t rows_per_batch(struct backend *b)
{
    return cuda_of(b)->max_rows;
}

static bool gauges(struct backend *b, struct device_gauges *out)
{
    return nvml_gauges(&cuda_of(b)->gpu, out);
}

/* ---- memory ---- */

static enum status alloc(struct backend *b, size_t bytes, void **out, struct error *err)
{
    return gpu_alloc(&cuda_of(b)->gpu, bytes, out, err);
}

static void release(struct backend *b, void *p)
{
    gpu_free(&cuda_of(b)->gpu, p);
}

static enum status copy_in(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err)
{
    return gpu_copy_in(&cuda_of(b)->gpu, device, host, bytes, err);
}

static enum status copy_out(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err)
{
    return gpu_copy_out(&cuda_of(b)->gpu, host, device, bytes, err);
}

static enum status finish(struct backend *b, struct error *err)
{
    enum status s = gpu_finish(&cuda_of(b)->gpu, err);
    return s ? s : cuda_stream_slots_finish(cuda_of(b), err);
}

/* ---- embeddings ---- */

struct linear_plan {
    uint32_t ic, oc;
    float *weight, *bias;
};

static void linear_plan_free(struct backend *b, struct linear_plan *p)
{
    if (!p) return;
    release(b, p->weight);
    release(b, p->bias);
    free(p);
}

static enum status upload(struct backend *b, const float *values, size_t count, float **out,
                          struct error *err)
{
    void *p = NULL;
    enum status s = alloc(b, count * sizeof *values, &p, err);
    *out = p;
    return s ? s : copy_in(b, p, values, count * sizeof *values, err);
}

static enum status linear_plan(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                               const float *bias, struct linear_plan **out, struct error *err)
{
    struct linear_plan *p = calloc(1, sizeof *p);
    float *zeros = bias ? NULL : calloc(oc, sizeof *zeros);
    if (!p || (!bias && !zeros)) {
        free(p);
        free(zeros);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a linear layer's plan");
    }
    p->ic = ic;
    p->oc = oc;
    enum status s = upload(b, weight, (size_t)ic * oc, &p->weight, err);
    if (!s) s = upload(b, bias ? bias : zeros, oc, &p->bias, err);
    free(zeros);
    if (s)
        linear_plan_free(b, p);
    else
        *out = p;
    return s;
}

static enum status linear(struct backend *b, struct linear_plan *p, const struct tensor *x,
                          const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(x->c == p->ic && y->c == p->oc && x->n == y->n && is_vector(x) &&
                            is_vector(y),
                        "a linear layer's tensors are not those of its plan", err);
    return s ? s
             : launched(c,
                        gpu_linear(p->weight, p->bias, x->data, y->data, x->n, p->ic, p->oc,
                                   c->gpu.stream),
                        "a linear layer", err);
}

static enum status timestep(struct backend *b, const float *t, const struct tensor *y,
                            struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const void *times = NULL;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(y->c > 0 && y->c % 2 == 0 && is_vector(y), "an embedding of odd width",
                        err);
    if (!s) s = cuda_values(c, t, y->n, &times, err);
    return s ? s
             : launched(c, gpu_timestep(times, y->n, y->c, y->data, c->gpu.stream), "an embedding",
                        err);
}

static enum status label(struct backend *b, const float *table, const uint32_t *labels,
                         const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const void *which = NULL;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s) s = cuda_expect(is_vector(y), "labels of another shape", err);
    if (!s) s = cuda_values(c, labels, y->n, &which, err);
    return s ? s
             : launched(c, gpu_label(table, which, y->n, y->c, y->data, c->gpu.stream), "labels",
                        err);
}

static enum status silu(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(same_shape(x, y) && is_vector(x) && is_vector(y),
                        "SiLU between different shapes", err);
    return s ? s
             : launched(c, gpu_silu(x->data, y->data, (size_t)x->n * x->c, c->gpu.stream), "SiLU",
                        err);
}

static enum status add(struct backend *b, const struct tensor *x, const struct tensor *e,
                       const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(same_shape(x, y) && same_shape(x, e) && is_vector(x) && is_vector(e) &&
                            is_vector(y),
                        "a sum of different shapes", err);
    return s ? s
             : launched(c, gpu_add(x->data, e->data, y->data, (size_t)x->n * x->c, c->gpu.stream),
                        "a sum", err);
}

/* ---- feature maps ---- */

static enum status group_norm(struct backend *b, const struct group_norm_args *a, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct tensor *ss = a->scale_shift, *too = a->x_too;
    const void *condition = NULL;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(
            is_resampled(&a->x, &a->y, a->resample) && a->groups > 0 && a->x.c % a->groups == 0 &&
                a->x.dtype == a->y.dtype && has_dtype(b, a->x.dtype) &&
                (!too || (a->resample && same_shape(&a->y, too) && too->dtype == a->x.dtype)) &&
                (!ss || (is_vector(ss) && ss->c == 2 * a->x.c && ss->n == a->x.n)),
            "a group norm whose groups do not divide the channels", err);
    /* A norm has no plan: the first norm of its size may grow the scratch; a first run is never
     * recorded. */
    if (!s) s = gpu_reserve_scratch(&c->gpu, gpu_norm_scratch(&a->x, a->groups) * 4, err);
    if (!s) s = cuda_values(c, a->condition, a->x.n, &condition, err);
    if (s) return s;
    const struct gpu_norm n = { .x = a->x,
                                .y = a->y,
                                .groups = a->groups,
                                .eps = a->eps,
                                .gamma = a->gamma,
                                .beta = a->beta,
                                .condition = condition,
                                .scale_shift = ss ? ss->data : NULL,
                                .scale_shift_ld = ss ? ss->ld : 0,
                                .silu = a->silu,
                                .resample = a->resample,
                                .x_too = too ? *too : (struct tensor){ 0 },
                                .scratch = c->gpu.scratch };
    return launched(c, gpu_group_norm(&n, c->gpu.stream), "a group norm", err);
}

static enum status resample(struct backend *b, const struct tensor *x, const struct tensor *y,
                            bool up, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(is_resampled(x, y, up ? RESAMPLE_UP : RESAMPLE_DOWN) &&
                            x->dtype == y->dtype && has_dtype(b, x->dtype),
                        "resampling to another size than twice or half", err);
    if (s) return s;
    return launched(c, up ? gpu_upsample(x, y, c->gpu.stream) : gpu_downsample(x, y, c->gpu.stream),
                    "resampling", err);
}

static enum status upsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                            struct error *err)
{
    return resample(b, x, y, true, err);
}

static enum status downsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                              struct error *err)
{
    return resample(b, x, y, false, err);
}

/* Checks a feature map of pixels and one of cells of them. */
static enum status permute(struct backend *b, const struct tensor *pixels,
                           const struct tensor *cells, bool to_cells, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const uint32_t p = cells->h ? pixels->h / cells->h : 0;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(p > 0 && pixels->h == p * cells->h && pixels->w == p * cells->w &&
                            cells->c == p * p * pixels->c && pixels->n == cells->n &&
                            pixels->dtype == cells->dtype && has_dtype(b, cells->dtype) &&
                            pixels->data != cells->data,
                        "cells that do not hold their pixels", err);
    if (s) return s;
    return launched(c,
                    to_cells ? gpu_space_to_depth(pixels, cells, c->gpu.stream)
                             : gpu_depth_to_space(cells, pixels, c->gpu.stream),
                    "cells of pixels", err);
}

static enum status space_to_depth(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    return permute(b, x, y, true, err);
}

static enum status depth_to_space(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    return permute(b, y, x, false, err);
}

/* Copies x (+ e) into the channels from `first` of y; does nothing where x already is that part of
 * y. */
static enum status copy(struct cuda_backend *c, const struct tensor *x, const struct tensor *e,
                        const struct tensor *y, uint32_t first, struct error *err)
{
    const struct gpu_copy a = {
        .x = *x, .y = *y, .first = first, .add = e ? e->data : NULL, .add_ld = e ? e->ld : 0
    };
    const char *to = (const char *)y->data + first * dtype_size(y->dtype);
    if (x->data == (const void *)to && !e && x->dtype == y->dtype && x->ld == y->ld) return ST_OK;
    return launched(c, gpu_copy(&a, c->gpu.stream), "a copy", err);
}

static enum status concat(struct backend *b, const struct tensor *a, const struct tensor *o,
                          const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(a->h == y->h && a->w == y->w && o->h == y->h && o->w == y->w &&
                            a->c + o->c == y->c && a->n == y->n && o->n == y->n &&
                            a->dtype == y->dtype && o->dtype == y->dtype && has_dtype(b, y->dtype),
                        "a concat of feature maps that do not fit", err);
    if (!s) s = copy(c, a, NULL, y, 0, err);
    return s ? s : copy(c, o, NULL, y, a->c, err);
}

static enum status add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(same_shape(x, y) && e->n == x->n && e->c == x->c && is_vector(e) &&
                            has_dtype(b, x->dtype) && has_dtype(b, y->dtype),
                        "a sum of a feature map and an embedding that do not fit", err);
    return s ? s : copy(c, x, e, y, 0, err);
}

static enum status cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(x->n == y->n && x->h == y->h && x->w == y->w && x->c <= y->ld &&
                            has_dtype(b, x->dtype) && has_dtype(b, y->dtype),
                        "a cast between different shapes", err);
    return s ? s : copy(c, x, NULL, y, 0, err);
}

/* ---- the sampler ---- */

static enum status normals(struct backend *b, const struct normals_args *a, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct gpu_normals n = { .row = { .seed = a->seed,
                                            .stream = a->stream,
                                            .sample = a->sample,
                                            .x0 = a->x0,
                                            .y0 = a->y0 },
                                   .n = 1,
                                   .w = a->w,
                                   .h = a->h,
                                   .channels = a->channels,
                                   .dst = a->dst };
    enum status s = gpu_enter(&c->gpu, err);
    return s ? s : launched(c, gpu_normals(&n, c->gpu.stream), "noise", err);
}

static enum status sampler_in(struct backend *b, const float *y_in, const float *z, float hz,
                              float *x, size_t count, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    return s ? s
             : launched(c, gpu_sampler_in(y_in, z, NULL, hz, x, 1, count, c->gpu.stream),
                        "the sampler", err);
}

static enum status sampler_join(struct backend *b, const float *y_in, const float *z, float hz,
                                float *x, size_t pixels, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    return s ? s
             : launched(c, gpu_sampler_join(y_in, z, NULL, hz, x, 1, pixels, c->gpu.stream),
                        "the sampler", err);
}

static enum status sampler_out(struct backend *b, const struct tensor *x, const struct tensor *eps,
                               float std, bool linear, const struct tensor *x0, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(x->c == 3 && x0->c == 3 && eps->c >= 3 && x->h == eps->h &&
                            x->w == eps->w && x->n == eps->n && same_shape(x, x0) &&
                            x->dtype == DT_F32 && x0->dtype == DT_F32,
                        "the sampler's feature maps do not fit", err);
    return s ? s
             : launched(c, gpu_sampler_out(x, eps, std, linear, x0, c->gpu.stream), "the sampler",
                        err);
}

/* ---- open and close ---- */

static void cuda_close(struct backend *b)
{
    struct cuda_backend *c = cuda_of(b);
    (void)cudaSetDevice(c->gpu.index);
    while (c->records)
        cuda_execution_forget(b, c->records->key);
    cuda_stream_slots_done(c);
    timer_free(c->timer);
    dnn_cache_free(c->plans);
    dnn_target_free(c->target);
    gpu_free(&c->gpu, c->values);
    gpu_done(&c->gpu);
    free(c);
}

static const struct backend_ops cuda_ops = {
    .device.name = "cuda",
    .device.host_memory = false,
    .device.close = cuda_close,
    .device.isa = isa,
    .device.has_dtype = has_dtype,
    .device.best_dtype = best_dtype,
    .device.rows_per_batch = rows_per_batch,
    .device.batch_rows = cuda_batch_rows,
    .device.execution_begin = cuda_execution_begin,
    .device.execution_end = cuda_execution_end,
    .device.execution_forget = cuda_execution_forget,
    .device.finish = finish,
    .device.alloc = alloc,
    .device.free = release,
    .device.copy_in = copy_in,
    .device.copy_out = copy_out,
    .device.stream_slots = MAX_STREAM_SLOTS,
    .device.host_alloc = cuda_host_alloc,
    .device.host_free = cuda_host_free,
    .device.send = cuda_send,
    .device.receive = cuda_receive,
    .device.wait = cuda_wait,
    .device.gauges = gauges,
    .net.conv_plan = cuda_conv_plan,
    .net.conv_plan_free = cuda_conv_plan_free,
    .net.conv_plan_bytes = cuda_conv_plan_bytes,
    .net.conv = cuda_conv,
    .net.linear_plan = linear_plan,
    .net.linear_plan_free = linear_plan_free,
    .net.linear = linear,
    .net.attention_plan = cuda_attention_plan,
    .net.attention_plan_free = cuda_attention_plan_free,
    .net.attention = cuda_attention,
    .net.group_norm = group_norm,
    .net.norm_resamples = true,
    .net.upsample = upsample,
    .net.downsample = downsample,
    .net.space_to_depth = space_to_depth,
    .net.depth_to_space = depth_to_space,
    .net.concat = concat,
    .net.add_channel = add_channel,
    .net.timestep = timestep,
    .net.label = label,
    .net.silu = silu,
    .net.add = add,
    .net.cast = cast,
    .net.normals = normals,
    .net.sampler_in = sampler_in,
    .net.sampler_join = sampler_join,
    .net.sampler_out = sampler_out,
    .images = &cuda_images,
};

/* Kernels are compiled for certain cards and later ones. A card without kernels is detected here,
 * where another back end can still be chosen. */
static enum status has_kernels(struct cuda_backend *c, struct error *err)
{
    const struct gpu_normals n = {
        .n = 1, .w = MAX_BATCH_ROWS, .h = 3, .channels = 1, .dst = c->values
    };
    enum status s =
        launched(c, gpu_normals(&n, c->gpu.stream), "david's kernels on this card", err);
    return s ? s : gpu_finish(&c->gpu, err);
}

static enum status make(struct cuda_backend *c, const struct plugin_options *o, struct error *err)
{
    enum status s = gpu_init(&c->gpu, o->device, err);
    if (s) return s;
    struct dnn_selector selector = { .candidates = TIMED_OFFERS };
    snprintf(c->isa, sizeof c->isa, "sm_%d%d", c->gpu.major, c->gpu.minor);
    s = dnn_target_new(&c->target, c->gpu.dnn, NULL, err);
    /* Times differ from start to start, and so would the chosen engines: nothing is timed where the
     * bytes must be the same. */
    if (!s && !o->one_size) s = timer_new(&c->timer, &c->gpu, err);
    selector.target = c->target;
    if (c->timer) {
        selector.time = timer_time;
        selector.ctx = c->timer;
    }
    if (!s) s = dnn_cache_new(&c->plans, &selector, err);
    if (!s) s = gpu_alloc(&c->gpu, (size_t)VALUE_ARRAYS * MAX_BATCH_ROWS * 4, &c->values, err);
    if (!s) s = has_kernels(c, err);
    return s ? s : cuda_stream_slots_init(c, err);
}

enum status cuda_backend_open(struct backend **out, const struct plugin_options *o,
                              struct error *err)
{
    enum status s = cuda_expect(o->max_rows >= 1 && o->max_rows <= MAX_BATCH_ROWS,
                                "passes of no rows, or of too many", err);
    if (s) return s;
    struct cuda_backend *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the cuda back end");
    c->base.ops = &cuda_ops;
    c->tf32 = o->tf32;
    c->one_size = o->one_size;
    c->max_rows = o->max_rows;
    s = make(c, o, err);
    if (s)
        cuda_close(&c->base);
    else
        *out = &c->base;
    return s;
}
