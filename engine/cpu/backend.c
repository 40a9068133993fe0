/* The CPU back end: checks shapes and runs the loops of kernels.h row by row, so that a row's bytes
 * never depend on its batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/losses.h"
#include "engine/graph/backend/images.h"

enum status(cpu_expect)(bool ok, const char *what, struct error *err)
{
    return ok ? ST_OK : error_set(err, ST_INTERNAL, "cpu back end: %s", what);
}

static void *aligned(size_t bytes)
{
    return bytes > SIZE_MAX - 64 ? NULL : aligned_alloc(64, (bytes + 64) / 64 * 64);
}

float *cpu_floats(size_t count)
{
    return count > SIZE_MAX / sizeof(float) ? NULL : aligned(count * sizeof(float));
}

enum status cpu_scratch_reserve(struct cpu_backend *cpu, size_t floats, struct error *err)
{
    if (floats <= cpu->scratch_floats) return ST_OK;
    float *p = cpu_floats(floats);
    if (!p)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes of scratch",
                         floats * sizeof *p);
    free(cpu->scratch);
    cpu->scratch = p;
    cpu->scratch_floats = floats;
    return ST_OK;
}

size_t cpu_norm_scratch(size_t c)
{
    return (2 * NORM_CHUNKS + 3) * ((c + 15) / 16 * 16);
}

void *cpu_row(const struct tensor *t, uint32_t n)
{
    return (char *)t->data + (size_t)n * t->h * t->w * t->ld * dtype_size(t->dtype);
}

static size_t pixels_of(const struct tensor *t)
{
    return (size_t)t->h * t->w;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c;
}

static void cpu_close(struct backend *b)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    free(cpu->scratch);
    free(cpu);
}

static bool has_dtype(struct backend *b, enum dtype t)
{
    return t == DT_F32 || (t == DT_BF16 && ((struct cpu_backend *)b)->has_bf16);
}

static enum dtype best_dtype(struct backend *b)
{
    return ((struct cpu_backend *)b)->k->conv_bf16 ? DT_BF16 : DT_F32;
}

static const char *isa(struct backend *b)
{
    return cpu_isa_name(((struct cpu_backend *)b)->isa);
}

static uint32_t rows_per_batch(struct backend *b)
{
    (void)b;
    return 1;
}

static enum status alloc(struct backend *b, size_t bytes, void **out, struct error *err)
{
    (void)b;
    void *p = aligned(bytes);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes", bytes);
    *out = p;
    return ST_OK;
}

static void release(struct backend *b, void *p)
{
    (void)b;
    free(p);
}

struct linear_plan {
    uint32_t ic, oc;
    float *weight, *bias;
};

static void linear_plan_free(struct backend *b, struct linear_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weight);
    free(p->bias);
    free(p);
}

static enum status linear_plan(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                               const float *bias, struct linear_plan **out, struct error *err)
{
    struct linear_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a linear layer's plan");
    p->ic = ic;
    p->oc = oc;
    p->weight = cpu_floats((size_t)ic * oc);
    p->bias = calloc(oc, sizeof *p->bias);
    if (!p->weight || !p->bias) {
        linear_plan_free(b, p);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a linear layer's weights");
    }
    memcpy(p->weight, weight, (size_t)ic * oc * sizeof *weight);
    if (bias) memcpy(p->bias, bias, oc * sizeof *bias);
    *out = p;
    return ST_OK;
}

static enum status linear(struct backend *b, struct linear_plan *p, const struct tensor *x,
                          const struct tensor *y, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    enum status s = cpu_expect(x->c == p->ic && y->c == p->oc && x->n == y->n &&
                                   x->dtype == DT_F32 && y->dtype == DT_F32,
                               "a linear layer's tensors are not those of its plan", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        cpu->k->linear(p->weight, p->bias, cpu_row(x, n), cpu_row(y, n), p->ic, p->oc,
                       cpu->threads);
    return s;
}

struct attention_plan {
    struct attention_desc d;
    size_t packed, stride; /* in floats */
};

static void attention_plan_free(struct backend *b, struct attention_plan *p)
{
    (void)b;
    free(p);
}

static enum status attention_plan(struct backend *b, const struct attention_desc *d,
                                  struct attention_plan **out, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    enum status s = cpu_expect(d->h > 0 && d->w > 0 && d->heads > 0 && d->head_channels > 0 &&
                                   has_dtype(b, d->dtype),
                               "an attention that cannot be", err);
    if (s) return s;
    size_t nr = cpu->k->nr, pixels = (size_t)d->h * d->w, ch = d->head_channels;
    size_t padded = (pixels + nr - 1) / nr * nr, ch_padded = (ch + nr - 1) / nr * nr;
    struct attention_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an attention's plan");
    p->d = *d;
    p->packed = (d->heads * (padded * ch + pixels * ch_padded) + 15) / 16 * 16;
    p->stride = (ATTENTION_QUERIES * (padded + ch) + 15) / 16 * 16;
    s = cpu_scratch_reserve(cpu, p->packed + p->stride * (size_t)cpu->threads, err);
    if (s) {
        free(p);
        return s;
    }
    *out = p;
    return ST_OK;
}

static enum status attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct attention_desc *d = &p->d;
    uint32_t c = d->heads * d->head_channels;
    enum status s =
        cpu_expect(qkv->h == d->h && qkv->w == d->w && qkv->c == 3 * c && qkv->ld == d->qkv_ld &&
                       qkv->dtype == d->dtype && y->dtype == d->dtype && y->c == c &&
                       y->ld == d->y_ld && y->n == qkv->n,
                   "attention's tensors are not those of its plan", err);
    for (uint32_t n = 0; !s && n < y->n; n++) {
        struct attention_job j = { .d = d,
                                   .qkv = cpu_row(qkv, n),
                                   .y = cpu_row(y, n),
                                   .packed = cpu->scratch,
                                   .scratch = cpu->scratch + p->packed,
                                   .scratch_stride = p->stride,
                                   .threads = cpu->threads };
        cpu->k->attention(&j);
    }
    return s;
}

static enum status group_norm(struct backend *b, const struct group_norm_args *a, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct tensor *x = &a->x, *y = &a->y;
    enum status s = cpu_expect(same_shape(x, y) && a->groups > 0 && x->c % a->groups == 0 &&
                                   x->dtype == y->dtype && has_dtype(b, x->dtype),
                               "a group norm whose groups do not divide the channels", err);
    /* A norm has no plan: the first norm of its width may grow the scratch. */
    if (!s) s = cpu_scratch_reserve(cpu, cpu_norm_scratch(x->c), err);
    for (uint32_t n = 0; !s && n < x->n; n++) {
        size_t condition = a->condition ? a->condition[n] : 0;
        struct norm_job j = cpu_norm_job(cpu, x, n);
        j.y = cpu_row(y, n);
        j.y_ld = y->ld;
        j.groups = a->groups;
        j.eps = a->eps;
        j.gamma = a->gamma + condition * x->c;
        j.beta = a->beta + condition * x->c;
        j.scale_shift = a->scale_shift ? cpu_row(a->scale_shift, n) : NULL;
        j.silu = a->silu;
        cpu->k->group_norm(&j);
    }
    return s;
}

static enum status resample(struct backend *b, const struct tensor *x, const struct tensor *y,
                            bool up, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct tensor *small = up ? x : y, *large = up ? y : x;
    enum status s =
        cpu_expect(large->h == 2 * small->h && large->w == 2 * small->w && x->c == y->c &&
                       x->n == y->n && x->dtype == y->dtype && has_dtype(b, x->dtype),
                   "resampling to another size than twice or half", err);
    for (uint32_t n = 0; !s && n < y->n; n++) {
        struct resample_job j = { .x = cpu_row(x, n),
                                  .y = cpu_row(y, n),
                                  .dtype = x->dtype,
                                  .h = small->h,
                                  .w = small->w,
                                  .c = x->c,
                                  .x_ld = x->ld,
                                  .y_ld = y->ld,
                                  .threads = cpu->threads };
        if (up)
            cpu->k->upsample(&j);
        else
            cpu->k->downsample(&j);
    }
    return s;
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

static enum status patch(struct backend *b, const struct tensor *x, const struct tensor *y,
                         bool to_cells, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct tensor *cells = to_cells ? y : x, *pixels = to_cells ? x : y;
    const uint32_t p = cells->h ? pixels->h / cells->h : 0;
    enum status s = cpu_expect(p > 0 && pixels->h == p * cells->h && pixels->w == p * cells->w &&
                                   cells->c == p * p * pixels->c && x->n == y->n &&
                                   x->dtype == y->dtype && has_dtype(b, x->dtype),
                               "cells that do not hold their pixels", err);
    for (uint32_t n = 0; !s && n < y->n; n++) {
        struct patch_job j = { .x = cpu_row(x, n),
                               .y = cpu_row(y, n),
                               .dtype = x->dtype,
                               .h = cells->h,
                               .w = cells->w,
                               .c = pixels->c,
                               .patch = p,
                               .x_ld = x->ld,
                               .y_ld = y->ld,
                               .to_cells = to_cells,
                               .threads = cpu->threads };
        cpu->k->patch(&j);
    }
    return s;
}

static enum status space_to_depth(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    return patch(b, x, y, true, err);
}

static enum status depth_to_space(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    return patch(b, x, y, false, err);
}

/* Copies x (+ e) into the channels from `first` of y. */
static void copy(struct backend *b, const struct tensor *x, const struct tensor *e,
                 const struct tensor *y, uint32_t first)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    for (uint32_t n = 0; n < x->n; n++) {
        struct copy_job j = { .x = cpu_row(x, n),
                              .y = (char *)cpu_row(y, n) + first * dtype_size(y->dtype),
                              .from = x->dtype,
                              .to = y->dtype,
                              .pixels = pixels_of(x),
                              .x_ld = x->ld,
                              .y_ld = y->ld,
                              .c = x->c,
                              .add = e ? cpu_row(e, n) : NULL,
                              .threads = cpu->threads };
        if (j.x == j.y && !e && x->dtype == y->dtype && x->ld == y->ld) continue;
        cpu->k->copy(&j);
    }
}

static enum status concat(struct backend *b, const struct tensor *a, const struct tensor *c,
                          const struct tensor *y, struct error *err)
{
    enum status s =
        cpu_expect(a->h == y->h && a->w == y->w && c->h == y->h && c->w == y->w &&
                       a->c + c->c == y->c && a->n == y->n && c->n == y->n &&
                       a->dtype == y->dtype && c->dtype == y->dtype && has_dtype(b, y->dtype),
                   "a concat of feature maps that do not fit", err);
    if (s) return s;
    copy(b, a, NULL, y, 0);
    copy(b, c, NULL, y, a->c);
    return ST_OK;
}

static enum status add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err)
{
    enum status s =
        cpu_expect(same_shape(x, y) && e->n == x->n && e->c == x->c && e->dtype == DT_F32 &&
                       has_dtype(b, x->dtype) && has_dtype(b, y->dtype),
                   "a sum of a feature map and an embedding that do not fit", err);
    if (!s) copy(b, x, e, y, 0);
    return s;
}

static enum status cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    enum status s = cpu_expect(x->n == y->n && x->h == y->h && x->w == y->w && x->c <= y->ld &&
                                   has_dtype(b, x->dtype) && has_dtype(b, y->dtype),
                               "a cast between different shapes", err);
    if (!s) copy(b, x, NULL, y, 0);
    return s;
}

/* The angle is rounded to float32 as in the published code: at t = 999 the difference from exact
 * arithmetic is visible. */
static enum status timestep(struct backend *b, const float *t, const struct tensor *y,
                            struct error *err)
{
    (void)b;
    uint32_t half = y->c / 2;
    enum status s = cpu_expect(half > 0 && y->c % 2 == 0, "an embedding of odd width", err);
    for (uint32_t n = 0; !s && n < y->n; n++) {
        float *to = cpu_row(y, n);
        for (uint32_t i = 0; i < half; i++) {
            float angle = t[n] * (float)exp(-log(1e4) * i / half);
            to[i] = (float)cos((double)angle);
            to[half + i] = (float)sin((double)angle);
        }
    }
    return s;
}

static enum status label(struct backend *b, const float *table, const uint32_t *labels,
                         const struct tensor *y, struct error *err)
{
    (void)b;
    (void)err;
    for (uint32_t n = 0; n < y->n; n++)
        memcpy(cpu_row(y, n), table + (size_t)labels[n] * y->c, y->c * sizeof *table);
    return ST_OK;
}

static enum status silu(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    enum status s = cpu_expect(same_shape(x, y), "SiLU between different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        ((struct cpu_backend *)b)->k->silu(cpu_row(x, n), cpu_row(y, n), x->c);
    return s;
}

static enum status add(struct backend *b, const struct tensor *x, const struct tensor *e,
                       const struct tensor *y, struct error *err)
{
    enum status s =
        cpu_expect(same_shape(x, y) && same_shape(x, e), "a sum of different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        ((struct cpu_backend *)b)->k->add(cpu_row(x, n), cpu_row(e, n), cpu_row(y, n), x->c);
    return s;
}

static enum status normals(struct backend *b, const struct normals_args *a, struct error *err)
{
    (void)err;
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    cpu->k->normals(a, cpu->threads);
    return ST_OK;
}

static enum status sampler_in(struct backend *b, const float *y_in, const float *z, float hz,
                              float *x, size_t count, struct error *err)
{
    (void)err;
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    cpu->k->sampler_in(y_in, z, hz, x, count, cpu->threads);
    return ST_OK;
}

static enum status sampler_join(struct backend *b, const float *y_in, const float *z, float hz,
                                float *x, size_t pixels, struct error *err)
{
    (void)err;
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    cpu->k->sampler_join(y_in, z, hz, x, pixels, cpu->threads);
    return ST_OK;
}

static enum status sampler_out(struct backend *b, const struct tensor *x, const struct tensor *eps,
                               float std, bool linear, const struct tensor *x0, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    enum status s =
        cpu_expect(x->c == 3 && x0->c == 3 && eps->c >= 3 && x->h == eps->h && x->w == eps->w &&
                       x->n == eps->n && same_shape(x, x0) && eps->dtype == DT_F32,
                   "the sampler's feature maps do not fit", err);
    if (!s) cpu->k->sampler_out(x, eps, std, linear, x0, cpu->threads);
    return s;
}

static const struct backend_ops cpu_ops = {
    .device.name = "cpu",
    .device.host_memory = true,
    .device.close = cpu_close,
    .device.isa = isa,
    .device.has_dtype = has_dtype,
    .device.best_dtype = best_dtype,
    .device.rows_per_batch = rows_per_batch,
    .device.alloc = alloc,
    .device.free = release,
    .net.conv_plan = cpu_conv_plan,
    .net.conv_plan_free = cpu_conv_plan_free,
    .net.conv_plan_bytes = cpu_conv_plan_bytes,
    .net.conv = cpu_conv,
    .net.supports_prologue = cpu_supports_prologue,
    .net.conv_with_prologue = cpu_conv_with_prologue,
    .net.linear_plan = linear_plan,
    .net.linear_plan_free = linear_plan_free,
    .net.linear = linear,
    .net.attention_plan = attention_plan,
    .net.attention_plan_free = attention_plan_free,
    .net.attention = attention,
    .net.group_norm = group_norm,
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
    .gradients = &cpu_gradients,
    .losses = &cpu_losses,
    .images = &cpu_images,
};

enum status cpu_backend_open(struct backend **out, int threads, struct error *err)
{
    enum cpu_isa isa;
    enum status s = cpu_isa_choose(&isa, err);
    if (s) return s;
    s = cpu_expect(threads >= 1, "a team of no threads", err);
    if (s) return s;
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the cpu back end");
    static const struct kernels *(*const tables[ISA_COUNT])(
        void) = { cpu_kernels_sse, cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512bf16,
                  cpu_kernels_amx };
    const char *emulate = getenv("DAVID_CPU_EMULATE_BF16");
    cpu->base.ops = &cpu_ops;
    cpu->threads = threads;
    cpu->isa = isa;
    cpu->k = tables[isa]();
    cpu->has_bf16 = cpu->k->conv_bf16 || (emulate && strcmp(emulate, "1") == 0);
    *out = &cpu->base;
    return ST_OK;
}
