/* The CPU behind engine/graph/backend/gradients.h: checks shapes and hands all rows to the loops of backward.h. Convolutions are in
 * backward_conv.c. */
#include "engine/cpu/backward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct cpu_backend *cpu_of(struct backend *b)
{
    return (struct cpu_backend *)b;
}

const struct gradient_kernels *cpu_gradient_kernels(const struct cpu_backend *cpu)
{
    if (cpu->isa == ISA_AMX) return cpu_gradient_kernels_amx();
    if (cpu->k->vec == 16) return cpu_gradient_kernels_avx512();
    return cpu->k->vec == 8 ? cpu_gradient_kernels_avx2() : cpu_gradient_kernels_sse();
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c;
}

/* True if dx has x's shape and type, or is not wanted. */
static bool fits(const struct tensor *x, const struct tensor *dx)
{
    return !dx->data || (same_shape(x, dx) && x->dtype == dx->dtype);
}

static size_t padded(uint32_t c)
{
    return ((size_t)c + 15) / 16 * 16;
}

/* ---- embeddings ---- */

static enum status linear(struct backend *b, const float *weight, const float *bias,
                          const struct tensor *x, const struct tensor *y, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s =
        cpu_expect(x->n == y->n && x->dtype == DT_F32 && y->dtype == DT_F32 && x->h * x->w == 1,
                   "a linear layer of something else than embeddings", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        cpu->k->linear(weight, bias, cpu_row(x, n), cpu_row(y, n), x->c, y->c, cpu->threads);
    return s;
}

static enum status linear_gradient(struct backend *b, const float *weight, const struct tensor *x,
                                   const struct tensor *dy, const struct into *dx, float *dweight,
                                   float *dbias, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(x->n == dy->n && fits(x, &dx->dst) && x->dtype == DT_F32 &&
                                   dy->dtype == DT_F32 && x->h * x->w * dy->h * dy->w == 1,
                               "a linear layer's gradient of other shapes", err);
    if (s) return s;
    cpu_gradient_kernels(cpu)->linear(&(struct linear_gradient_job){ .n = x->n,
                                                                     .ic = x->c,
                                                                     .oc = dy->c,
                                                                     .weight = weight,
                                                                     .x = x->data,
                                                                     .dy = dy->data,
                                                                     .x_ld = x->ld,
                                                                     .dy_ld = dy->ld,
                                                                     .dx_ld = dx->dst.ld,
                                                                     .dx = dx->dst.data,
                                                                     .dweight = dweight,
                                                                     .dbias = dbias,
                                                                     .add = dx->add,
                                                                     .threads = cpu->threads });
    return ST_OK;
}

static struct elementwise_job elementwise_job(const struct cpu_backend *cpu, const struct tensor *x,
                                              const struct into *to)
{
    const struct tensor *y = &to->dst;
    return (struct elementwise_job){ .n = x->n,
                                     .h = x->h < y->h ? x->h : y->h,
                                     .w = x->w < y->w ? x->w : y->w,
                                     .c = x->c,
                                     .from = x->dtype,
                                     .to = y->dtype,
                                     .x = x->data,
                                     .y = y->data,
                                     .x_ld = x->ld,
                                     .y_ld = y->ld,
                                     .add = to->add,
                                     .threads = cpu->threads };
}

static enum status silu_gradient(struct backend *b, const struct tensor *x, const struct tensor *dy,
                                 const struct into *dx, struct error *err)
{
    struct elementwise_job j = elementwise_job(cpu_of(b), dy, dx);
    enum status s = cpu_expect(same_shape(x, dy) && same_shape(x, &dx->dst) && x->dtype == DT_F32 &&
                                   j.from == DT_F32 && j.to == DT_F32,
                               "SiLU's gradient of other shapes", err);
    if (!s) cpu_gradient_kernels(cpu_of(b))->silu(&j, x->data, x->ld);
    return s;
}

static enum status label_gradient(struct backend *b, const uint32_t *label, const struct tensor *dy,
                                  float *dtable, struct error *err)
{
    (void)b;
    (void)err;
    for (uint32_t n = 0; n < dy->n; n++) {
        const float *from = cpu_row(dy, n);
        for (size_t c = 0; c < dy->c; c++)
            dtable[(size_t)label[n] * dy->c + c] += from[c];
    }
    return ST_OK;
}

/* ---- feature maps ---- */

static struct norm_gradient_job norm_job(struct cpu_backend *cpu, const struct group_norm_args *f)
{
    const struct tensor *x = &f->x, *ss = f->scale_shift;
    return (struct norm_gradient_job){ .n = x->n,
                                       .c = x->c,
                                       .groups = f->groups,
                                       .pixels = (size_t)x->h * x->w,
                                       .dtype = x->dtype,
                                       .x = x->data,
                                       .x_ld = x->ld,
                                       .ss_ld = ss ? ss->ld : 0,
                                       .silu = f->silu,
                                       .eps = f->eps,
                                       .gamma = f->gamma,
                                       .beta = f->beta,
                                       .scale_shift = ss ? ss->data : NULL,
                                       .threads = cpu->threads };
}

/* A norm has no plan: the first norm of its size may grow the scratch. Moments that the caller does
 * not keep come last in it. */
static enum status norm_scratch(struct cpu_backend *cpu, struct norm_gradient_job *j,
                                struct error *err)
{
    const size_t rows = j->n * (9 + 2 * BACKWARD_CHUNKS) * padded(j->c);
    enum status s = cpu_scratch_reserve(cpu, rows + (size_t)j->n * j->groups * 4, err);
    j->scratch = cpu->scratch;
    if (!s && !j->moments) j->moments = (void *)(cpu->scratch + rows);
    return s;
}

static bool is_norm(const struct group_norm_args *f)
{
    return f->groups > 0 && f->x.c % f->groups == 0 && !f->condition;
}

static enum status group_norm(struct backend *b, const struct group_norm_args *a, double *moments,
                              struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(is_norm(a) && same_shape(&a->x, &a->y) && a->x.dtype == a->y.dtype,
                               "a group norm whose groups do not divide the channels", err);
    if (s) return s;
    struct norm_gradient_job j = norm_job(cpu, a);
    j.moments = moments;
    j.dx = a->y.data;
    j.dx_ld = a->y.ld;
    s = norm_scratch(cpu, &j, err);
    if (!s) cpu_gradient_kernels(cpu)->group_norm(&j);
    return s;
}

static enum status group_norm_gradient(struct backend *b, const struct group_norm_gradient_args *a,
                                       struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    const struct group_norm_args *f = &a->forward;
    const struct tensor *x = &f->x, *dss = &a->dscale_shift.dst;
    enum status s = cpu_expect(
        is_norm(f) && same_shape(x, &a->dy) && x->dtype == a->dy.dtype && fits(x, &a->dx.dst) &&
            (!dss->data || (f->scale_shift && dss->c == 2 * x->c && dss->n == x->n)),
        "a group norm's gradient of other shapes", err);
    if (s) return s;
    struct norm_gradient_job j = norm_job(cpu, f);
    j.moments = (double *)a->moments; /* read only where they are known */
    j.known_moments = a->moments != NULL;
    j.dy = a->dy.data;
    j.dx = a->dx.dst.data;
    j.dy_ld = a->dy.ld;
    j.dx_ld = a->dx.dst.ld;
    j.dss_ld = dss->ld;
    j.add = a->dx.add;
    j.add_ss = a->dscale_shift.add;
    j.dscale_shift = dss->data;
    j.dgamma = a->dgamma;
    j.dbeta = a->dbeta;
    s = norm_scratch(cpu, &j, err);
    if (!s) cpu_gradient_kernels(cpu)->group_norm_gradient(&j);
    return s;
}

struct trained_attention {
    struct attention_desc d;
    size_t stride; /* floats per thread */
};

static void attention_free(struct backend *b, struct trained_attention *a)
{
    (void)b;
    free(a);
}

static enum status attention_new(struct backend *b, const struct attention_desc *d,
                                 struct trained_attention **out, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(d->h > 0 && d->w > 0 && d->heads > 0 && d->head_channels > 0,
                               "an attention that cannot be", err);
    if (s) return s;
    struct trained_attention *a = calloc(1, sizeof *a);
    if (!a) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an attention");
    a->d = *d;
    a->stride = (cpu_gradient_kernels(cpu)->attention_scratch(d) + 15) / 16 * 16;
    s = cpu_scratch_reserve(cpu, a->stride * (size_t)cpu->threads, err);
    if (s)
        free(a);
    else
        *out = a;
    return s;
}

static enum status attention_gradient(struct backend *b, struct trained_attention *a,
                                      const struct tensor *qkv, const struct tensor *dy,
                                      const struct tensor *dqkv, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    const struct attention_desc *d = &a->d;
    enum status s = cpu_expect(
        qkv->h == d->h && qkv->w == d->w && qkv->c == 3 * d->heads * d->head_channels &&
            same_shape(qkv, dqkv) && dy->c == d->heads * d->head_channels && dy->n == qkv->n &&
            qkv->dtype == d->dtype && dy->dtype == d->dtype && dqkv->dtype == d->dtype,
        "attention's gradients are not those of its plan", err);
    if (s) return s;
    cpu_gradient_kernels(cpu)->attention(
        &(struct attention_gradient_job){ .d = d,
                                          .n = qkv->n,
                                          .qkv = qkv->data,
                                          .dy = dy->data,
                                          .dqkv = dqkv->data,
                                          .qkv_ld = qkv->ld,
                                          .dy_ld = dy->ld,
                                          .dqkv_ld = dqkv->ld,
                                          .scratch = cpu->scratch,
                                          .scratch_stride = a->stride,
                                          .threads = cpu->threads });
    return ST_OK;
}

static enum status upsample_gradient(struct backend *b, const struct tensor *dy,
                                     const struct into *dx, struct error *err)
{
    const struct tensor *x = &dx->dst;
    struct elementwise_job j = elementwise_job(cpu_of(b), dy, dx);
    enum status s =
        cpu_expect(dy->h == 2 * x->h && dy->w == 2 * x->w && x->c == dy->c && x->n == dy->n,
                   "a gradient of upsampling to another size than twice", err);
    if (!s) cpu_gradient_kernels(cpu_of(b))->upsample(&j);
    return s;
}

static enum status downsample_gradient(struct backend *b, const struct tensor *dy,
                                       const struct into *dx, struct error *err)
{
    const struct tensor *x = &dx->dst;
    struct elementwise_job j = elementwise_job(cpu_of(b), dy, dx);
    enum status s =
        cpu_expect(x->h == 2 * dy->h && x->w == 2 * dy->w && x->c == dy->c && x->n == dy->n,
                   "a gradient of downsampling to another size than half", err);
    if (!s) cpu_gradient_kernels(cpu_of(b))->downsample(&j);
    return s;
}

static enum status copy_into(struct backend *b, const struct tensor *x, const struct into *dst,
                             struct error *err)
{
    struct elementwise_job j = elementwise_job(cpu_of(b), x, dst);
    enum status s = cpu_expect(same_shape(x, &dst->dst), "a gradient passed to another shape", err);
    if (!s) cpu_gradient_kernels(cpu_of(b))->copy_into(&j);
    return s;
}

static enum status channel_sums(struct backend *b, const struct tensor *dy, const struct into *de,
                                struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    struct elementwise_job j = elementwise_job(cpu, dy, de);
    j.h = dy->h;
    j.w = dy->w;
    enum status s = cpu_expect(dy->n == de->dst.n && dy->c == de->dst.c && de->dst.dtype == DT_F32,
                               "sums of other channels", err);
    if (!s) s = cpu_scratch_reserve(cpu, dy->n * BACKWARD_CHUNKS * padded(dy->c), err);
    if (!s) cpu_gradient_kernels(cpu)->channel_sums(&j, cpu->scratch);
    return s;
}

/* ---- PatchGAN ---- */

static struct batch_job batch_job(struct cpu_backend *cpu, const struct tensor *x)
{
    return (struct batch_job){ .n = x->n,
                               .c = x->c,
                               .pixels = (size_t)x->h * x->w,
                               .dtype = x->dtype,
                               .x = x->data,
                               .x_ld = x->ld,
                               .scratch = cpu->scratch,
                               .threads = cpu->threads };
}

/* Reserves scratch for the partial sums, preceded by three constants per channel. */
static enum status batch_scratch(struct cpu_backend *cpu, const struct tensor *x, struct error *err)
{
    return cpu_scratch_reserve(cpu, (x->n * 2 * BACKWARD_CHUNKS + 3) * padded(x->c), err);
}

static enum status batch_norm_sums(struct backend *b, const struct tensor *x, double *sums,
                                   struct error *err)
{
    enum status s = batch_scratch(cpu_of(b), x, err);
    if (s) return s;
    struct batch_job j = batch_job(cpu_of(b), x);
    j.sums = sums;
    cpu_gradient_kernels(cpu_of(b))->batch_sums(&j);
    return ST_OK;
}

static double rstd_of(const struct batch_norm_args *a, size_t c, double *mean)
{
    *mean = a->sums[c] / a->count;
    double variance = a->sums[a->x.c + c] / a->count - *mean * *mean;
    return 1.0 / sqrt((variance > 0 ? variance : 0) + (double)a->eps);
}

static enum status batch_norm(struct backend *b, const struct batch_norm_args *a,
                              const struct tensor *y, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(same_shape(&a->x, y) && a->x.dtype == y->dtype,
                               "a batch norm of other shapes", err);
    if (!s) s = batch_scratch(cpu, y, err);
    if (s) return s;
    float *scale = cpu->scratch, *offset = scale + padded(y->c);
    for (size_t c = 0; c < y->c; c++) {
        double mean, by = rstd_of(a, c, &mean) * (double)a->gamma[c];
        scale[c] = (float)by;
        offset[c] = (float)((double)a->beta[c] - mean * by);
    }
    struct batch_job j = batch_job(cpu, &a->x);
    j.scale = scale;
    j.offset = offset;
    j.out = y->data;
    j.out_ld = y->ld;
    cpu_gradient_kernels(cpu)->batch_apply(&j);
    return ST_OK;
}

static enum status batch_norm_gradient_sums(struct backend *b, const struct batch_norm_args *a,
                                            const struct tensor *dy, double *dsums, float *dgamma,
                                            float *dbeta, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(same_shape(&a->x, dy) && a->x.dtype == dy->dtype,
                               "a batch norm's gradient of other shapes", err);
    if (!s) s = batch_scratch(cpu, dy, err);
    if (s) return s;
    float *rstd = cpu->scratch, *offset = rstd + padded(dy->c);
    for (size_t c = 0; c < dy->c; c++) {
        double mean, by = rstd_of(a, c, &mean);
        rstd[c] = (float)by;
        offset[c] = (float)(-mean * by);
    }
    struct batch_job j = batch_job(cpu, &a->x);
    j.dy = dy->data;
    j.dy_ld = dy->ld;
    j.scale = rstd;
    j.offset = offset;
    j.sums = dsums;
    j.scratch += 3 * padded(dy->c);
    cpu_gradient_kernels(cpu)->batch_sums(&j);
    for (size_t c = 0; c < dy->c; c++) {
        if (dbeta) dbeta[c] += (float)dsums[c];
        if (dgamma) dgamma[c] += (float)dsums[dy->c + c];
    }
    return ST_OK;
}

/* dx = gamma rstd (dy - mean dy - x^ mean (dy x^)), x^ = (x - mean) rstd */
static enum status batch_norm_gradient(struct backend *b, const struct batch_norm_args *a,
                                       const struct tensor *dy, const double *dsums,
                                       const struct into *dx, struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_expect(same_shape(&a->x, dy) && a->x.dtype == dy->dtype && dx->dst.data &&
                                   fits(dy, &dx->dst),
                               "a batch norm's gradient of other shapes", err);
    if (!s) s = batch_scratch(cpu, dy, err);
    if (s) return s;
    float *scale = cpu->scratch, *offset = scale + padded(dy->c), *by = offset + padded(dy->c);
    for (size_t c = 0; c < dy->c; c++) {
        double mean, rstd = rstd_of(a, c, &mean), g = rstd * (double)a->gamma[c];
        double off = dsums[c] / a->count, off_x = dsums[dy->c + c] / a->count;
        by[c] = (float)g;
        scale[c] = (float)(-g * off_x * rstd);
        offset[c] = (float)(g * (mean * rstd * off_x - off));
    }
    struct batch_job j = batch_job(cpu, &a->x);
    j.dy = dy->data;
    j.dy_ld = dy->ld;
    j.scale = scale;
    j.offset = offset;
    j.by_dy = by;
    j.out = dx->dst.data;
    j.out_ld = dx->dst.ld;
    j.add = dx->add;
    cpu_gradient_kernels(cpu)->batch_apply(&j);
    return ST_OK;
}

static enum status leaky(struct backend *b, const struct tensor *x, const struct tensor *sign,
                         float slope, const struct into *to, struct error *err)
{
    struct elementwise_job j = elementwise_job(cpu_of(b), x, to);
    enum status s =
        cpu_expect(same_shape(x, sign) && same_shape(x, &to->dst) && x->dtype == sign->dtype,
                   "a leaky ReLU of other shapes", err);
    if (s) return s;
    j.sign = sign->data;
    j.sign_ld = sign->ld;
    j.slope = slope;
    cpu_gradient_kernels(cpu_of(b))->leaky_relu(&j);
    return ST_OK;
}

static enum status leaky_relu(struct backend *b, const struct tensor *x, float slope,
                              const struct tensor *y, struct error *err)
{
    return leaky(b, x, x, slope, &(struct into){ *y, false }, err);
}

static enum status leaky_relu_gradient(struct backend *b, const struct tensor *y, float slope,
                                       const struct tensor *dy, const struct into *dx,
                                       struct error *err)
{
    return leaky(b, dy, y, slope, dx, err);
}

/* ---- the optimiser ---- */

static enum status adamw(struct backend *b, const struct adamw_args *a, struct error *err)
{
    enum status s = cpu_expect(a->step > 0, "steps of the optimiser count from 1", err);
    if (!s) cpu_gradient_kernels(cpu_of(b))->adamw(a, cpu_of(b)->threads);
    return s;
}

static enum status average(struct backend *b, float *mean, const float *x, size_t count,
                           float decay, struct error *err)
{
    (void)err;
    cpu_gradient_kernels(cpu_of(b))->average(mean, x, count, decay, cpu_of(b)->threads);
    return ST_OK;
}

static enum status fill(struct backend *b, float *x, size_t count, float value, struct error *err)
{
    (void)err;
#pragma omp parallel for schedule(static) num_threads(cpu_of(b)->threads)
    for (size_t i = 0; i < count; i++)
        x[i] = value;
    return ST_OK;
}

static enum status scale(struct backend *b, float *x, size_t count, float by, struct error *err)
{
    (void)err;
    cpu_gradient_kernels(cpu_of(b))->scale(x, count, by, cpu_of(b)->threads);
    return ST_OK;
}

static enum status sum_squares(struct backend *b, const float *x, size_t count, double *out,
                               struct error *err)
{
    struct cpu_backend *cpu = cpu_of(b);
    enum status s = cpu_scratch_reserve(cpu, 2 * (count / SQUARES_PIECE + 1), err);
    if (!s)
        *out = cpu_gradient_kernels(cpu)->sum_squares(x, count, (void *)cpu->scratch, cpu->threads);
    return s;
}

const struct gradient_ops cpu_gradients = {
    .conv_new = cpu_trained_conv_new,
    .conv_free = cpu_trained_conv_free,
    .conv_bytes = cpu_trained_conv_bytes,
    .conv_pack = cpu_trained_conv_pack,
    .conv = cpu_trained_conv,
    .conv_data = cpu_conv_data,
    .conv_weights = cpu_conv_weights,
    .linear = linear,
    .linear_gradient = linear_gradient,
    .silu_gradient = silu_gradient,
    .label_gradient = label_gradient,
    .group_norm = group_norm,
    .group_norm_gradient = group_norm_gradient,
    .attention_new = attention_new,
    .attention_free = attention_free,
    .attention_gradient = attention_gradient,
    .upsample_gradient = upsample_gradient,
    .downsample_gradient = downsample_gradient,
    .copy_into = copy_into,
    .channel_sums = channel_sums,
    .batch_norm_sums = batch_norm_sums,
    .batch_norm = batch_norm,
    .batch_norm_gradient_sums = batch_norm_gradient_sums,
    .batch_norm_gradient = batch_norm_gradient,
    .leaky_relu = leaky_relu,
    .leaky_relu_gradient = leaky_relu_gradient,
    .adamw = adamw,
    .average = average,
    .fill = fill,
    .scale = scale,
    .sum_squares = sum_squares,
};
