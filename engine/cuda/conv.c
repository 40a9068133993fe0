/* Convolutions and attentions: cuDNN's plans where it supports the op, own kernels elsewhere. A
 * plan takes any number of rows, in pieces that match the sizes of a batch execution. */
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/internal.h"

struct conv_plan {
    struct conv_desc d;
    struct dnn_plans *plans; /* NULL: own kernel */
    void *weight;            /* cuDNN: [oc][k][k][ic] of dtype; own: [k][k][ic][oc] F32 */
    void *bias;              /* [oc] of dtype, of condition 0; NULL where it is not needed */
    float *wide_bias;        /* [conditions][oc] F32 */
    /* [oc] zeros: where the rows' biases differ, the bias is added after the convolution. */
    float *no_bias;
    void *narrow_no_bias; /* the same in dtype */
    size_t bytes;
};

struct attention_plan {
    struct attention_desc d;
    struct dnn_plans *plans; /* NULL: own kernel */
};

/* ---- weights ---- */

static enum status upload(struct cuda_backend *c, struct conv_plan *p, const float *values,
                          enum dtype dtype, size_t count, void **out, struct error *err)
{
    const size_t bytes = count * dtype_size(dtype);
    void *packed = malloc(bytes ? bytes : 1);
    if (!packed) return error_set(err, ST_NO_MEMORY_NOW, "no memory to pack %zu bytes", bytes);
    dtype_from_f32(packed, dtype, values, count);
    enum status s = gpu_alloc(&c->gpu, bytes, out, err);
    if (!s) s = gpu_copy_in(&c->gpu, *out, packed, bytes, err);
    p->bytes += bytes;
    free(packed);
    return s;
}

/* weight: [oc][ic][k][k] */
static void order_weights(const struct conv_desc *d, bool for_cudnn, const float *weight, float *to)
{
    const size_t taps = (size_t)d->kernel * d->kernel;
    for (size_t o = 0; o < d->oc; o++)
        for (size_t i = 0; i < d->ic; i++)
            for (size_t t = 0; t < taps; t++) {
                float v = weight[(o * d->ic + i) * taps + t];
                if (for_cudnn)
                    to[(o * taps + t) * d->ic + i] = v;
                else
                    to[(t * d->ic + i) * d->oc + o] = v;
            }
}

static enum status pack(struct cuda_backend *c, struct conv_plan *p, const float *weight,
                        const float *bias, struct error *err)
{
    const struct conv_desc *d = &p->d;
    const size_t count = (size_t)d->oc * d->ic * d->kernel * d->kernel;
    const size_t biases = (size_t)d->conditions * d->oc;
    const bool narrow = p->plans && d->dtype != DT_F32;
    void *wide = NULL;
    float *ordered = malloc(count * sizeof *ordered), *zeros = calloc(biases, sizeof *zeros);
    enum status s = ST_OK;
    if (!ordered || !zeros) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution's weights");
        goto done;
    }
    if (!bias) bias = zeros;
    order_weights(d, p->plans != NULL, weight, ordered);
    s = upload(c, p, ordered, p->plans ? d->dtype : DT_F32, count, &p->weight, err);
    if (!s) s = upload(c, p, bias, DT_F32, biases, &wide, err);
    p->wide_bias = wide;
    if (!s && narrow) s = upload(c, p, bias, d->dtype, d->oc, &p->bias, err);
    if (!s && p->plans && d->conditions > 1) {
        void *none = NULL;
        s = upload(c, p, zeros, DT_F32, d->oc, &none, err);
        p->no_bias = none;
        if (!s && narrow) s = upload(c, p, zeros, d->dtype, d->oc, &p->narrow_no_bias, err);
    }
done:
    free(ordered);
    free(zeros);
    return s;
}

/* ---- plans ---- */

/* Takes cuDNN's plans; none, and ST_OK, where it has no engine for this op. */
static enum status take_plans(struct cuda_backend *c, const struct dnn_op *op, uint32_t rows,
                              struct dnn_plans **out, struct error *err)
{
    if (rows == 0 || rows > c->max_rows) rows = c->max_rows;
    const struct dnn_sizes sizes = dnn_sizes_of(rows, c->one_size);
    struct error why = { 0 };
    enum status s = dnn_plans_take(out, c->plans, op, &sizes, &why);
    if (s == ST_UNSUPPORTED) return ST_OK;
    if (s) return error_set(err, s, "%s", why.detail);
    return gpu_reserve_workspace(&c->gpu, dnn_plans_workspace_bytes(*out), err);
}

enum status cuda_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                           const float *bias, struct conv_plan **out, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct dnn_op op;
    enum status s = cuda_expect((d->kernel == 1 || d->kernel == 3) &&
                                    (d->stride == 1 || d->stride == 2) && d->ic > 0 && d->oc > 0 &&
                                    d->conditions > 0 && d->x_ld >= d->ic && d->y_ld >= d->oc &&
                                    !d->prologue.norm && b->ops->device.has_dtype(b, d->dtype),
                                "a convolution that cannot be", err);
    if (s) return s;
    struct conv_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution's plan");
    p->d = *d;
    c->convolutions++;
    if (dnn_op_of_conv(&op, d, c->tf32)) s = take_plans(c, &op, d->rows, &p->plans, err);
    if (!s) s = pack(c, p, weight, bias, err);
    if (s)
        cuda_conv_plan_free(b, p);
    else
        *out = p;
    return s;
}

void cuda_conv_plan_free(struct backend *b, struct conv_plan *p)
{
    struct cuda_backend *c = cuda_of(b);
    if (!p) return;
    void *const all[] = { p->weight, p->bias, p->wide_bias, p->no_bias, p->narrow_no_bias };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu_free(&c->gpu, all[i]);
    dnn_plans_put(c->plans, p->plans);
    free(p);
    /* The last plan of all: no program is left, for example because its executions had too many
     * rows. The workspace that they needed must not limit the next program. */
    if (--c->convolutions > 0) return;
    gpu_release_workspaces(&c->gpu);
    timer_rest(c->timer);
}

size_t cuda_conv_plan_bytes(const struct conv_plan *p)
{
    return p->bytes;
}

/* ---- running ---- */

static char *row_of(const struct tensor *t, uint32_t n)
{
    return (char *)t->data + (size_t)n * t->h * t->w * t->ld * dtype_size(t->dtype);
}

/* The largest size of a batch execution that is not above `rows`. */
static uint32_t piece_of(const struct dnn_plans *p, const struct cuda_backend *c, uint32_t rows)
{
    if (dnn_plans_for(p, rows)) return rows;
    uint32_t size = 1;
    while (size * 2 <= rows && dnn_plans_for(p, size * 2))
        size *= 2;
    return c->one_size ? 0 : size;
}

static enum status run_dnn(struct cuda_backend *c, struct dnn_plans *plans, uint32_t rows,
                           struct dnn_io io, const struct tensor *x, const struct tensor *residual,
                           const struct tensor *y, struct error *err)
{
    struct gpu *g = &c->gpu;
    io.workspace = g->workspace;
    for (uint32_t at = 0; at < rows;) {
        uint32_t n = piece_of(plans, c, rows - at);
        enum status s = cuda_expect(n > 0, "a number of rows that no pass has", err);
        if (s) return s;
        struct error why = { 0 };
        io.x = row_of(x, at);
        io.residual = residual ? row_of(residual, at) : NULL;
        io.y = row_of(y, at);
        s = dnn_plan_run(dnn_plans_for(plans, n), g->dnn, &io, &why);
        if (s == ST_DEVICE_FAULT || s == ST_INTERNAL) return gpu_note_fault(g, &why, err);
        if (s) return error_set(err, s, "%s", why.detail);
        at += n;
    }
    return ST_OK;
}

static enum status run_own(struct cuda_backend *c, const struct conv_plan *p,
                           const struct tensor *x, const struct tensor *residual,
                           const struct tensor *y, const uint32_t *condition, struct error *err)
{
    struct gpu_conv a = { .x = *x,
                          .y = *y,
                          .kernel = p->d.kernel,
                          .stride = p->d.stride,
                          .weight = p->weight,
                          .bias = p->wide_bias,
                          .condition = condition,
                          .has_residual = residual != NULL };
    if (residual) a.residual = *residual;
    return gpu_check(&c->gpu, gpu_conv(&a, c->gpu.stream), "a convolution", err);
}

enum status cuda_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                      const struct tensor *residual, const struct tensor *y,
                      const uint32_t *condition, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct conv_desc *d = &p->d;
    const void *conditions = NULL;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(x->h == d->h && x->w == d->w && x->c == d->ic && x->ld == d->x_ld &&
                            x->dtype == d->dtype && y->dtype == d->dtype && y->c == d->oc &&
                            y->ld == d->y_ld && y->n == x->n &&
                            y->h == (d->h + d->stride - 1) / d->stride &&
                            y->w == (d->w + d->stride - 1) / d->stride &&
                            (residual ? residual->ld : 0) == d->r_ld,
                        "a convolution's tensors are not those of its plan", err);
    for (uint32_t i = 0; !s && condition && i < x->n; i++)
        s = cuda_expect(condition[i] < d->conditions, "a row asks for a bias that the plan has not",
                        err);
    const bool by_row = condition && d->conditions > 1;
    if (!s && by_row) s = cuda_values(c, condition, x->n, &conditions, err);
    if (s) return s;
    if (!p->plans) return run_own(c, p, x, residual, y, conditions, err);
    const struct dnn_io io = { .weight = p->weight,
                               .bias = by_row ? p->narrow_no_bias : p->bias,
                               .wide_bias = by_row ? p->no_bias : p->wide_bias };
    s = run_dnn(c, p->plans, x->n, io, x, residual, y, err);
    if (s || !by_row) return s;
    const struct gpu_copy add = {
        .x = *y, .y = *y, .add = p->wide_bias, .add_ld = d->oc, .condition = conditions
    };
    return gpu_check(&c->gpu, gpu_copy(&add, c->gpu.stream), "a bias", err);
}

/* ---- attention ---- */

enum status cuda_attention_plan(struct backend *b, const struct attention_desc *d,
                                struct attention_plan **out, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct dnn_op op;
    enum status s = cuda_expect(d->h > 0 && d->w > 0 && d->heads > 0 && d->head_channels > 0 &&
                                    b->ops->device.has_dtype(b, d->dtype),
                                "an attention that cannot be", err);
    if (s) return s;
    struct attention_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an attention's plan");
    p->d = *d;
    if (dnn_op_of_attention(&op, d, c->tf32)) s = take_plans(c, &op, 0, &p->plans, err);
    /* Here it is a model that is not supported; in the kernel it would be a fault. */
    if (!s && !p->plans && d->head_channels > GPU_HEAD_CHANNELS_MAX)
        s = error_set(
            err, ST_UNSUPPORTED,
            "attention heads of %u channels; on a GPU at most %d where cuDNN has no engine",
            d->head_channels, GPU_HEAD_CHANNELS_MAX);
    if (s)
        cuda_attention_plan_free(b, p);
    else
        *out = p;
    return s;
}

void cuda_attention_plan_free(struct backend *b, struct attention_plan *p)
{
    if (!p) return;
    dnn_plans_put(cuda_of(b)->plans, p->plans);
    free(p);
}

enum status cuda_attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                           const struct tensor *y, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct attention_desc *d = &p->d;
    const uint32_t channels = d->heads * d->head_channels;
    enum status s = gpu_enter(&c->gpu, err);
    if (!s)
        s = cuda_expect(qkv->h == d->h && qkv->w == d->w && qkv->c == 3 * channels &&
                            qkv->ld == d->qkv_ld && qkv->dtype == d->dtype &&
                            y->dtype == d->dtype && y->c == channels && y->ld == d->y_ld &&
                            y->n == qkv->n && y->h == d->h && y->w == d->w,
                        "attention's tensors are not those of its plan", err);
    if (s) return s;
    if (p->plans)
        return run_dnn(c, p->plans, qkv->n, (struct dnn_io){ .x = NULL }, qkv, NULL, y, err);
    const struct gpu_attention a = {
        .qkv = *qkv, .y = *y, .heads = d->heads, .new_order = d->new_order
    };
    return gpu_check(&c->gpu, gpu_attention(&a, c->gpu.stream), "an attention", err);
}
