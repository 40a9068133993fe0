#include "engine/cuda/plans.h"

#include <stdlib.h>
#include <string.h>

struct dnn_plans {
    struct dnn_op op;
    struct dnn_sizes sizes;
    struct dnn_choice choice;
    struct dnn_plan *plan[DNN_MAX_SIZES];
    uint32_t users;
    struct dnn_plans *next;
};

struct dnn_cache {
    struct dnn_selector s;
    struct dnn_plans *first;
};

struct dnn_sizes dnn_sizes_of(uint32_t rows, bool one)
{
    struct dnn_sizes s = { .count = 0 };
    for (uint32_t n = 1; !one && n < rows && s.count < DNN_MAX_SIZES - 1; n *= 2)
        s.n[s.count++] = n;
    s.n[s.count++] = rows;
    return s;
}

/* Two feature maps of 256 x 256 x 256: what a precompiled engine copies where a concatenation
 * leaves gaps between pixels. */
size_t dnn_workspace_bound(uint32_t n, enum dtype dtype)
{
    return ((size_t)(n < 4 ? 4 : n) << 25) * dtype_size(dtype);
}

/* ---- selection ---- */

static void drop(struct dnn_plans *p)
{
    for (uint32_t i = 0; i < p->sizes.count; i++) {
        dnn_plan_free(p->plan[i]);
        p->plan[i] = NULL;
    }
}

static enum status make_one(struct dnn_plans *p, const struct dnn_selector *s,
                            const struct dnn_choice *c, uint32_t i, struct error *err)
{
    if (p->plan[i]) return ST_OK;
    const uint32_t n = p->sizes.n[i];
    enum status status = dnn_plan_new(&p->plan[i], s->target, &p->op, n, c, err);
    if (status) return status;
    const size_t wants = dnn_plan_workspace_bytes(p->plan[i]);
    const size_t bound = dnn_workspace_bound(n, p->op.dtype);
    if (wants <= bound) return ST_OK;
    dnn_plan_free(p->plan[i]);
    p->plan[i] = NULL;
    return error_set(err, ST_UNSUPPORTED, "a workspace of %zu bytes for %u rows; the bound is %zu",
                     wants, n, bound);
}

static enum status make_all(struct dnn_plans *p, const struct dnn_selector *s,
                            const struct dnn_choice *c, struct error *err)
{
    enum status status = ST_OK;
    for (uint32_t i = p->sizes.count; !status && i-- > 0;)
        status = make_one(p, s, c, i, err);
    if (status) drop(p);
    return status;
}

/* A candidate that is not timed comes after all that are, in the order of the heuristics. */
static uint64_t untimed(uint32_t i)
{
    return UINT64_MAX / 2 + i;
}

/* Fills ns[] of the candidates: UINT64_MAX where a plan cannot be made. */
static enum status time_candidates(struct dnn_plans *p, const struct dnn_selector *s,
                                   const struct dnn_choice *candidates, uint32_t count,
                                   uint64_t *ns, struct error *err)
{
    const uint32_t last = p->sizes.count - 1;
    uint32_t timed = 0;
    for (uint32_t i = 0; i < count; i++) {
        ns[i] = untimed(i);
        if (!s->time || timed == s->candidates) continue;
        if (make_one(p, s, &candidates[i], last, NULL)) {
            ns[i] = UINT64_MAX;
            continue;
        }
        struct error why = { 0 };
        enum status status = s->time(s->ctx, &p->op, p->plan[last], p->sizes.n[last], &ns[i], &why);
        drop(p);
        if (status == ST_DEVICE_FAULT) return error_set(err, status, "%s", why.detail);
        if (status) ns[i] = status == ST_NO_MEMORY_NOW ? untimed(i) : UINT64_MAX;
        timed++;
    }
    return ST_OK;
}

static enum status select_choice(struct dnn_plans *p, const struct dnn_selector *s,
                                 struct error *err)
{
    struct dnn_choice candidates[DNN_MAX_OFFERS];
    uint64_t ns[DNN_MAX_OFFERS] = { 0 };
    uint32_t count = 0, refused = 0;
    struct error why = { 0 };
    enum status status = dnn_candidates(s->target, &p->op, p->sizes.n[p->sizes.count - 1],
                                        candidates, &count, &refused, err);
    if (!status) status = time_candidates(p, s, candidates, count, ns, err);
    if (status) return status;
    for (uint32_t tried = 0; tried < count; tried++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < count; i++)
            if (ns[i] < ns[best]) best = i;
        if (ns[best] == UINT64_MAX) break;
        why = (struct error){ 0 };
        if (make_all(p, s, &candidates[best], &why) == ST_OK) {
            p->choice = candidates[best];
            return ST_OK;
        }
        ns[best] = UINT64_MAX;
    }
    return error_set(err, ST_UNSUPPORTED,
                     "cuDNN has no engine for this op: %u offered, %u left out%s%s", count, refused,
                     why.detail[0] ? "; the last: " : "", why.detail);
}

/* ---- cache ---- */

enum status dnn_cache_new(struct dnn_cache **out, const struct dnn_selector *s, struct error *err)
{
    struct dnn_cache *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a cache of plans");
    c->s = *s;
    *out = c;
    return ST_OK;
}

static void plans_free(struct dnn_plans *p)
{
    drop(p);
    free(p);
}

void dnn_cache_free(struct dnn_cache *c)
{
    while (c && c->first) {
        struct dnn_plans *p = c->first;
        c->first = p->next;
        plans_free(p);
    }
    free(c);
}

static bool same_op(const struct dnn_op *a, const struct dnn_op *b)
{
    return a->kind == b->kind && a->dtype == b->dtype && a->tf32 == b->tf32 && a->h == b->h &&
           a->w == b->w && a->ic == b->ic && a->oc == b->oc && a->kernel == b->kernel &&
           a->stride == b->stride && a->heads == b->heads && a->head_channels == b->head_channels &&
           a->new_order == b->new_order && a->x_ld == b->x_ld && a->y_ld == b->y_ld &&
           a->r_ld == b->r_ld;
}

static bool same_sizes(const struct dnn_sizes *a, const struct dnn_sizes *b)
{
    return a->count == b->count && memcmp(a->n, b->n, a->count * sizeof *a->n) == 0;
}

enum status dnn_plans_take(struct dnn_plans **out, struct dnn_cache *c, const struct dnn_op *op,
                           const struct dnn_sizes *sizes, struct error *err)
{
    struct dnn_plans *p = c->first;
    while (p && !(same_op(&p->op, op) && same_sizes(&p->sizes, sizes)))
        p = p->next;
    if (!p) {
        p = calloc(1, sizeof *p);
        if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an op's plans");
        p->op = *op;
        p->sizes = *sizes;
        enum status s = select_choice(p, &c->s, err);
        if (s) {
            plans_free(p);
            return s;
        }
        p->next = c->first;
        c->first = p;
    }
    p->users++;
    *out = p;
    return ST_OK;
}

void dnn_plans_put(struct dnn_cache *c, struct dnn_plans *p)
{
    if (!p || --p->users > 0) return;
    for (struct dnn_plans **at = &c->first; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    plans_free(p);
}

struct dnn_plan *dnn_plans_for(const struct dnn_plans *p, uint32_t n)
{
    for (uint32_t i = 0; i < p->sizes.count; i++)
        if (p->sizes.n[i] == n) return p->plan[i];
    return NULL;
}

const struct dnn_choice *dnn_plans_choice(const struct dnn_plans *p)
{
    return &p->choice;
}

size_t dnn_plans_workspace_bytes(const struct dnn_plans *p)
{
    size_t most = 0;
    for (uint32_t i = 0; i < p->sizes.count; i++) {
        size_t bytes = dnn_plan_workspace_bytes(p->plan[i]);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* ---- ops that cuDNN computes ---- */

enum { FEW_CHANNELS = 4, SDPA_ALIGN_BYTES = 16 };

bool dnn_op_of_conv(struct dnn_op *out, const struct conv_desc *d, bool tf32)
{
    if (d->ic <= FEW_CHANNELS || d->oc <= FEW_CHANNELS) return false;
    *out = (struct dnn_op){ .kind = DNN_CONV,
                            .dtype = d->dtype,
                            .tf32 = tf32 && d->dtype == DT_F32,
                            .h = d->h,
                            .w = d->w,
                            .ic = d->ic,
                            .oc = d->oc,
                            .kernel = d->kernel,
                            .stride = d->stride,
                            .x_ld = d->x_ld,
                            .y_ld = d->y_ld,
                            .r_ld = d->r_ld };
    return true;
}

bool dnn_op_of_attention(struct dnn_op *out, const struct attention_desc *d, bool tf32)
{
    const size_t size = dtype_size(d->dtype);
    if (d->dtype == DT_F32 && !tf32) return false;
    /* A head's queries, keys and values may begin at any multiple of these. */
    if (d->head_channels * size % SDPA_ALIGN_BYTES || d->qkv_ld * size % SDPA_ALIGN_BYTES ||
        d->y_ld * size % SDPA_ALIGN_BYTES)
        return false;
    *out = (struct dnn_op){ .kind = DNN_ATTENTION,
                            .dtype = d->dtype,
                            .tf32 = tf32 && d->dtype == DT_F32,
                            .h = d->h,
                            .w = d->w,
                            .heads = d->heads,
                            .head_channels = d->head_channels,
                            .new_order = d->new_order,
                            .x_ld = d->qkv_ld,
                            .y_ld = d->y_ld };
    return true;
}
