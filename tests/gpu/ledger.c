#include "tests/gpu/ledger.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/cuda/kernels.h"

/* The active ledger; a back end that is watched does not know it. */
static struct ledger *ledger;

static double now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* The work that was issued is complete. */
static enum status place_restorations(struct backend *b, struct error *err)
{
    return ledger->repeats && b->ops->device.finish ? b->ops->device.finish(b, err) : ST_OK;
}

static enum status note(const struct entry *e, enum status s, double from, struct error *err)
{
    if (s) return s;
    if (ledger->count == LEDGER_MAX)
        return error_set(err, ST_INTERNAL, "more than %d ops", LEDGER_MAX);
    struct entry *to = &ledger->entries[ledger->count++];
    *to = *e;
    if (ledger->repeats) to->ns = (now_ns() - from) / ledger->repeats;
    return ST_OK;
}

/* Where the ledger is on, repeats `call` as often as the ledger's setting says, records `entry` and
 * returns. */
#define NOTED(entry, call)                                                                         \
    do {                                                                                           \
        if (!ledger->is_on) return ledger->under->net.call;                                        \
        enum status status = place_restorations(b, err);                                           \
        const double from = now_ns();                                                              \
        for (uint32_t i = 0; !status && i < ledger->repeats; i++)                                  \
            status = ledger->under->net.call;                                                      \
        if (!status) status = place_restorations(b, err);                                          \
        return note(&(entry), status, from, err);                                                  \
    } while (0)

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

/* ---- convolutions ---- */

static enum status conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                             const float *bias, struct conv_plan **out, struct error *err)
{
    if (ledger->n_plans == RECORDER_MAX)
        return error_set(err, ST_INTERNAL, "more than %d convolutions", RECORDER_MAX);
    enum status s = ledger->under->net.conv_plan(b, d, weight, bias, out, err);
    if (s) return s;
    ledger->plans[ledger->n_plans].plan = *out;
    ledger->plans[ledger->n_plans++].d = *d;
    return ST_OK;
}

static enum status conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y,
                        const uint32_t *condition, struct error *err)
{
    uint32_t at = 0;
    while (at < ledger->n_plans && ledger->plans[at].plan != p)
        at++;
    if (at == ledger->n_plans) return error_set(err, ST_INTERNAL, "a plan that nobody made");
    const struct conv_desc *d = &ledger->plans[at].d;
    const double taps = (double)d->kernel * d->kernel;
    struct entry e = { .op = OP_CONV,
                       .flop = 2 * pixels_of(y) * taps * d->ic * d->oc,
                       .bytes = bytes_of(x) + bytes_of(y) + (residual ? bytes_of(y) : 0) +
                                taps * d->ic * d->oc * (double)dtype_size(d->dtype),
                       .gaps = gaps_of(x) + gaps_of(y) + (residual ? gaps_of(residual) : 0),
                       .is_matrix = d->ic > 4 && d->oc > 4 };
    snprintf(e.what, sizeof e.what, "%ux%u %ux%u%s %u -> %u%s", d->kernel, d->kernel, d->h, d->w,
             d->stride > 1 ? "/2" : "", d->ic, d->oc, residual ? " + image" : "");
    NOTED(e, conv(b, p, x, residual, y, condition, err));
}

/* ---- the rest ---- */

static enum status attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err)
{
    const double pixels = (double)qkv->h * qkv->w;
    struct entry e = { .op = OP_ATTENTION,
                       .flop = 4 * qkv->n * pixels * pixels * y->c,
                       .bytes = bytes_of(qkv) + bytes_of(y),
                       .is_matrix = true };
    snprintf(e.what, sizeof e.what, "%ux%u of %u", y->h, y->w, y->c);
    NOTED(e, attention(b, p, qkv, y, err));
}

static struct entry walk(enum op op, const struct tensor *x, const struct tensor *y)
{
    struct entry e = { .op = op, .bytes = bytes_of(x) + bytes_of(y) };
    if (x->h == y->h)
        snprintf(e.what, sizeof e.what, "%ux%u of %u", x->h, x->w, x->c);
    else
        snprintf(e.what, sizeof e.what, "%ux%u -> %ux%u of %u", x->h, x->w, y->h, y->w, x->c);
    return e;
}

static enum status group_norm(struct backend *b, const struct group_norm_args *a, struct error *err)
{
    struct entry e = walk(OP_GROUP_NORM, &a->x, &a->y);
    if (gpu_norm_scratch(&a->x, a->groups) > 0) {
        const size_t end = strlen(e.what);
        e.again = bytes_of(&a->x);
        e.bytes += e.again;
        snprintf(e.what + end, sizeof e.what - end, ", read twice");
    }
    if (a->x_too) {
        const size_t end = strlen(e.what);
        e.bytes += bytes_of(a->x_too);
        snprintf(e.what + end, sizeof e.what - end, ", and x");
    }
    NOTED(e, group_norm(b, a, err));
}

static enum status upsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                            struct error *err)
{
    const struct entry e = walk(OP_UPSAMPLE, x, y);
    NOTED(e, upsample(b, x, y, err));
}

static enum status downsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                              struct error *err)
{
    const struct entry e = walk(OP_DOWNSAMPLE, x, y);
    NOTED(e, downsample(b, x, y, err));
}

static enum status space_to_depth(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    const struct entry e = walk(OP_SPACE_TO_DEPTH, x, y);
    NOTED(e, space_to_depth(b, x, y, err));
}

static enum status depth_to_space(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err)
{
    const struct entry e = walk(OP_DEPTH_TO_SPACE, x, y);
    NOTED(e, depth_to_space(b, x, y, err));
}

static bool stands_in(const struct tensor *part, const struct tensor *y, size_t first)
{
    const char *to = (const char *)y->data + first * dtype_size(y->dtype);
    return part->data == (const void *)to && part->ld == y->ld;
}

static enum status concat(struct backend *b, const struct tensor *a, const struct tensor *c,
                          const struct tensor *y, struct error *err)
{
    struct entry e = { .op = OP_CONCAT };
    if (!stands_in(a, y, 0)) e.bytes += 2 * bytes_of(a);
    if (!stands_in(c, y, a->c)) e.bytes += 2 * bytes_of(c);
    if (e.bytes == 0) return ST_OK;
    snprintf(e.what, sizeof e.what, "%ux%u of %u and %u", y->h, y->w, a->c, c->c);
    NOTED(e, concat(b, a, c, y, err));
}

static enum status add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err)
{
    const struct entry n = walk(OP_ADD_CHANNEL, x, y);
    NOTED(n, add_channel(b, x, e, y, err));
}

static enum status cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err)
{
    const struct entry e = walk(OP_INPUT, x, y);
    NOTED(e, cast(b, x, y, err));
}

/* ---- installation ---- */

static void take_ops(struct ledger *l, struct backend *b)
{
    ledger = l;
    l->under = b->ops;
    l->ops = *b->ops;
    l->ops.net.conv_plan = conv_plan;
    l->ops.net.conv = conv;
    l->ops.net.attention = attention;
    l->ops.net.group_norm = group_norm;
    l->ops.net.upsample = upsample;
    l->ops.net.downsample = downsample;
    l->ops.net.space_to_depth = space_to_depth;
    l->ops.net.depth_to_space = depth_to_space;
    l->ops.net.concat = concat;
    l->ops.net.add_channel = add_channel;
    l->ops.net.cast = cast;
    b->ops = &l->ops;
}

void ledger_init(struct ledger *l, uint32_t rows)
{
    memset(l, 0, sizeof *l);
    recorder_init(&l->recorder, rows);
    take_ops(l, &l->recorder.base);
    l->is_on = true;
}

void ledger_watch(struct ledger *l, struct backend *b, uint32_t repeats)
{
    memset(l, 0, sizeof *l);
    l->watched = b;
    l->repeats = repeats;
    take_ops(l, b);
}

void ledger_turn(struct ledger *l, bool on)
{
    l->is_on = on;
    l->count = 0;
    /* An op that was recorded is not run. */
    l->ops.device.execution_begin = on ? NULL : l->under->device.execution_begin;
}

void ledger_unwatch(struct ledger *l)
{
    l->watched->ops = l->under;
    ledger = NULL;
}

static bool are_alike(const struct entry *a, const struct entry *b)
{
    return a->op == b->op && strcmp(a->what, b->what) == 0;
}

bool ledger_sum(const struct ledger *l, uint32_t i, struct entry *out, uint32_t *count)
{
    for (uint32_t k = 0; k < i; k++)
        if (are_alike(&l->entries[k], &l->entries[i])) return false;
    *out = l->entries[i];
    *count = 1;
    for (uint32_t k = i + 1; k < l->count; k++) {
        const struct entry *e = &l->entries[k];
        if (!are_alike(e, out)) continue;
        out->flop += e->flop;
        out->bytes += e->bytes;
        out->again += e->again;
        out->gaps += e->gaps;
        out->ns += e->ns;
        ++*count;
    }
    return true;
}
