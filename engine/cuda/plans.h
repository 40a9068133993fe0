/* plans.h - the plans of an op for all batch sizes, all of one choice, and a cache of them.
 *
 * One choice for all sizes is the rule "One result" of engine/README.md. Where a device is present
 * the candidates are timed at the largest size, and the fastest one that supports all sizes is
 * taken; else the first that does. Two convolutions of one shape share their plans, which hold no
 * weights. Plans are made at load, never while serving. One thread at a time per cache. */
#ifndef DAVID_CUDA_PLANS_H
#define DAVID_CUDA_PLANS_H

#include "engine/cuda/cudnn_graph.h"
#include "engine/graph/backend.h"

enum { DNN_MAX_SIZES = 12 };

struct dnn_sizes {
    uint32_t n[DNN_MAX_SIZES]; /* ascending */
    uint32_t count;            /* >= 1 */
};
/* Powers of two up to `rows`, and `rows` itself; `one`: only `rows`. */
struct dnn_sizes dnn_sizes_of(uint32_t rows, bool one);

/* The workspace that a plan for n rows of feature maps of `dtype` may use. */
size_t dnn_workspace_bound(uint32_t n, enum dtype dtype);

struct dnn_selector {
    struct dnn_target *target;
    uint32_t candidates; /* at most so many candidates are timed */
    /* The time of one run of a plan for n rows. NULL: nothing is timed. */
    enum status (*time)(void *ctx, const struct dnn_op *op, struct dnn_plan *p, uint32_t n,
                        uint64_t *ns, struct error *err);
    void *ctx;
};

struct dnn_cache;
enum status dnn_cache_new(struct dnn_cache **out, const struct dnn_selector *s, struct error *err);
void dnn_cache_free(struct dnn_cache *c); /* takes NULL; put back all plans first */

struct dnn_plans;
/* ST_UNSUPPORTED: no choice supports all sizes within the workspace. */
enum status dnn_plans_take(struct dnn_plans **out, struct dnn_cache *c, const struct dnn_op *op,
                           const struct dnn_sizes *sizes, struct error *err);
void dnn_plans_put(struct dnn_cache *c, struct dnn_plans *p); /* takes NULL */
struct dnn_plan *dnn_plans_for(const struct dnn_plans *p,
                               uint32_t n); /* NULL: n is not one of its sizes */
const struct dnn_choice *dnn_plans_choice(const struct dnn_plans *p);
size_t dnn_plans_workspace_bytes(const struct dnn_plans *p); /* of the largest plan */

/* The ops that cuDNN computes. false: david's own kernels do (three channels in or out; attention
 * in F32 or with unusual head sizes). */
bool dnn_op_of_conv(struct dnn_op *out, const struct conv_desc *d, bool tf32);
bool dnn_op_of_attention(struct dnn_op *out, const struct attention_desc *d, bool tf32);

#endif
