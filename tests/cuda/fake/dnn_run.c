/* Runs a plan of the fake cuDNN: the operations of its graph on the CPU back end, in F32, rounded
 * where a tensor has 16 bits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend.h"
#include "tests/cuda/fake/dnn.h"
#include "tests/cuda/fake/fake.h"

enum { MAX_TENSORS = 8 };

struct run {
    struct descriptor *plan;
    int64_t n, uid[MAX_TENSORS];
    void *pointer[MAX_TENSORS];
    float scale; /* by value: its value when the run was issued */
    void *workspace;
};

/* ---- the CPU back end ---- */

struct packed {
    uint64_t birth;
    struct conv_desc d;
    struct conv_plan *plan;
    struct packed *next;
};

static struct backend *cpu;
static struct packed *weights;

static struct backend *the_cpu(void)
{
    struct error err = { 0 };
    if (!cpu && cpu_backend_open(&cpu, 1, &err)) fake_die("the CPU back end: %s", err.detail);
    return cpu;
}

void dnn_forget_weights(void)
{
    while (weights) {
        struct packed *w = weights;
        weights = w->next;
        cpu->ops->net.conv_plan_free(cpu, w->plan);
        free(w);
    }
    if (cpu) cpu->ops->device.close(cpu);
    cpu = NULL;
}

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) / 64 * 64 + 64);
    if (!p) fake_die("no memory");
    return p;
}

/* ---- tensors ---- */

struct view {
    int64_t dim[4], stride[4];
    enum dtype dtype;
    void *data; /* NULL: between two operations */
};

static void *pointer_of(const struct run *r, int64_t uid)
{
    for (int64_t i = 0; i < r->n; i++)
        if (r->uid[i] == uid) return r->pointer[i];
    return NULL;
}

static struct view view_of(const struct run *r, const struct descriptor *d)
{
    struct view v;
    const int64_t type = dnn_number(d, CUDNN_ATTR_TENSOR_DATA_TYPE);
    memcpy(v.dim, dnn_numbers(d, CUDNN_ATTR_TENSOR_DIMENSIONS), sizeof v.dim);
    memcpy(v.stride, dnn_numbers(d, CUDNN_ATTR_TENSOR_STRIDES), sizeof v.stride);
    v.dtype = type == CUDNN_DATA_FLOAT ? DT_F32 : type == CUDNN_DATA_HALF ? DT_F16 : DT_BF16;
    v.data = NULL;
    if (dnn_number(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL)) return v;
    v.data = pointer_of(r, dnn_number(d, CUDNN_ATTR_TENSOR_UNIQUE_ID));
    int64_t last = 0;
    for (int i = 0; i < 4; i++)
        last += (v.dim[i] - 1) * v.stride[i];
    fake_expect_device(v.data, (size_t)(last + 1) * dtype_size(v.dtype), "a tensor of cuDNN");
    const int64_t align = dnn_number(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    if ((uintptr_t)v.data % (uintptr_t)align)
        fake_die("a tensor of cuDNN at %p is not aligned to %lld bytes", v.data, (long long)align);
    return v;
}

static char *element(const struct view *v, int64_t n, int64_t c, int64_t h, int64_t w)
{
    return (char *)v->data +
           (n * v->stride[0] + c * v->stride[1] + h * v->stride[2] + w * v->stride[3]) *
               (int64_t)dtype_size(v->dtype);
}

/* [n][h][w][c] of NCHW dimensions. */
static float *read_image(const struct view *v)
{
    const int64_t *d = v->dim;
    float *out = floats((size_t)(d[0] * d[1] * d[2] * d[3])), *at = out;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t h = 0; h < d[2]; h++)
            for (int64_t w = 0; w < d[3]; w++, at += d[1])
                if (v->stride[1] == 1)
                    dtype_to_f32(at, element(v, n, 0, h, w), v->dtype, (size_t)d[1]);
                else
                    fake_die("an image of cuDNN whose channels are not contiguous");
    return out;
}

static void write_image(const struct view *v, const float *from)
{
    const int64_t *d = v->dim;
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t h = 0; h < d[2]; h++)
            for (int64_t w = 0; w < d[3]; w++, from += d[1])
                dtype_from_f32(element(v, n, 0, h, w), v->dtype, from, (size_t)d[1]);
}

/* ---- operations ---- */

static struct conv_plan *pack(const struct view *w, const struct conv_desc *d)
{
    struct error err = { 0 };
    const uint64_t birth = fake_birth(w->data);
    for (struct packed *p = weights; p; p = p->next)
        if (p->birth == birth && memcmp(&p->d, d, sizeof *d) == 0) return p->plan;
    struct packed *p = calloc(1, sizeof *p);
    if (!p) fake_die("no memory");
    const size_t taps = (size_t)d->kernel * d->kernel;
    float *krsc = read_image(w), *kcrs = floats(taps * d->ic * d->oc);
    for (size_t o = 0; o < d->oc; o++)
        for (size_t t = 0; t < taps; t++)
            for (size_t i = 0; i < d->ic; i++)
                kcrs[(o * d->ic + i) * taps + t] = krsc[(o * taps + t) * d->ic + i];
    p->birth = birth;
    p->d = *d;
    if (the_cpu()->ops->net.conv_plan(cpu, d, kcrs, NULL, &p->plan, &err))
        fake_die("%s", err.detail);
    p->next = weights;
    weights = p;
    free(krsc);
    free(kcrs);
    return p->plan;
}

static struct tensor image(float *data, const int64_t dim[4])
{
    return (struct tensor){ data,
                            DT_F32,
                            (uint32_t)dim[0],
                            (uint32_t)dim[2],
                            (uint32_t)dim[3],
                            (uint32_t)dim[1],
                            (size_t)dim[1] };
}

static float *convolve(const struct run *r, const struct descriptor *op)
{
    struct error err = { 0 };
    const struct view x = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0)),
                      w = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, 0)),
                      y = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, 0));
    const struct descriptor *conv =
        dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 0);
    struct conv_desc d;
    memset(&d, 0, sizeof d); /* compared as bytes */
    d.h = (uint32_t)x.dim[2];
    d.w = (uint32_t)x.dim[3];
    d.ic = (uint32_t)x.dim[1];
    d.oc = (uint32_t)y.dim[1];
    d.kernel = (uint32_t)w.dim[2];
    d.stride = (uint32_t)dnn_numbers(conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[0];
    d.conditions = 1;
    d.dtype = DT_F32;
    d.x_ld = d.ic;
    d.y_ld = d.oc;
    float *in = read_image(&x), *out = floats((size_t)(y.dim[0] * y.dim[1] * y.dim[2] * y.dim[3]));
    const struct tensor from = image(in, x.dim), to = image(out, y.dim);
    struct conv_plan *plan = pack(&w, &d);
    if (the_cpu()->ops->net.conv(cpu, plan, &from, NULL, &to, NULL, &err))
        fake_die("%s", err.detail);
    free(in);
    return out;
}

/* values += b, which is an image or one value per channel; written to y where y is in memory. */
static void add(const struct run *r, const struct descriptor *op, float *values)
{
    const struct view b = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 0)),
                      y = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0));
    const int64_t channels = y.dim[1], px = y.dim[0] * y.dim[2] * y.dim[3];
    const bool is_bias = b.dim[0] * b.dim[2] * b.dim[3] == 1 && px > 1;
    float *other = read_image(&b);
    for (int64_t i = 0; i < px * channels; i++)
        values[i] += other[is_bias || px == 1 ? i % channels : i];
    free(other);
    if (y.data) write_image(&y, values);
}

/* Queries, keys and values, one head after the other: [n][heads][pixels][channels]. */
static void attend(const struct run *r, const struct descriptor *op)
{
    struct error err = { 0 };
    const struct view part[3] = { view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, 0)),
                                  view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, 0)),
                                  view_of(r,
                                          dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, 0)) };
    const struct view y = view_of(r, dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, 0));
    const size_t rows = (size_t)y.dim[0], heads = (size_t)y.dim[1], px = (size_t)y.dim[2],
                 ch = (size_t)y.dim[3], c = heads * ch;
    if (fabs((double)r->scale * sqrt((double)ch) - 1) > 1e-5)
        fake_die("an attention of another scale");
    float *in = floats(rows * px * 3 * c), *out = floats(rows * px * c);
    for (size_t n = 0; n < rows; n++)
        for (size_t p = 0; p < px; p++)
            for (size_t k = 0; k < 3; k++)
                for (size_t h = 0; h < heads; h++)
                    dtype_to_f32(in + (n * px + p) * 3 * c + k * c + h * ch,
                                 element(&part[k], (int64_t)n, (int64_t)h, (int64_t)p, 0),
                                 part[k].dtype, ch);
    const struct attention_desc d = { .h = (uint32_t)px,
                                      .w = 1,
                                      .heads = (uint32_t)heads,
                                      .head_channels = (uint32_t)ch,
                                      .new_order = true,
                                      .dtype = DT_F32,
                                      .qkv_ld = 3 * c,
                                      .y_ld = c };
    struct tensor qkv = { in, DT_F32, (uint32_t)rows, d.h, 1, (uint32_t)(3 * c), 3 * c };
    struct tensor to = { out, DT_F32, (uint32_t)rows, d.h, 1, (uint32_t)c, c };
    struct attention_plan *plan = NULL;
    if (the_cpu()->ops->net.attention_plan(cpu, &d, &plan, &err) ||
        cpu->ops->net.attention(cpu, plan, &qkv, &to, &err))
        fake_die("%s", err.detail);
    cpu->ops->net.attention_plan_free(cpu, plan);
    for (size_t n = 0; n < rows; n++)
        for (size_t p = 0; p < px; p++)
            for (size_t h = 0; h < heads; h++)
                dtype_from_f32(element(&y, (int64_t)n, (int64_t)h, (int64_t)p, 0), y.dtype,
                               out + (n * px + p) * c + h * ch, ch);
    free(in);
    free(out);
}

/* ---- runs ---- */

static void run_plan(void *job)
{
    const struct run *r = job;
    const struct descriptor *config =
        dnn_child(r->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0);
    const struct descriptor *engine = dnn_child(config, CUDNN_ATTR_ENGINECFG_ENGINE, 0);
    const struct descriptor *graph = dnn_child(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, 0);
    const struct attribute *ops = dnn_attribute(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
    const int64_t index = dnn_number(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
    if (index == ENGINE_NONDETERMINISTIC || index == ENGINE_SPLIT)
        fake_die("an engine that keeps no rule was chosen: %lld", (long long)index);
    fake_expect_device(r->workspace, 4096, "a workspace");
    memset(r->workspace, 0xff, 4096);
    const struct descriptor *first = dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, 0);
    if (fake_is_timing()) {
        /* nothing to compute */
    } else if (first->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
        attend(r, first);
    } else {
        float *values = convolve(r, first);
        for (int64_t i = 1; i < ops->count; i++)
            add(r, dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, i), values);
        free(values);
    }
    fake_spend(dnn_cost_ns(index));
    fake_now.dnn_runs++;
}

static void drop_run(void *job)
{
    struct run *r = job;
    r->plan->users--;
    free(r);
}

cudnnStatus_t dnn_execute(cudnnHandle_t handle, struct descriptor *plan,
                          const struct descriptor *pack_of)
{
    const struct attribute *uids = dnn_attribute(pack_of, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const struct attribute *pointers =
        dnn_attribute(pack_of, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    const struct attribute *workspace = dnn_attribute(pack_of, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    if (!uids || !pointers || !workspace || uids->count != pointers->count ||
        uids->count > MAX_TENSORS)
        return CUDNN_STATUS_BAD_PARAM;
    struct run *r = calloc(1, sizeof *r);
    if (!r) return CUDNN_STATUS_ALLOC_FAILED;
    r->plan = plan;
    r->n = uids->count;
    memcpy(r->uid, uids->values, (size_t)r->n * sizeof *r->uid);
    memcpy(r->pointer, pointers->values, (size_t)r->n * sizeof *r->pointer);
    memcpy(&r->workspace, workspace->values, sizeof r->workspace);
    /* A tensor by value is read now; only an attention has one, its scale. */
    const struct descriptor *config = dnn_child(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0);
    const struct descriptor *graph = dnn_child(dnn_child(config, CUDNN_ATTR_ENGINECFG_ENGINE, 0),
                                               CUDNN_ATTR_ENGINE_OPERATION_GRAPH, 0);
    const struct descriptor *op = dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, 0);
    if (op->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
        const struct descriptor *scale = dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, 0);
        memcpy(&r->scale, pointer_of(r, dnn_number(scale, CUDNN_ATTR_TENSOR_UNIQUE_ID)), 4);
    }
    plan->users++;
    if (fake_enqueue(handle->stream, run_plan, drop_run, r) != cudaSuccess) {
        drop_run(r);
        return CUDNN_STATUS_EXECUTION_FAILED;
    }
    return CUDNN_STATUS_SUCCESS;
}
