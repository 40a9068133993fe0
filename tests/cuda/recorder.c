#include "tests/cuda/recorder.h"

#include <stdlib.h>

static struct recorder *of(struct backend *b)
{
    return (struct recorder *)b;
}

static bool has_dtype(struct backend *b, enum dtype t)
{
    (void)b;
    return t == DT_F32 || t == DT_BF16 || t == DT_F16;
}

static enum dtype best_dtype(struct backend *b)
{
    (void)b;
    return DT_BF16;
}

static uint32_t rows_per_batch(struct backend *b)
{
    return of(b)->rows;
}

static enum status take(struct backend *b, size_t bytes, void **out, struct error *err)
{
    (void)b;
    void *p = malloc(bytes ? bytes : 1); /* pages that nobody touches cost nothing */
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes", bytes);
    *out = p;
    return ST_OK;
}

static void give(struct backend *b, void *p)
{
    (void)b;
    free(p);
}

static enum status note_conv(struct backend *b, const struct conv_desc *d, const float *weight,
                             const float *bias, struct conv_plan **out, struct error *err)
{
    struct recorder *r = of(b);
    (void)weight;
    (void)bias;
    if (r->n_convs == RECORDER_MAX) return error_set(err, ST_INTERNAL, "too many convolutions");
    r->convs[r->n_convs] = *d;
    *out = (struct conv_plan *)&r->convs[r->n_convs++];
    return ST_OK;
}

static void conv_free(struct backend *b, struct conv_plan *p)
{
    (void)b;
    (void)p;
}

static enum status note_linear(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                               const float *bias, struct linear_plan **out, struct error *err)
{
    (void)ic;
    (void)oc;
    (void)weight;
    (void)bias;
    (void)err;
    *out = (struct linear_plan *)b;
    return ST_OK;
}

static void linear_free(struct backend *b, struct linear_plan *p)
{
    (void)b;
    (void)p;
}

static enum status note_attention(struct backend *b, const struct attention_desc *d,
                                  struct attention_plan **out, struct error *err)
{
    struct recorder *r = of(b);
    if (r->n_attentions == RECORDER_MAX) return error_set(err, ST_INTERNAL, "too many attentions");
    r->attentions[r->n_attentions++] = *d;
    *out = (struct attention_plan *)r;
    return ST_OK;
}

static void attention_free(struct backend *b, struct attention_plan *p)
{
    (void)b;
    (void)p;
}

/* Ops that constant folding runs, or that a program asks for before it is made. Nothing is
 * computed: no value reaches a plan. */

static enum status conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y,
                        const uint32_t *condition, struct error *err)
{
    (void)b, (void)p, (void)x, (void)residual, (void)y, (void)condition, (void)err;
    return ST_OK;
}

static enum status linear(struct backend *b, struct linear_plan *p, const struct tensor *x,
                          const struct tensor *y, struct error *err)
{
    (void)b, (void)p, (void)x, (void)y, (void)err;
    return ST_OK;
}

static enum status attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err)
{
    (void)b, (void)p, (void)qkv, (void)y, (void)err;
    return ST_OK;
}

static enum status group_norm(struct backend *b, const struct group_norm_args *a, struct error *err)
{
    (void)b, (void)a, (void)err;
    return ST_OK;
}

static enum status timestep(struct backend *b, const float *t, const struct tensor *y,
                            struct error *err)
{
    (void)b, (void)t, (void)y, (void)err;
    return ST_OK;
}

static enum status label(struct backend *b, const float *table, const uint32_t *labels,
                         const struct tensor *y, struct error *err)
{
    (void)b, (void)table, (void)labels, (void)y, (void)err;
    return ST_OK;
}

static enum status unary(struct backend *b, const struct tensor *x, const struct tensor *y,
                         struct error *err)
{
    (void)b, (void)x, (void)y, (void)err;
    return ST_OK;
}

static enum status binary(struct backend *b, const struct tensor *x, const struct tensor *o,
                          const struct tensor *y, struct error *err)
{
    (void)b, (void)x, (void)o, (void)y, (void)err;
    return ST_OK;
}

static const struct backend_ops recorder_ops = {
    .device.name = "recorder",
    .device.host_memory = true,
    .device.has_dtype = has_dtype,
    .device.best_dtype = best_dtype,
    .device.rows_per_batch = rows_per_batch,
    .device.alloc = take,
    .device.free = give,
    .net.conv_plan = note_conv,
    .net.conv_plan_free = conv_free,
    .net.linear_plan = note_linear,
    .net.linear_plan_free = linear_free,
    .net.linear = linear,
    .net.attention_plan = note_attention,
    .net.attention_plan_free = attention_free,
    .net.timestep = timestep,
    .net.label = label,
    .net.conv = conv,
    .net.attention = attention,
    .net.group_norm = group_norm,
    .net.add_channel = binary,
#define OP(name, traits, what)
#define UNARY_OP(name, function, traits, what)  .net.function = unary,
#define BINARY_OP(name, function, traits, what) .net.function = binary,
#include "engine/graph/ops.def"
    .net.norm_resamples = true, /* as the back end whose plans are asked about */
};

void recorder_init(struct recorder *r, uint32_t rows)
{
    *r = (struct recorder){ .base = { &recorder_ops }, .rows = rows };
}
