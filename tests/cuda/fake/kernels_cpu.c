/* The launchers of engine/cuda/kernels.h on the CPU back end, for tests in which the emulated
 * kernels would take too long. Each launch is stored with a copy of its arguments, like a real one.
 * Computed in F32, rounded where a tensor has 16 bits. */
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/kernels.h"
#include "engine/graph/backend.h"
#include "tests/cuda/fake/fake.h"

static struct backend *the_cpu(void)
{
    static struct backend *cpu; /* never freed */
    struct error err = { 0 };
    if (!cpu && cpu_backend_open(&cpu, 1, &err)) fake_die("the CPU back end: %s", err.detail);
    return cpu;
}

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(64, bytes / 64 * 64 + 128);
    if (!p) fake_die("no memory");
    return p;
}

static void must(enum status s, const struct error *err)
{
    if (s) fake_die("a kernel: %s", err->detail);
}

/* A copy of the arguments for later. */
#define LAUNCH(run, arguments)                                                                     \
    launch(stream, run, memcpy(memory(sizeof(arguments)), &(arguments), sizeof(arguments)))

static int launch(void *stream, void (*run)(void *job), void *job)
{
    int e = fake_enqueue(stream, run, free, job);
    if (e) free(job);
    return e;
}

/* ---- tensors ---- */

static char *pixel(const struct tensor *t, size_t i)
{
    return (char *)t->data + i * t->ld * dtype_size(t->dtype);
}

static size_t pixels(const struct tensor *t)
{
    return (size_t)t->n * t->h * t->w;
}

static void expect(const struct tensor *t, const char *what)
{
    if (t->c > t->ld || pixels(t) == 0) fake_die("%s: a tensor that cannot be", what);
    fake_expect_device(t->data, ((pixels(t) - 1) * t->ld + t->c) * dtype_size(t->dtype), what);
}

static struct tensor tight(const struct tensor *t)
{
    struct tensor f = *t;
    f.dtype = DT_F32;
    f.ld = t->c;
    f.data = memory(pixels(t) * t->c * sizeof(float));
    return f;
}

static struct tensor widened(const struct tensor *t, const char *what)
{
    struct tensor f = tight(t);
    expect(t, what);
    for (size_t i = 0; i < pixels(t); i++)
        dtype_to_f32((float *)(void *)pixel(&f, i), pixel(t, i), t->dtype, t->c);
    return f;
}

static void narrow(const struct tensor *t, struct tensor *f, const char *what)
{
    expect(t, what);
    for (size_t i = 0; i < pixels(t); i++)
        dtype_from_f32(pixel(t, i), t->dtype, (const float *)(const void *)pixel(f, i), t->c);
    free(f->data);
}

/* ---- images ---- */

size_t gpu_norm_scratch(const struct tensor *x, uint32_t groups)
{
    return (size_t)x->n * groups; /* more than 0, so that a scratch is allocated */
}

/* The operations after rounding to `like`'s dtype; x is freed. */
static struct tensor resampled(struct tensor *x, const struct tensor *like, bool up)
{
    struct error err = { 0 };
    struct tensor y = tight(like);
    const struct backend_ops *ops = the_cpu()->ops;
    uint16_t rounded;
    for (size_t i = 0; like->dtype != DT_F32 && i < pixels(x) * x->c; i++) {
        float *v = (float *)x->data + i;
        dtype_from_f32(&rounded, like->dtype, v, 1);
        dtype_to_f32(v, &rounded, like->dtype, 1);
    }
    must((up ? ops->net.upsample : ops->net.downsample)(the_cpu(), x, &y, &err), &err);
    free(x->data);
    return y;
}

static void run_norm(void *job)
{
    const struct gpu_norm *a = job;
    struct error err = { 0 };
    struct tensor x = widened(&a->x, "a norm's x"), y = tight(&a->x);
    struct tensor ss = { (void *)a->scale_shift, DT_F32, x.n, 1, 1, 2 * x.c, a->scale_shift_ld };
    fake_expect_device(a->scratch, gpu_norm_scratch(&a->x, a->groups) * 4, "a norm's scratch");
    memset(a->scratch, 0xff, gpu_norm_scratch(&a->x, a->groups) * 4);
    if (a->condition) fake_expect_device(a->condition, x.n * sizeof *a->condition, "a norm's sets");
    if (a->mean_rstd) fake_die("moments are not computed here");
    const struct group_norm_args n = { .x = x,
                                       .y = y,
                                       .groups = a->groups,
                                       .eps = a->eps,
                                       .gamma = a->gamma,
                                       .beta = a->beta,
                                       .condition = a->condition,
                                       .scale_shift = a->scale_shift ? &ss : NULL,
                                       .silu = a->silu };
    must(the_cpu()->ops->net.group_norm(the_cpu(), &n, &err), &err);
    const bool is_up = a->resample == RESAMPLE_UP;
    if (a->x_too.data) {
        struct tensor too = resampled(&x, &a->x_too, is_up);
        narrow(&a->x_too, &too, "a norm's x, resampled");
    } else {
        free(x.data);
    }
    if (a->resample) y = resampled(&y, &a->y, is_up);
    narrow(&a->y, &y, "a norm's y");
}

int gpu_group_norm(const struct gpu_norm *a, void *stream)
{
    return LAUNCH(run_norm, *a);
}

struct resampling {
    struct tensor x, y;
    bool up;
};

static void run_resample(void *job)
{
    const struct resampling *a = job;
    struct tensor x = widened(&a->x, "an image"), y = resampled(&x, &a->y, a->up);
    narrow(&a->y, &y, "a resampled image");
}

int gpu_upsample(const struct tensor *x, const struct tensor *y, void *stream)
{
    const struct resampling a = { *x, *y, true };
    return LAUNCH(run_resample, a);
}

int gpu_downsample(const struct tensor *x, const struct tensor *y, void *stream)
{
    const struct resampling a = { *x, *y, false };
    return LAUNCH(run_resample, a);
}

static void run_permute(void *job)
{
    const struct resampling *a = job;
    struct error err = { 0 };
    struct tensor x = widened(&a->x, "pixels or cells"), y = tight(&a->y);
    const struct backend_ops *ops = the_cpu()->ops;
    must((a->up ? ops->net.depth_to_space : ops->net.space_to_depth)(the_cpu(), &x, &y, &err),
         &err);
    free(x.data);
    narrow(&a->y, &y, "cells or pixels");
}

int gpu_space_to_depth(const struct tensor *x, const struct tensor *y, void *stream)
{
    const struct resampling a = { *x, *y, false };
    return LAUNCH(run_permute, a);
}

int gpu_depth_to_space(const struct tensor *x, const struct tensor *y, void *stream)
{
    const struct resampling a = { *x, *y, true };
    return LAUNCH(run_permute, a);
}

static void run_copy(void *job)
{
    const struct gpu_copy *a = job;
    const size_t px = (size_t)a->x.h * a->x.w;
    struct tensor x = widened(&a->x, "a copy's x"), y = a->y;
    y.c = a->first + a->x.c + a->zeros;
    expect(&y, "a copy's y");
    float *zeros = memory((a->zeros + 1) * sizeof *zeros);
    memset(zeros, 0, (a->zeros + 1) * sizeof *zeros);
    for (size_t i = 0; i < pixels(&x); i++) {
        const size_t row = i / px;
        float *v = (float *)(void *)pixel(&x, i);
        char *to = pixel(&y, i) + a->first * dtype_size(y.dtype);
        if (a->add) {
            const float *e = a->add + (a->condition ? a->condition[row] : row) * a->add_ld;
            fake_expect_device(e, x.c * sizeof *e, "a copy's sum");
            for (size_t c = 0; c < x.c; c++)
                v[c] += e[c];
        }
        dtype_from_f32(to, y.dtype, v, x.c);
        dtype_from_f32(to + x.c * dtype_size(y.dtype), y.dtype, zeros, a->zeros);
    }
    free(zeros);
    free(x.data);
}

int gpu_copy(const struct gpu_copy *a, void *stream)
{
    return LAUNCH(run_copy, *a);
}

static void run_conv(void *job)
{
    const struct gpu_conv *a = job;
    struct error err = { 0 };
    struct tensor x = widened(&a->x, "a convolution's x"), y = tight(&a->y), r = { 0 };
    const size_t taps = (size_t)a->kernel * a->kernel, ic = x.c, oc = y.c;
    if (a->has_residual) r = widened(&a->residual, "a residual");
    fake_expect_device(a->weight, taps * ic * oc * sizeof(float), "weights");
    float *weight = memory(taps * ic * oc * sizeof *weight);
    for (size_t t = 0; t < taps; t++)
        for (size_t i = 0; i < ic; i++)
            for (size_t o = 0; o < oc; o++)
                weight[(o * ic + i) * taps + t] = a->weight[(t * ic + i) * oc + o];
    uint32_t conditions = 1;
    for (uint32_t i = 0; a->condition && i < x.n; i++)
        conditions = a->condition[i] + 1 > conditions ? a->condition[i] + 1 : conditions;
    fake_expect_device(a->bias, conditions * oc * sizeof(float), "biases");
    const struct conv_desc d = { .h = x.h,
                                 .w = x.w,
                                 .ic = x.c,
                                 .oc = y.c,
                                 .kernel = a->kernel,
                                 .stride = a->stride,
                                 .conditions = conditions,
                                 .dtype = DT_F32,
                                 .x_ld = ic,
                                 .y_ld = oc,
                                 .r_ld = a->has_residual ? oc : 0 };
    struct conv_plan *p = NULL;
    const struct backend_ops *ops = the_cpu()->ops;
    must(ops->net.conv_plan(the_cpu(), &d, weight, a->bias, &p, &err), &err);
    must(ops->net.conv(the_cpu(), p, &x, a->has_residual ? &r : NULL, &y, a->condition, &err),
         &err);
    ops->net.conv_plan_free(the_cpu(), p);
    free(weight);
    free(x.data);
    free(r.data);
    narrow(&a->y, &y, "a convolution's y");
}

int gpu_conv(const struct gpu_conv *a, void *stream)
{
    return LAUNCH(run_conv, *a);
}

static void run_attention(void *job)
{
    const struct gpu_attention *a = job;
    struct error err = { 0 };
    struct tensor qkv = widened(&a->qkv, "qkv"), y = tight(&a->y);
    const struct attention_desc d = { .h = y.h,
                                      .w = y.w,
                                      .heads = a->heads,
                                      .head_channels = y.c / a->heads,
                                      .new_order = a->new_order,
                                      .dtype = DT_F32,
                                      .qkv_ld = qkv.ld,
                                      .y_ld = y.ld };
    struct attention_plan *p = NULL;
    const struct backend_ops *ops = the_cpu()->ops;
    must(ops->net.attention_plan(the_cpu(), &d, &p, &err), &err);
    must(ops->net.attention(the_cpu(), p, &qkv, &y, &err), &err);
    ops->net.attention_plan_free(the_cpu(), p);
    free(qkv.data);
    narrow(&a->y, &y, "an attention's y");
}

int gpu_attention(const struct gpu_attention *a, void *stream)
{
    return LAUNCH(run_attention, *a);
}

/* ---- vectors ---- */

struct vectors {
    const float *x, *e, *weight, *bias;
    const uint32_t *label;
    float *y;
    uint32_t n, ic, oc;
    size_t count;
    float hz;
};

static struct tensor vector(const float *data, uint32_t n, uint32_t c, const char *what)
{
    fake_expect_device(data, (size_t)n * c * sizeof *data, what);
    return (struct tensor){ (void *)data, DT_F32, n, 1, 1, c, c };
}

static void run_timestep(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    const struct tensor y = vector(a->y, a->n, a->oc, "an embedding");
    (void)vector(a->x, a->n, 1, "times");
    must(the_cpu()->ops->net.timestep(the_cpu(), a->x, &y, &err), &err);
}

int gpu_timestep(const float *t, uint32_t n, uint32_t c, float *y, void *stream)
{
    const struct vectors a = { .x = t, .y = y, .n = n, .oc = c };
    return LAUNCH(run_timestep, a);
}

static void run_label(void *job)
{
    const struct vectors *a = job;
    fake_expect_device(a->label, a->n * sizeof *a->label, "labels");
    for (uint32_t i = 0; i < a->n; i++) {
        const struct tensor row = vector(a->x + (size_t)a->label[i] * a->oc, 1, a->oc, "a label");
        memcpy(a->y + (size_t)i * a->oc, row.data, a->oc * sizeof *a->y);
    }
}

int gpu_label(const float *table, const uint32_t *label, uint32_t n, uint32_t c, float *y,
              void *stream)
{
    const struct vectors a = { .x = table, .label = label, .y = y, .n = n, .oc = c };
    return LAUNCH(run_label, a);
}

static void run_linear(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    const struct tensor x = vector(a->x, a->n, a->ic, "a linear layer's x"),
                        y = vector(a->y, a->n, a->oc, "a linear layer's y");
    struct linear_plan *p = NULL;
    const struct backend_ops *ops = the_cpu()->ops;
    (void)vector(a->weight, a->ic, a->oc, "weights");
    (void)vector(a->bias, 1, a->oc, "biases");
    must(ops->net.linear_plan(the_cpu(), a->ic, a->oc, a->weight, a->bias, &p, &err), &err);
    must(ops->net.linear(the_cpu(), p, &x, &y, &err), &err);
    ops->net.linear_plan_free(the_cpu(), p);
}

int gpu_linear(const float *weight, const float *bias, const float *x, float *y, uint32_t n,
               uint32_t ic, uint32_t oc, void *stream)
{
    const struct vectors a = {
        .weight = weight, .bias = bias, .x = x, .y = y, .n = n, .ic = ic, .oc = oc
    };
    return LAUNCH(run_linear, a);
}

static void run_silu(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    const struct tensor x = vector(a->x, 1, (uint32_t)a->count, "SiLU's x"),
                        y = vector(a->y, 1, (uint32_t)a->count, "SiLU's y");
    must(the_cpu()->ops->net.silu(the_cpu(), &x, &y, &err), &err);
}

int gpu_silu(const float *x, float *y, size_t count, void *stream)
{
    const struct vectors a = { .x = x, .y = y, .count = count };
    return LAUNCH(run_silu, a);
}

static void run_add(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    const struct tensor x = vector(a->x, 1, (uint32_t)a->count, "a sum's x"),
                        e = vector(a->e, 1, (uint32_t)a->count, "a sum's e"),
                        y = vector(a->y, 1, (uint32_t)a->count, "a sum's y");
    must(the_cpu()->ops->net.add(the_cpu(), &x, &e, &y, &err), &err);
}

int gpu_add(const float *x, const float *e, float *y, size_t count, void *stream)
{
    const struct vectors a = { .x = x, .e = e, .y = y, .count = count };
    return LAUNCH(run_add, a);
}

/* ---- the sampler ---- */

static void run_normals(void *job)
{
    const struct gpu_normals *a = job;
    struct error err = { 0 };
    const size_t row = (size_t)a->w * a->h * a->channels;
    fake_expect_device(a->dst, a->n * row * sizeof *a->dst, "noise");
    for (uint32_t i = 0; i < a->n; i++) {
        const struct gpu_row *r = a->rows ? &a->rows[i] : &a->row;
        const struct normals_args n = { .seed = r->seed,
                                        .stream = r->stream,
                                        .sample = r->sample,
                                        .x0 = r->x0,
                                        .y0 = r->y0,
                                        .w = a->w,
                                        .h = a->h,
                                        .channels = a->channels,
                                        .dst = a->dst + i * row };
        must(the_cpu()->ops->net.normals(the_cpu(), &n, &err), &err);
    }
}

int gpu_normals(const struct gpu_normals *a, void *stream)
{
    return LAUNCH(run_normals, *a);
}

static void run_sampler_in(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    (void)vector(a->x, a->n, (uint32_t)a->count, "y_in");
    (void)vector(a->e, a->n, (uint32_t)a->count, "z");
    (void)vector(a->y, a->n, (uint32_t)a->count, "x");
    for (uint32_t i = 0; i < a->n; i++) {
        const struct gpu_row *rows = (const struct gpu_row *)(const void *)a->label;
        const size_t at = i * a->count;
        must(the_cpu()->ops->net.sampler_in(the_cpu(), a->x + at, a->e + at,
                                            rows ? rows[i].hz : a->hz, a->y + at, a->count, &err),
             &err);
    }
}

int gpu_sampler_in(const float *y_in, const float *z, const struct gpu_row *rows, float hz,
                   float *x, uint32_t n, size_t count, void *stream)
{
    const struct vectors a = { .x = y_in,
                               .e = z,
                               .label = (const uint32_t *)(const void *)rows,
                               .y = x,
                               .n = n,
                               .count = count,
                               .hz = hz };
    return LAUNCH(run_sampler_in, a);
}

static void run_sampler_join(void *job)
{
    const struct vectors *a = job;
    struct error err = { 0 };
    const size_t pixels = a->count;
    (void)vector(a->x, a->n, (uint32_t)(3 * pixels), "y_in");
    (void)vector(a->e, a->n, (uint32_t)(3 * pixels), "z");
    (void)vector(a->y, a->n, (uint32_t)(6 * pixels), "x");
    for (uint32_t i = 0; i < a->n; i++) {
        const struct gpu_row *rows = (const struct gpu_row *)(const void *)a->label;
        must(the_cpu()->ops->net.sampler_join(the_cpu(), a->x + i * 3 * pixels,
                                              a->e + i * 3 * pixels, rows ? rows[i].hz : a->hz,
                                              a->y + i * 6 * pixels, pixels, &err),
             &err);
    }
}

int gpu_sampler_join(const float *y_in, const float *z, const struct gpu_row *rows, float hz,
                     float *x, uint32_t n, size_t pixels, void *stream)
{
    const struct vectors a = { .x = y_in,
                               .e = z,
                               .label = (const uint32_t *)(const void *)rows,
                               .y = x,
                               .n = n,
                               .count = pixels,
                               .hz = hz };
    return LAUNCH(run_sampler_join, a);
}

struct sampler_end {
    struct tensor x, eps, x0;
    float std;
    bool linear;
};

static void run_sampler_out(void *job)
{
    const struct sampler_end *a = job;
    struct error err = { 0 };
    struct tensor eps = widened(&a->eps, "eps");
    expect(&a->x, "x");
    expect(&a->x0, "x0");
    must(the_cpu()->ops->net.sampler_out(the_cpu(), &a->x, &eps, a->std, a->linear, &a->x0, &err),
         &err);
    free(eps.data);
}

int gpu_sampler_out(const struct tensor *x, const struct tensor *eps, float std, bool linear,
                    const struct tensor *x0, void *stream)
{
    const struct sampler_end a = { *x, *eps, *x0, std, linear };
    return LAUNCH(run_sampler_out, a);
}
