/* Gradients of sums of products: convolution, linear, attention; and the table of all gradients. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/reference/gradients.h"

struct trained_conv {
    struct trained_conv_desc d;
    uint32_t oh, ow;
    double *out_last; /* [kernel][kernel][ic][oc] */
    double *in_last;  /* [kernel][kernel][oc][ic] */
    double *bias;     /* [oc] */
    double *sum;      /* [h][w][ic] of one row, for dx; [oc] for y; [ic] for dweight */
};

void reference_trained_conv_free(struct backend *b, struct trained_conv *c)
{
    (void)b;
    if (!c) return;
    free(c->out_last);
    free(c->in_last);
    free(c->bias);
    free(c->sum);
    free(c);
}

static size_t weights_of(const struct trained_conv_desc *d)
{
    return (size_t)d->oc * d->ic * d->kernel * d->kernel;
}

enum status reference_trained_conv_new(struct backend *b, const struct trained_conv_desc *d,
                                       struct trained_conv **out, struct error *err)
{
    struct trained_conv *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution");
    uint32_t border = 2 * (d->kernel / 2);
    c->d = *d;
    c->oh = (d->h + border - d->kernel) / d->stride + 1;
    c->ow = (d->w + border - d->kernel) / d->stride + 1;
    c->out_last = malloc(weights_of(d) * sizeof *c->out_last);
    c->in_last = malloc(weights_of(d) * sizeof *c->in_last);
    c->bias = malloc(d->oc * sizeof *c->bias);
    c->sum = malloc(((size_t)d->h * d->w * d->ic + d->oc) * sizeof *c->sum);
    if (!c->out_last || !c->in_last || !c->bias || !c->sum) {
        reference_trained_conv_free(b, c);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution");
    }
    *out = c;
    return ST_OK;
}

size_t reference_trained_conv_bytes(const struct trained_conv *c)
{
    return (weights_of(&c->d) + c->d.oc) * sizeof(float);
}

enum status reference_trained_conv_pack(struct backend *b, struct trained_conv *c,
                                        const float *weight, const float *bias, struct error *err)
{
    (void)b;
    (void)err;
    const size_t ic = c->d.ic, oc = c->d.oc, taps = (size_t)c->d.kernel * c->d.kernel;
    for (size_t j = 0; j < oc * ic * taps; j++) {
        size_t o = j / taps / ic, i = j / taps % ic, tap = j % taps;
        c->out_last[(tap * ic + i) * oc + o] = c->in_last[(tap * oc + o) * ic + i] = weight[j];
    }
    for (size_t o = 0; o < oc; o++)
        c->bias[o] = bias[o];
    return ST_OK;
}

/* The pixel of x that output pixel (oy, ox) reads at a tap; false: it is in the padding. */
static bool tapped(const struct trained_conv *c, uint32_t oy, uint32_t ox, uint32_t tap,
                   uint32_t *y, uint32_t *x)
{
    const struct trained_conv_desc *d = &c->d;
    int64_t k = d->kernel, iy = (int64_t)oy * d->stride + tap / k - k / 2;
    int64_t ix = (int64_t)ox * d->stride + tap % k - k / 2;
    if (iy < 0 || iy >= d->h || ix < 0 || ix >= d->w) return false;
    *y = (uint32_t)iy;
    *x = (uint32_t)ix;
    return true;
}

/* sum[k] += by * v[k] */
static void add_times(double *sum, double by, const double *v, size_t count)
{
    for (size_t k = 0; k < count; k++)
        sum[k] += by * v[k];
}

static bool fits(const struct trained_conv *c, const struct tensor *x, const struct tensor *y)
{
    return x->h == c->d.h && x->w == c->d.w && x->c == c->d.ic && y->h == c->oh && y->w == c->ow &&
           y->c == c->d.oc && x->n == y->n;
}

enum status reference_trained_conv(struct backend *b, struct trained_conv *c,
                                   const struct tensor *x, const struct tensor *residual,
                                   const struct tensor *y, struct error *err)
{
    (void)b;
    const struct trained_conv_desc *d = &c->d;
    enum status s = expect(fits(c, x, y), "a convolution's tensors are not those of its plan", err);
    const size_t ic = d->ic, oc = d->oc;
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (uint32_t at = 0; at < c->oh * c->ow; at++) {
            uint32_t iy, ix;
            memcpy(c->sum, c->bias, oc * sizeof *c->sum);
            for (uint32_t tap = 0; tap < d->kernel * d->kernel; tap++) {
                if (!tapped(c, at / c->ow, at % c->ow, tap, &iy, &ix)) continue;
                const float *in = pixel(x, n, iy, ix);
                for (size_t i = 0; i < ic; i++)
                    add_times(c->sum, (double)in[i], c->out_last + (tap * ic + i) * oc, oc);
            }
            const float *r = residual ? pixel(residual, n, 0, at) : NULL;
            float *to = pixel(y, n, 0, at);
            for (size_t o = 0; o < oc; o++)
                to[o] = (float)(c->sum[o] + (r ? (double)r[o] : 0.0));
        }
    return s;
}

enum status reference_conv_data(struct backend *b, struct trained_conv *c, const struct tensor *dy,
                                const struct tensor *dx, struct error *err)
{
    (void)b;
    const struct trained_conv_desc *d = &c->d;
    size_t count = (size_t)d->h * d->w * d->ic;
    enum status s =
        expect(fits(c, dx, dy), "a convolution's gradients are not those of its plan", err);
    for (uint32_t n = 0; !s && n < dy->n; n++) {
        memset(c->sum, 0, count * sizeof *c->sum);
        for (uint32_t at = 0; at < c->oh * c->ow; at++)
            for (uint32_t tap = 0; tap < d->kernel * d->kernel; tap++) {
                uint32_t iy, ix;
                if (!tapped(c, at / c->ow, at % c->ow, tap, &iy, &ix)) continue;
                double *to = c->sum + ((size_t)iy * d->w + ix) * d->ic;
                const float *from = pixel(dy, n, 0, at);
                for (size_t o = 0; o < d->oc; o++)
                    add_times(to, (double)from[o], c->in_last + (tap * d->oc + o) * d->ic, d->ic);
            }
        struct into to = { *dx, d->dx_add };
        for (size_t i = 0; i < count; i++)
            put(&to, n, i / d->ic, i % d->ic, c->sum[i]);
    }
    return s;
}

/* Into c->sum: the gradients of the weights at a tap, from all inputs to one output. */
static void sum_products(struct trained_conv *c, const struct tensor *x, const struct tensor *dy,
                         size_t o, uint32_t tap)
{
    memset(c->sum, 0, c->d.ic * sizeof *c->sum);
    for (uint32_t n = 0; n < x->n; n++)
        for (uint32_t at = 0; at < c->oh * c->ow; at++) {
            uint32_t iy, ix;
            if (!tapped(c, at / c->ow, at % c->ow, tap, &iy, &ix)) continue;
            const double slope = (double)pixel(dy, n, 0, at)[o];
            const float *in = pixel(x, n, iy, ix);
            for (size_t i = 0; i < c->d.ic; i++)
                c->sum[i] += (double)in[i] * slope;
        }
}

enum status reference_conv_weights(struct backend *b, struct trained_conv *c,
                                   const struct tensor *x, const struct tensor *dy, float *dweight,
                                   float *dbias, struct error *err)
{
    (void)b;
    const struct trained_conv_desc *d = &c->d;
    const uint32_t taps = d->kernel * d->kernel;
    enum status s =
        expect(fits(c, x, dy), "a convolution's gradients are not those of its plan", err);
    for (size_t o = 0; !s && o < d->oc; o++)
        for (uint32_t tap = 0; tap < taps; tap++) {
            sum_products(c, x, dy, o, tap);
            for (size_t i = 0; i < d->ic; i++) {
                float *to = dweight + (o * d->ic + i) * taps + tap;
                *to = (float)((double)*to + c->sum[i]);
            }
        }
    for (size_t o = 0; !s && dbias && o < d->oc; o++) {
        double sum = 0;
        for (uint32_t n = 0; n < dy->n; n++)
            for (uint32_t at = 0; at < c->oh * c->ow; at++)
                sum += (double)pixel(dy, n, 0, at)[o];
        dbias[o] = (float)((double)dbias[o] + sum);
    }
    return s;
}

enum status reference_trained_linear(struct backend *b, const float *weight, const float *bias,
                                     const struct tensor *x, const struct tensor *y,
                                     struct error *err)
{
    (void)b;
    enum status s = expect(x->n == y->n, "a linear layer of different rows", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (size_t o = 0; o < y->c; o++) {
            double sum = (double)bias[o];
            for (size_t i = 0; i < x->c; i++)
                sum += (double)pixel(x, n, 0, 0)[i] * (double)weight[o * x->c + i];
            pixel(y, n, 0, 0)[o] = (float)sum;
        }
    return s;
}

enum status reference_linear_gradient(struct backend *b, const float *weight,
                                      const struct tensor *x, const struct tensor *dy,
                                      const struct into *dx, float *dweight, float *dbias,
                                      struct error *err)
{
    (void)b;
    enum status s = expect(x->n == dy->n, "a linear layer of different rows", err);
    for (uint32_t n = 0; !s && dx->dst.data && n < x->n; n++)
        for (size_t i = 0; i < x->c; i++) {
            double sum = 0;
            for (size_t o = 0; o < dy->c; o++)
                sum += (double)pixel(dy, n, 0, 0)[o] * (double)weight[o * x->c + i];
            put(dx, n, 0, i, sum);
        }
    for (size_t o = 0; !s && o < dy->c; o++) {
        double total = 0;
        for (uint32_t n = 0; n < x->n; n++)
            total += (double)pixel(dy, n, 0, 0)[o];
        if (dbias) dbias[o] = (float)((double)dbias[o] + total);
        for (size_t i = 0; dweight && i < x->c; i++) {
            double sum = 0;
            for (uint32_t n = 0; n < x->n; n++)
                sum += (double)pixel(dy, n, 0, 0)[o] * (double)pixel(x, n, 0, 0)[i];
            dweight[o * x->c + i] = (float)((double)dweight[o * x->c + i] + sum);
        }
    }
    return s;
}

struct trained_attention {
    struct attention_desc d;
    double *weight, *slope; /* [pixels]: softmax of one query, and its gradient */
    double *sum;            /* [pixels][3 ch] of one head */
};

void reference_trained_attention_free(struct backend *b, struct trained_attention *a)
{
    (void)b;
    if (!a) return;
    free(a->weight);
    free(a->slope);
    free(a->sum);
    free(a);
}

enum status reference_trained_attention_new(struct backend *b, const struct attention_desc *d,
                                            struct trained_attention **out, struct error *err)
{
    size_t pixels = (size_t)d->h * d->w;
    struct trained_attention *a = calloc(1, sizeof *a);
    if (!a) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an attention");
    a->d = *d;
    a->weight = malloc(pixels * sizeof *a->weight);
    a->slope = malloc(pixels * sizeof *a->slope);
    a->sum = malloc(pixels * 3 * d->head_channels * sizeof *a->sum);
    if (!a->weight || !a->slope || !a->sum) {
        reference_trained_attention_free(b, a);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for an attention");
    }
    *out = a;
    return ST_OK;
}

/* p_j = softmax(q . k_j / sqrt(ch)), y = sum p_j v_j; with g_j = dy . v_j, the scores' gradient is
 * p_j (g_j - sum p g). */
static void attend_back(struct trained_attention *a, const float *qkv, const float *dy, size_t ld,
                        size_t part, size_t i)
{
    size_t pixels = (size_t)a->d.h * a->d.w, ch = a->d.head_channels;
    const float *q = qkv + i * ld;
    double scale = 1.0 / sqrt((double)ch), most = -INFINITY, total = 0, mean = 0;
    for (size_t j = 0; j < pixels; j++) {
        const float *k = qkv + j * ld + part, *v = k + part;
        double dot = 0;
        a->slope[j] = 0;
        for (size_t c = 0; c < ch; c++) {
            dot += (double)q[c] * (double)k[c];
            a->slope[j] += (double)dy[c] * (double)v[c];
        }
        a->weight[j] = dot * scale;
        most = fmax(most, a->weight[j]);
    }
    for (size_t j = 0; j < pixels; j++)
        total += a->weight[j] = exp(a->weight[j] - most);
    for (size_t j = 0; j < pixels; j++)
        mean += (a->weight[j] /= total) * a->slope[j];
    for (size_t j = 0; j < pixels; j++) {
        const float *k = qkv + j * ld + part;
        double p = a->weight[j], ds = p * (a->slope[j] - mean) * scale;
        double *dq = a->sum + i * 3 * ch, *dk = a->sum + j * 3 * ch + ch, *dv = dk + ch;
        for (size_t c = 0; c < ch; c++) {
            dq[c] += ds * (double)k[c];
            dk[c] += ds * (double)q[c];
            dv[c] += p * (double)dy[c];
        }
    }
}

enum status reference_attention_gradient(struct backend *b, struct trained_attention *a,
                                         const struct tensor *qkv, const struct tensor *dy,
                                         const struct tensor *dqkv, struct error *err)
{
    (void)b;
    const struct attention_desc *d = &a->d;
    size_t pixels = (size_t)d->h * d->w, ch = d->head_channels, c = ch * d->heads;
    enum status s = expect(qkv->c == 3 * c && dqkv->c == 3 * c && dy->c == c && qkv->h == d->h &&
                               qkv->w == d->w && qkv->n == dy->n && dqkv->n == dy->n,
                           "attention's gradients are not those of its plan", err);
    for (uint32_t n = 0; !s && n < dy->n; n++)
        for (size_t head = 0; head < d->heads; head++) {
            size_t first = d->new_order ? head * ch : head * 3 * ch, part = d->new_order ? c : ch;
            memset(a->sum, 0, pixels * 3 * ch * sizeof *a->sum);
            for (size_t i = 0; i < pixels; i++)
                attend_back(a, pixel(qkv, n, 0, 0) + first,
                            pixel(dy, n, 0, (uint32_t)i) + head * ch, qkv->ld, part, i);
            for (size_t i = 0; i < pixels * 3 * ch; i++)
                pixel(dqkv, n, 0, (uint32_t)(i / (3 * ch)))[first + i / ch % 3 * part + i % ch] =
                    (float)a->sum[i];
        }
    return s;
}

const struct gradient_ops reference_gradients = {
    .conv_new = reference_trained_conv_new,
    .conv_free = reference_trained_conv_free,
    .conv_bytes = reference_trained_conv_bytes,
    .conv_pack = reference_trained_conv_pack,
    .conv = reference_trained_conv,
    .conv_data = reference_conv_data,
    .conv_weights = reference_conv_weights,
    .linear = reference_trained_linear,
    .linear_gradient = reference_linear_gradient,
    .silu_gradient = reference_silu_gradient,
    .label_gradient = reference_label_gradient,
    .group_norm = reference_trained_group_norm,
    .group_norm_gradient = reference_group_norm_gradient,
    .attention_new = reference_trained_attention_new,
    .attention_free = reference_trained_attention_free,
    .attention_gradient = reference_attention_gradient,
    .upsample_gradient = reference_upsample_gradient,
    .downsample_gradient = reference_downsample_gradient,
    .copy_into = reference_copy_into,
    .channel_sums = reference_channel_sums,
    .batch_norm_sums = reference_batch_norm_sums,
    .batch_norm = reference_batch_norm,
    .batch_norm_gradient_sums = reference_batch_norm_gradient_sums,
    .batch_norm_gradient = reference_batch_norm_gradient,
    .leaky_relu = reference_leaky_relu,
    .leaky_relu_gradient = reference_leaky_relu_gradient,
    .adamw = reference_adamw,
    .average = reference_average,
    .fill = reference_fill,
    .scale = reference_scale,
    .sum_squares = reference_sum_squares,
};
