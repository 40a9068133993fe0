/* Convolutions whose weights change. The forward pass uses conv.c where it supports the shape. So
 * does the gradient of the input where the stride is 1: it is the convolution with the kernel
 * reversed and the channels exchanged. Everything else uses im2col (backward_im2col.c): a
 * transposed convolution of stride s is s * s convolutions, one for each phase of its output. */
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/bf16_shape.h"

enum { MOST_PHASES = 4 };

struct im2col_conv {
    struct im2col_job job;     /* without the feature maps and the scratch */
    uint32_t tap[GATHER_TAPS]; /* of the kernel */
    void *weight;
    size_t bytes; /* of weight */
    bool amx;     /* packed for the tile registers, as `shape` says */
    struct bf16_shape shape;
};

struct trained_conv {
    struct trained_conv_desc d;
    uint32_t oh, ow;
    struct conv_desc forward_desc, data_desc;
    struct conv_plan *forward, *data; /* NULL: by im2col */
    bool forward_by_im2col, data_by_im2col;
    struct im2col_conv forward_im2col, phases[MOST_PHASES];
    uint32_t n_phases;
    float *bias;
    bool is_packed;
    size_t im2col_stride;
};

static uint32_t output_side(const struct trained_conv_desc *d, uint32_t side)
{
    return (side + 2 * (d->kernel / 2) - d->kernel) / d->stride + 1;
}

void cpu_trained_conv_free(struct backend *b, struct trained_conv *c)
{
    if (!c) return;
    cpu_conv_plan_free(b, c->forward);
    cpu_conv_plan_free(b, c->data);
    free(c->forward_im2col.weight);
    for (int i = 0; i < MOST_PHASES; i++)
        free(c->phases[i].weight);
    free(c->bias);
    free(c);
}

/* Floor division; b > 0. */
static int32_t floor_div(int32_t a, int32_t b)
{
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

/* The forward pass: every tap, at every output pixel. */
static void plan_forward(struct trained_conv *c)
{
    const struct trained_conv_desc *d = &c->d;
    struct im2col_conv *g = &c->forward_im2col;
    g->job = (struct im2col_job){ .dtype = d->dtype,
                                  .h = d->h,
                                  .w = d->w,
                                  .c = d->ic,
                                  .x_ld = d->x_ld,
                                  .taps = d->kernel * d->kernel,
                                  .in_step = d->stride,
                                  .rows = c->oh,
                                  .cols = c->ow,
                                  .o = d->oc,
                                  .step = 1,
                                  .oh = c->oh,
                                  .ow = c->ow,
                                  .y_ld = d->y_ld,
                                  .r_ld = d->r_ld };
    for (uint32_t t = 0; t < g->job.taps; t++) {
        g->tap[t] = t;
        g->job.dy[t] = (int32_t)(t / d->kernel) - (int32_t)(d->kernel / 2);
        g->job.dx[t] = (int32_t)(t % d->kernel) - (int32_t)(d->kernel / 2);
    }
}

/* Pixels (py + s i, px + s j) of dx: the taps k with (p + pad - k) divisible by s, read at i + (p +
 * pad - k) / s. */
static void plan_phase(struct trained_conv *c, uint32_t py, uint32_t px)
{
    const struct trained_conv_desc *d = &c->d;
    int32_t s = (int32_t)d->stride, pad = (int32_t)(d->kernel / 2);
    struct im2col_conv *g = &c->phases[c->n_phases];
    g->job = (struct im2col_job){ .dtype = d->dtype,
                                  .h = c->oh,
                                  .w = c->ow,
                                  .c = d->oc,
                                  .x_ld = d->dy_ld,
                                  .in_step = 1,
                                  .rows = d->h > py ? (d->h - py + d->stride - 1) / d->stride : 0,
                                  .cols = d->w > px ? (d->w - px + d->stride - 1) / d->stride : 0,
                                  .o = d->ic,
                                  .y0 = py,
                                  .x0 = px,
                                  .step = d->stride,
                                  .oh = d->h,
                                  .ow = d->w,
                                  .y_ld = d->dx_ld,
                                  .r_ld = d->dx_ld };
    for (uint32_t t = 0; t < d->kernel * d->kernel; t++) {
        int32_t y = (int32_t)py + pad - (int32_t)(t / d->kernel);
        int32_t x = (int32_t)px + pad - (int32_t)(t % d->kernel);
        if (y - floor_div(y, s) * s || x - floor_div(x, s) * s) continue;
        g->tap[g->job.taps] = t;
        g->job.dy[g->job.taps] = floor_div(y, s);
        g->job.dx[g->job.taps++] = floor_div(x, s);
    }
    if (g->job.rows && g->job.cols) c->n_phases++;
}

static enum status im2col_init(struct trained_conv *c, struct cpu_backend *cpu,
                               struct im2col_conv *g, struct error *err)
{
    size_t nr = cpu->k->nr, k = (size_t)g->job.taps * g->job.c;
    size_t padded = (g->job.o + nr - 1) / nr * nr, stride = (IM2COL_PIXELS * k + 31) / 16 * 16;
    size_t floats = k * padded;
    const struct gradient_kernels *kernels = cpu_gradient_kernels(cpu);
    g->amx = kernels->im2col_amx && g->job.dtype == DT_BF16 && g->job.o > IM2COL_NARROW;
    if (g->amx) {
        const uint32_t depth = (uint32_t)(k + BF16_DEPTH - 1) / BF16_DEPTH * BF16_DEPTH;
        g->shape = (struct bf16_shape){ .unrolled = true, .taps = 1, .k = depth };
        g->shape.panels = (g->job.o + BF16_PANEL - 1) / BF16_PANEL;
        g->shape.weight_elements = (size_t)g->shape.panels * depth * BF16_PANEL;
        g->job.depth = depth;
        floats = g->shape.weight_elements / 2;
        stride = kernels->im2col_amx_scratch(&g->job);
    }
    g->weight = cpu_floats(floats + 1);
    if (!g->weight)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution's weights");
    memset(g->weight, 0, floats * sizeof(float));
    g->bytes = floats * sizeof(float);
    if (g->amx)
        g->job.tiles = g->weight;
    else
        g->job.weight = g->weight;
    if (stride > c->im2col_stride) c->im2col_stride = stride;
    return ST_OK;
}

static enum status plan_im2cols(struct trained_conv *c, struct cpu_backend *cpu, struct error *err)
{
    const struct trained_conv_desc *d = &c->d;
    enum status s = ST_OK;
    if (c->forward_by_im2col) {
        plan_forward(c);
        s = im2col_init(c, cpu, &c->forward_im2col, err);
    }
    for (uint32_t p = 0; c->data_by_im2col && p < d->stride * d->stride; p++)
        plan_phase(c, p / d->stride, p % d->stride);
    for (uint32_t p = 0; !s && p < c->n_phases; p++)
        s = im2col_init(c, cpu, &c->phases[p], err);
    return s;
}

static void describe(struct trained_conv *c)
{
    const struct trained_conv_desc *d = &c->d;
    c->oh = output_side(d, d->h);
    c->ow = output_side(d, d->w);
    c->forward_by_im2col = d->kernel > 3;
    c->data_by_im2col = d->dx_ld && (d->kernel > 3 || d->stride > 1);
    c->forward_desc = (struct conv_desc){ .h = d->h,
                                          .w = d->w,
                                          .ic = d->ic,
                                          .oc = d->oc,
                                          .kernel = d->kernel,
                                          .stride = d->stride,
                                          .conditions = 1,
                                          .dtype = d->dtype,
                                          .x_ld = d->x_ld,
                                          .y_ld = d->y_ld,
                                          .r_ld = d->r_ld };
    c->data_desc = c->forward_desc;
    c->data_desc.ic = d->oc;
    c->data_desc.oc = d->ic;
    c->data_desc.x_ld = d->dy_ld;
    c->data_desc.y_ld = d->dx_ld;
    c->data_desc.r_ld = d->dx_add ? d->dx_ld : 0;
}

enum status cpu_trained_conv_new(struct backend *b, const struct trained_conv_desc *d,
                                 struct trained_conv **out, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    bool kernel = d->kernel == 1 || d->kernel == 3 || d->kernel == 4;
    enum status s = cpu_expect(kernel && (d->stride == 1 || d->stride == 2) && d->h > 0 &&
                                   d->w > 0 && d->ic > 0 && d->oc > 0 && d->x_ld >= d->ic &&
                                   d->y_ld >= d->oc && b->ops->device.has_dtype(b, d->dtype),
                               "a convolution that cannot be", err);
    if (s) return s;
    struct trained_conv *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution");
    c->d = *d;
    describe(c);
    c->bias = calloc(d->oc, sizeof *c->bias);
    if (!c->bias) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution");
        goto done;
    }
    if (!c->forward_by_im2col) s = cpu_conv_plan(b, &c->forward_desc, NULL, NULL, &c->forward, err);
    if (!s && d->dx_ld && !c->data_by_im2col)
        s = cpu_conv_plan(b, &c->data_desc, NULL, NULL, &c->data, err);
    if (s) goto done;
    s = plan_im2cols(c, cpu, err);
    if (s) goto done;
    s = cpu_scratch_reserve(cpu, c->im2col_stride * (size_t)cpu->threads, err);
    if (!s)
        s = cpu_scratch_reserve(cpu, cpu_gradient_kernels(cpu)->weights_scratch(d, cpu->threads),
                                err);
    if (s) goto done;
    *out = c;
    c = NULL;
done:
    cpu_trained_conv_free(b, c);
    return s;
}

size_t cpu_trained_conv_bytes(const struct trained_conv *c)
{
    size_t bytes = 0;
    if (c->forward) bytes += cpu_conv_plan_bytes(c->forward);
    if (c->data) bytes += cpu_conv_plan_bytes(c->data);
    bytes += c->forward_im2col.bytes;
    for (uint32_t p = 0; p < c->n_phases; p++)
        bytes += c->phases[p].bytes;
    return bytes;
}

/* The weights in the order of an output channel: of the forward pass, or of the gradient of the
 * input, whose output channels are x's channels. */
static struct pack_job pack_job(const struct cpu_backend *cpu, const struct trained_conv *c,
                                const float *weight, bool forward)
{
    const size_t taps = (size_t)c->d.kernel * c->d.kernel, wide = c->d.ic * taps;
    return (struct pack_job){ .oc = forward ? c->d.oc : c->d.ic,
                              .ic = forward ? c->d.ic : c->d.oc,
                              .taps = (uint32_t)taps,
                              .weight = weight,
                              .o_step = forward ? wide : taps,
                              .i_step = forward ? taps : wide,
                              .threads = cpu->threads };
}

static void pack_im2col(const struct cpu_backend *cpu, const struct trained_conv *c,
                        const struct im2col_conv *g, const float *weight, bool forward)
{
    struct pack_job j = pack_job(cpu, c, weight, forward);
    j.way = g->amx ? WAY_BF16 : WAY_DIRECT;
    j.bf16 = &g->shape;
    j.taps = g->job.taps;
    j.tap = g->tap;
    j.to = g->weight;
    cpu_gradient_kernels(cpu)->pack(&j);
}

static void pack_plan(const struct cpu_backend *cpu, const struct trained_conv *c,
                      struct conv_plan *plan, const float *weight, bool forward)
{
    const struct conv_packing p = cpu_conv_packing(plan);
    struct pack_job j = pack_job(cpu, c, weight, forward);
    j.way = p.way;
    j.bf16 = p.bf16;
    j.turned = !forward;
    j.to = p.weight;
    cpu_gradient_kernels(cpu)->pack(&j);
    if (forward) memcpy(p.bias, c->bias, c->d.oc * sizeof *c->bias);
}

enum status cpu_trained_conv_pack(struct backend *b, struct trained_conv *c, const float *weight,
                                  const float *bias, struct error *err)
{
    const struct cpu_backend *cpu = (struct cpu_backend *)b;
    (void)err;
    memcpy(c->bias, bias, c->d.oc * sizeof *bias);
    if (c->forward) pack_plan(cpu, c, c->forward, weight, true);
    if (c->data) pack_plan(cpu, c, c->data, weight, false);
    if (c->forward_by_im2col) pack_im2col(cpu, c, &c->forward_im2col, weight, true);
    for (uint32_t p = 0; p < c->n_phases; p++)
        pack_im2col(cpu, c, &c->phases[p], weight, false);
    c->is_packed = true;
    return ST_OK;
}

static void im2col(struct cpu_backend *cpu, const struct trained_conv *c,
                   const struct im2col_conv *g, const struct tensor *x, const float *bias,
                   const struct tensor *residual, const struct tensor *y)
{
    struct im2col_job j = g->job;
    j.n = x->n;
    j.x = x->data;
    j.y = y->data;
    j.bias = bias;
    j.residual = residual ? residual->data : NULL;
    j.scratch = cpu->scratch;
    j.scratch_stride = c->im2col_stride;
    j.threads = cpu->threads;
    if (g->amx)
        cpu_gradient_kernels(cpu)->im2col_amx(&j);
    else
        cpu_gradient_kernels(cpu)->im2col(&j);
}

static bool fits(const struct tensor *t, uint32_t h, uint32_t w, uint32_t c, size_t ld,
                 enum dtype dtype)
{
    return t->h == h && t->w == w && t->c == c && t->ld == ld && t->dtype == dtype;
}

enum status cpu_trained_conv(struct backend *b, struct trained_conv *c, const struct tensor *x,
                             const struct tensor *residual, const struct tensor *y,
                             struct error *err)
{
    const struct trained_conv_desc *d = &c->d;
    if (!c->forward_by_im2col) {
        enum status s = cpu_expect(c->is_packed, "a convolution that has not been packed", err);
        return s ? s : cpu_conv(b, c->forward, x, residual, y, NULL, err);
    }
    enum status s =
        cpu_expect(fits(x, d->h, d->w, d->ic, d->x_ld, d->dtype) && x->n == y->n &&
                       fits(y, c->oh, c->ow, d->oc, d->y_ld, d->dtype) && !residual == !d->r_ld &&
                       (!residual || fits(residual, c->oh, c->ow, d->oc, d->r_ld, d->dtype)),
                   "a convolution's tensors are not those of its plan", err);
    if (!s) im2col((struct cpu_backend *)b, c, &c->forward_im2col, x, c->bias, residual, y);
    return s;
}

enum status cpu_conv_data(struct backend *b, struct trained_conv *c, const struct tensor *dy,
                          const struct tensor *dx, struct error *err)
{
    const struct trained_conv_desc *d = &c->d;
    const struct tensor *there = d->dx_add ? dx : NULL;
    if (c->data) return cpu_conv(b, c->data, dy, there, dx, NULL, err);
    enum status s = cpu_expect(c->data_by_im2col && dx->n == dy->n &&
                                   fits(dx, d->h, d->w, d->ic, d->dx_ld, d->dtype) &&
                                   fits(dy, c->oh, c->ow, d->oc, d->dy_ld, d->dtype),
                               "a convolution's gradients are not those of its plan", err);
    for (uint32_t p = 0; !s && p < c->n_phases; p++)
        im2col((struct cpu_backend *)b, c, &c->phases[p], dy, NULL, there, dx);
    return s;
}

enum status cpu_conv_weights(struct backend *b, struct trained_conv *c, const struct tensor *x,
                             const struct tensor *dy, float *dweight, float *dbias,
                             struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct trained_conv_desc *d = &c->d;
    enum status s = cpu_expect(x->n == dy->n && fits(x, d->h, d->w, d->ic, d->x_ld, d->dtype) &&
                                   fits(dy, c->oh, c->ow, d->oc, d->dy_ld, d->dtype),
                               "a convolution's gradients are not those of its plan", err);
    if (s) return s;
    cpu_gradient_kernels(cpu)->weights(&(struct weights_job){ .d = d,
                                                              .n = x->n,
                                                              .oh = c->oh,
                                                              .ow = c->ow,
                                                              .x = x->data,
                                                              .dy = dy->data,
                                                              .dweight = dweight,
                                                              .dbias = dbias,
                                                              .scratch = cpu->scratch,
                                                              .threads = cpu->threads });
    return ST_OK;
}
