/* An op as a graph of cuDNN operations over tensors. */
#include "engine/cuda/cudnn_internal.h"

/* ---- tensors ---- */

static cudnnDataType_t data_type(enum dtype t)
{
    return t == DT_BF16 ? CUDNN_DATA_BFLOAT16 : t == DT_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

struct shape {
    int64_t uid, dims[4], strides[4], align;
    cudnnDataType_t type;
    bool is_virtual, by_value;
};

static dnn_part_t tensor(struct dnn_parts *p, const struct shape *s)
{
    dnn_part_t d = dnn_part(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &s->uid);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &s->type);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, s->dims);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, s->strides);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &s->align);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &s->is_virtual);
    dnn_set(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &s->by_value);
    dnn_finish(p, d, "a tensor");
    return d;
}

/* n feature maps of h x w x c with `ld` elements between pixels: NCHW dimensions over NHWC
 * memory. */
static struct shape image(int64_t uid, enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c,
                          size_t ld)
{
    int64_t pixel = (int64_t)ld, row = pixel * w, all = row * h;
    size_t ld_bytes = ld * dtype_size(t);
    return (struct shape){ .uid = uid,
                           .dims = { n, c, h, w },
                           .strides = { all, 1, row, pixel },
                           .align = ld_bytes % 16 == 0 ? 16 : (int64_t)dtype_size(t),
                           .type = data_type(t) };
}

static struct shape between(struct shape s, int64_t which)
{
    s.uid = DNN_BETWEEN + which;
    s.type = CUDNN_DATA_FLOAT;
    s.align = 16;
    s.is_virtual = true;
    return s;
}

/* ---- operations ---- */

static dnn_part_t pointwise_add(struct dnn_parts *p, dnn_part_t x, dnn_part_t b, dnn_part_t y)
{
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    dnn_part_t add = dnn_part(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    dnn_set(p, add, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    dnn_set(p, add, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    dnn_finish(p, add, "a sum");
    dnn_part_t op = dnn_part(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, add);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    dnn_finish(p, op, "the operation of a sum");
    return op;
}

static dnn_part_t convolution(struct dnn_parts *p, const struct dnn_op *o, dnn_part_t x,
                              dnn_part_t weight, dnn_part_t y)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t dims = 2, pad[2] = { o->kernel / 2, o->kernel / 2 };
    const int64_t stride[2] = { o->stride, o->stride }, one[2] = { 1, 1 };
    const float alpha = 1, beta = 0;
    dnn_part_t conv = dnn_part(p, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    dnn_set(p, conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    dnn_finish(p, conv, "a convolution");
    dnn_part_t op = dnn_part(p, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, conv);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, weight);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    dnn_set(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    dnn_set(p, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    dnn_finish(p, op, "the operation of a convolution");
    return op;
}

/* conv, + residual, + bias: the order in which cuDNN's precompiled engines fuse them. */
static uint32_t conv_operations(struct dnn_parts *p, const struct dnn_op *o, uint32_t n,
                                bool wide_bias, dnn_part_t ops[3])
{
    const uint32_t h = (o->h + o->stride - 1) / o->stride, w = (o->w + o->stride - 1) / o->stride;
    const struct shape xs = image(DNN_X, o->dtype, n, o->h, o->w, o->ic, o->x_ld);
    const struct shape ws = image(DNN_WEIGHT, o->dtype, o->oc, o->kernel, o->kernel, o->ic, o->ic);
    const struct shape ys = image(DNN_Y, o->dtype, n, h, w, o->oc, o->y_ld);
    const struct shape bs = image(DNN_BIAS, wide_bias ? DT_F32 : o->dtype, 1, 1, 1, o->oc, o->oc);
    const struct shape tight = image(DNN_Y, o->dtype, n, h, w, o->oc, o->oc);
    const struct shape after_conv = between(tight, 0), after_sum = between(tight, 1);
    dnn_part_t x = tensor(p, &xs), weight = tensor(p, &ws), y = tensor(p, &ys),
               bias = tensor(p, &bs);
    dnn_part_t sum = tensor(p, &after_conv);
    uint32_t count = 0;
    ops[count++] = convolution(p, o, x, weight, sum);
    if (o->r_ld) {
        const struct shape rs = image(DNN_RESIDUAL, o->dtype, n, h, w, o->oc, o->r_ld);
        dnn_part_t residual = tensor(p, &rs), both = tensor(p, &after_sum);
        ops[count++] = pointwise_add(p, sum, residual, both);
        sum = both;
    }
    ops[count++] = pointwise_add(p, sum, bias, y);
    return count;
}

/* One third of qkv, or y, as [n][heads][pixels][head_channels]. */
static struct shape heads_of(const struct dnn_op *o, int64_t uid, uint32_t n, size_t ld,
                             int64_t between_heads)
{
    const int64_t pixels = (int64_t)o->h * o->w;
    return (struct shape){ .uid = uid,
                           .dims = { n, o->heads, pixels, o->head_channels },
                           .strides = { pixels * (int64_t)ld, between_heads, (int64_t)ld, 1 },
                           .align = 16,
                           .type = data_type(o->dtype) };
}

static uint32_t attention_operations(struct dnn_parts *p, const struct dnn_op *o, uint32_t n,
                                     dnn_part_t ops[1])
{
    const int64_t ch = o->head_channels, apart = o->new_order ? ch : 3 * ch;
    const struct shape q = heads_of(o, DNN_QUERY, n, o->x_ld, apart),
                       k = heads_of(o, DNN_KEY, n, o->x_ld, apart),
                       v = heads_of(o, DNN_VALUE, n, o->x_ld, apart),
                       y = heads_of(o, DNN_Y, n, o->y_ld, ch);
    const struct shape scale = { .uid = DNN_SCALE,
                                 .dims = { 1, 1, 1, 1 },
                                 .strides = { 1, 1, 1, 1 },
                                 .align = 4,
                                 .type = CUDNN_DATA_FLOAT,
                                 .by_value = true };
    dnn_part_t op = dnn_part(p, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, tensor(p, &q));
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, tensor(p, &k));
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, tensor(p, &v));
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, tensor(p, &y));
    dnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, tensor(p, &scale));
    dnn_finish(p, op, "an attention");
    ops[0] = op;
    return 1;
}

enum status dnn_check_op(const struct dnn_op *o, uint32_t n, struct error *err)
{
    const bool is_float = o->dtype == DT_F32 || o->dtype == DT_F16 || o->dtype == DT_BF16;
    bool ok = n > 0 && o->h > 0 && o->w > 0 && is_float;
    if (o->kind == DNN_CONV)
        ok = ok && o->ic > 0 && o->oc > 0 && (o->kernel == 1 || o->kernel == 3) &&
             (o->stride == 1 || o->stride == 2) && o->x_ld >= o->ic && o->y_ld >= o->oc &&
             (o->r_ld == 0 || o->r_ld >= o->oc);
    else
        ok = ok && o->heads > 0 && o->head_channels > 0 &&
             o->x_ld >= (size_t)3 * o->heads * o->head_channels &&
             o->y_ld >= (size_t)o->heads * o->head_channels;
    return ok ? ST_OK : error_set(err, ST_INTERNAL, "cuDNN: an op that cannot be");
}

dnn_part_t dnn_graph_of(struct dnn_parts *p, const struct dnn_op *o, uint32_t n, bool wide_bias)
{
    dnn_part_t ops[3];
    enum status s = dnn_check_op(o, n, p->err);
    if (!p->status) p->status = s;
    if (p->status) return NULL;
    int64_t count = o->kind == DNN_CONV ? conv_operations(p, o, n, wide_bias, ops)
                                        : attention_operations(p, o, n, ops);
    dnn_part_t graph = dnn_part(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    dnn_set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, ops);
    dnn_finish(p, graph, "a graph");
    return graph;
}
