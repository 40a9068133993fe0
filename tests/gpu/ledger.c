#include "tests/gpu/ledger.h"

#include <stdio.h>
#include <string.h>

#include "engine/cuda/kernels.h"

static enum status note(struct backend *b, const struct entry *e, struct error *err)
{
    struct ledger *l = (struct ledger *)b;
    if (l->count == LEDGER_MAX) return error_set(err, ST_INTERNAL, "more than %d ops", LEDGER_MAX);
    l->entries[l->count++] = *e;
    return ST_OK;
}

static double pixels_of(const struct tensor *t)
{
    return (double)t->n * t->h * t->w;
}

static double bytes_of(const struct tensor *t)
{
    return pixels_of(t) * t->c * (double)dtype_size(t->dtype);
}

static double gaps_of(const struct tensor *t)
{
    return t->ld == t->c ? 0 : bytes_of(t);
}

static enum status conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y, const uint32_t *set,
                        struct error *err)
{
    const struct conv_desc *d = recorder_conv(p);
    const double taps = (double)d->kernel * d->kernel;
    (void)set;
    struct entry e = { .op = OP_CONV,
                       .flop = 2 * pixels_of(y) * taps * d->ic * d->oc,
                       .bytes = bytes_of(x) + bytes_of(y) + (residual ? bytes_of(y) : 0) +
                                taps * d->ic * d->oc * (double)dtype_size(d->dtype),
                       .gaps = gaps_of(x) + gaps_of(y) + (residual ? gaps_of(residual) : 0),
                       .is_matrix = d->ic > 4 && d->oc > 4 };
    snprintf(e.what, sizeof e.what, "%ux%u %ux%u%s %u -> %u%s", d->kernel, d->kernel, d->h, d->w,
             d->stride > 1 ? "/2" : "", d->ic, d->oc, residual ? " + picture" : "");
    return note(b, &e, err);
}

static enum status attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err)
{
    const double pixels = (double)qkv->h * qkv->w;
    (void)p;
    struct entry e = { .op = OP_ATTENTION,
                       .flop = 4 * qkv->n * pixels * pixels * y->c,
                       .bytes = bytes_of(qkv) + bytes_of(y),
                       .is_matrix = true };
    snprintf(e.what, sizeof e.what, "%ux%u of %u", y->h, y->w, y->c);
    return note(b, &e, err);
}

static enum status group_norm(struct backend *b, const struct group_norm_args *a, struct error *err)
{
    const bool is_twice = gpu_norm_scratch(&a->x, a->groups) > 0;
    struct entry e = { .op = OP_GROUP_NORM,
                       .bytes = bytes_of(&a->x) * (is_twice ? 3 : 2),
                       .again = is_twice ? bytes_of(&a->x) : 0 };
    snprintf(e.what, sizeof e.what, "%ux%u of %u%s", a->x.h, a->x.w, a->x.c,
             is_twice ? ", read twice" : "");
    return note(b, &e, err);
}

static enum status resample(struct backend *b, enum op op, const struct tensor *x,
                            const struct tensor *y, struct error *err)
{
    struct entry e = { .op = op, .bytes = bytes_of(x) + bytes_of(y) };
    snprintf(e.what, sizeof e.what, "%ux%u -> %ux%u of %u", x->h, x->w, y->h, y->w, x->c);
    return note(b, &e, err);
}

static enum status upsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                            struct error *err)
{
    return resample(b, OP_UPSAMPLE, x, y, err);
}

static enum status downsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                              struct error *err)
{
    return resample(b, OP_DOWNSAMPLE, x, y, err);
}

static enum status concat(struct backend *b, const struct tensor *a, const struct tensor *c,
                          const struct tensor *y, struct error *err)
{
    const struct tensor *const all[] = { a, c };
    enum status s = ST_OK;
    size_t first = 0;
    for (int i = 0; !s && i < 2; first += all[i++]->c) {
        const char *to = (const char *)y->data + first * dtype_size(y->dtype);
        if (all[i]->data == (const void *)to && all[i]->ld == y->ld) continue;
        struct entry e = { .op = OP_CONCAT, .bytes = 2 * bytes_of(all[i]) };
        snprintf(e.what, sizeof e.what, "copy of %ux%u of %u", y->h, y->w, all[i]->c);
        s = note(b, &e, err);
    }
    return s;
}

static enum status add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err)
{
    struct entry n = { .op = OP_ADD_CHANNEL, .bytes = bytes_of(x) + bytes_of(y) };
    (void)e;
    snprintf(n.what, sizeof n.what, "%ux%u of %u", x->h, x->w, x->c);
    return note(b, &n, err);
}

static enum status cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    struct entry e = { .op = OP_INPUT, .bytes = bytes_of(x) + bytes_of(y) };
    snprintf(e.what, sizeof e.what, "cast of %ux%u of %u", x->h, x->w, x->c);
    return note(b, &e, err);
}

void ledger_init(struct ledger *l, uint32_t rows)
{
    memset(l, 0, sizeof *l);
    recorder_init(&l->recorder, rows);
    l->ops = *l->recorder.base.ops;
    l->ops.name = "ledger";
    l->ops.conv = conv;
    l->ops.attention = attention;
    l->ops.group_norm = group_norm;
    l->ops.upsample = upsample;
    l->ops.downsample = downsample;
    l->ops.concat = concat;
    l->ops.add_channel = add_channel;
    l->ops.cast = cast;
    l->recorder.base.ops = &l->ops;
}
