/* Sums of products: convolution, linear, attention. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/reference/reference.h"

struct conv_plan {
    struct conv_desc d;
    double *weight; /* [kernel][kernel][ic][oc] */
    double *bias;   /* [conditions][oc] */
    double *sum;    /* [oc] */
};

void reference_conv_plan_free(struct backend *b, struct conv_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weight);
    free(p->bias);
    free(p->sum);
    free(p);
}

enum status reference_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                                const float *bias, struct conv_plan **out, struct error *err)
{
    bool possible = (d->kernel == 1 || d->kernel == 3) && (d->stride == 1 || d->stride == 2) &&
                    d->conditions > 0 && d->ic > 0 && d->oc > 0 && d->dtype == DT_F32 &&
                    d->x_ld >= d->ic && d->y_ld >= d->oc;
    if (!possible) return expect(possible, "a convolution that cannot be", err);
    struct conv_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    size_t k = d->kernel, ic = d->ic, oc = d->oc;
    p->d = *d;
    p->weight = malloc(k * k * ic * oc * sizeof *p->weight);
    p->bias = calloc(d->conditions * oc, sizeof *p->bias);
    p->sum = malloc(oc * sizeof *p->sum);
    if (!p->weight || !p->bias || !p->sum) {
        reference_conv_plan_free(b, p);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    }
    for (size_t o = 0; o < oc; o++)
        for (size_t i = 0; i < ic; i++)
            for (size_t kk = 0; kk < k * k; kk++)
                p->weight[(kk * ic + i) * oc + o] = weight[(o * ic + i) * k * k + kk];
    for (size_t i = 0; bias && i < d->conditions * oc; i++)
        p->bias[i] = bias[i];
    *out = p;
    return ST_OK;
}

/* Computes one output pixel into p->sum. */
static void convolve(const struct conv_plan *p, const struct tensor *x, uint32_t n, uint32_t oy,
                     uint32_t ox)
{
    size_t oc = p->d.oc, ic = p->d.ic;
    int64_t k = p->d.kernel, pad = k / 2;
    for (int64_t ky = 0; ky < k; ky++)
        for (int64_t kx = 0; kx < k; kx++) {
            int64_t iy = (int64_t)oy * p->d.stride + ky - pad;
            int64_t ix = (int64_t)ox * p->d.stride + kx - pad;
            if (iy < 0 || iy >= x->h || ix < 0 || ix >= x->w) continue;
            const float *in = pixel(x, n, (uint32_t)iy, (uint32_t)ix);
            for (size_t i = 0; i < ic; i++) {
                const double *w = p->weight + ((size_t)(ky * k + kx) * ic + i) * oc;
                double v = in[i];
                for (size_t o = 0; o < oc; o++)
                    p->sum[o] += v * w[o];
            }
        }
}

enum status reference_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                           const struct tensor *residual, const struct tensor *y,
                           const uint32_t *condition, struct error *err)
{
    (void)b;
    const struct conv_desc *d = &p->d;
    enum status s = expect(x->h == d->h && x->w == d->w && x->c == d->ic && x->ld == d->x_ld &&
                               y->h == (d->h + d->stride - 1) / d->stride &&
                               y->w == (d->w + d->stride - 1) / d->stride && y->c == d->oc &&
                               y->ld == d->y_ld && x->n == y->n && !residual == !d->r_ld &&
                               (!residual || (residual->ld == d->r_ld && residual->c == d->oc)),
                           "a convolution's tensors are not those of its plan", err);
    if (s) return s;
    for (uint32_t n = 0; n < y->n; n++) {
        uint32_t k = condition ? condition[n] : 0;
        s = expect(k < d->conditions, "a bias set that does not exist", err);
        if (s) return s;
        for (uint32_t oy = 0; oy < y->h; oy++)
            for (uint32_t ox = 0; ox < y->w; ox++) {
                memcpy(p->sum, p->bias + (size_t)k * d->oc, d->oc * sizeof *p->sum);
                convolve(p, x, n, oy, ox);
                const float *r = residual ? pixel(residual, n, oy, ox) : NULL;
                float *to = pixel(y, n, oy, ox);
                for (uint32_t o = 0; o < d->oc; o++)
                    to[o] = (float)(p->sum[o] + (r ? (double)r[o] : 0.0));
            }
    }
    return ST_OK;
}

struct linear_plan {
    uint32_t ic, oc;
    float *weight, *bias;
};

void reference_linear_plan_free(struct backend *b, struct linear_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weight);
    free(p->bias);
    free(p);
}

enum status reference_linear_plan(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                                  const float *bias, struct linear_plan **out, struct error *err)
{
    struct linear_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    p->ic = ic;
    p->oc = oc;
    p->weight = malloc((size_t)ic * oc * sizeof *p->weight);
    p->bias = calloc(oc, sizeof *p->bias);
    if (!p->weight || !p->bias) {
        reference_linear_plan_free(b, p);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    }
    memcpy(p->weight, weight, (size_t)ic * oc * sizeof *p->weight);
    if (bias) memcpy(p->bias, bias, oc * sizeof *p->bias);
    *out = p;
    return ST_OK;
}

enum status reference_linear(struct backend *b, struct linear_plan *p, const struct tensor *x,
                             const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(x->c == p->ic && y->c == p->oc && x->n == y->n,
                           "a linear layer's tensors are not those of its plan", err);
    for (uint32_t n = 0; !s && n < x->n; n++) {
        const float *in = pixel(x, n, 0, 0);
        float *to = pixel(y, n, 0, 0);
        for (uint32_t o = 0; o < p->oc; o++) {
            double sum = p->bias[o];
            for (uint32_t i = 0; i < p->ic; i++)
                sum += (double)in[i] * (double)p->weight[(size_t)o * p->ic + i];
            to[o] = (float)sum;
        }
    }
    return s;
}

struct attention_plan {
    struct attention_desc d;
    double *weights; /* [h * w]: for one query */
    double *value;   /* [head_channels] */
};

void reference_attention_plan_free(struct backend *b, struct attention_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weights);
    free(p->value);
    free(p);
}

enum status reference_attention_plan(struct backend *b, const struct attention_desc *d,
                                     struct attention_plan **out, struct error *err)
{
    struct attention_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    p->d = *d;
    p->weights = malloc((size_t)d->h * d->w * sizeof *p->weights);
    p->value = malloc(d->head_channels * sizeof *p->value);
    if (!p->weights || !p->value) {
        reference_attention_plan_free(b, p);
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    }
    *out = p;
    return ST_OK;
}

/* Softmax of q.k over all pixels, for the query at pixel i of feature map n. */
static void attend(const struct attention_plan *p, const float *qkv, size_t i, size_t q_at,
                   size_t k_at)
{
    size_t pixels = (size_t)p->d.h * p->d.w, ch = p->d.head_channels;
    double scale = 1.0 / sqrt((double)ch), most = -INFINITY, total = 0;
    for (size_t j = 0; j < pixels; j++) {
        const float *q = qkv + i * p->d.qkv_ld + q_at, *k = qkv + j * p->d.qkv_ld + k_at;
        double dot = 0;
        for (size_t c = 0; c < ch; c++)
            dot += (double)q[c] * (double)k[c];
        p->weights[j] = dot * scale;
        most = fmax(most, p->weights[j]);
    }
    for (size_t j = 0; j < pixels; j++) {
        p->weights[j] = exp(p->weights[j] - most);
        total += p->weights[j];
    }
    for (size_t j = 0; j < pixels; j++)
        p->weights[j] /= total;
}

static void attend_head(const struct attention_plan *p, const float *qkv, float *y, size_t head)
{
    size_t pixels = (size_t)p->d.h * p->d.w, ch = p->d.head_channels, c = ch * p->d.heads;
    size_t q = p->d.new_order ? head * ch : head * 3 * ch, part = p->d.new_order ? c : ch;
    for (size_t i = 0; i < pixels; i++) {
        attend(p, qkv, i, q, q + part);
        memset(p->value, 0, ch * sizeof *p->value);
        for (size_t j = 0; j < pixels; j++)
            for (size_t k = 0; k < ch; k++)
                p->value[k] += p->weights[j] * (double)qkv[j * p->d.qkv_ld + q + 2 * part + k];
        for (size_t k = 0; k < ch; k++)
            y[i * p->d.y_ld + head * ch + k] = (float)p->value[k];
    }
}

enum status reference_attention(struct backend *b, struct attention_plan *p,
                                const struct tensor *qkv, const struct tensor *y, struct error *err)
{
    (void)b;
    const struct attention_desc *d = &p->d;
    enum status s =
        expect(qkv->h == d->h && qkv->w == d->w && qkv->c == 3 * d->heads * d->head_channels &&
                   qkv->ld == d->qkv_ld && y->ld == d->y_ld && y->c == d->heads * d->head_channels,
               "attention's tensors are not those of its plan", err);
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (uint32_t head = 0; head < d->heads; head++)
            attend_head(p, pixel(qkv, n, 0, 0), pixel(y, n, 0, 0), head);
    return s;
}
