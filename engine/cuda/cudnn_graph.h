/* cudnn_graph.h - the convolutions and attentions of a network as cuDNN graphs, in plain C.
 *
 * An op is a computation without its batch size. A choice is an engine of cuDNN with its knobs, a
 * plain value. A plan is an op at one batch size with one choice, ready to run. One choice makes
 * the plans of all batch sizes (the rule "One result" of engine/README.md). Candidates that would
 * break that rule are excluded: nondeterministic engines, split sums, sums in reduced precision.
 * Plans are made for a present device, or without any driver for one that is only described (for
 * tests). Shapes are checked here: cuDNN accepts a wrong number of channels for a grouped
 * convolution. What cuDNN does not support is ST_UNSUPPORTED or an empty list of candidates, never
 * a crash. Plans own all their descriptors. One thread at a time per target. */
#ifndef DAVID_CUDA_CUDNN_GRAPH_H
#define DAVID_CUDA_CUDNN_GRAPH_H

#include <cudnn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/models/dtype.h"

/* ---- ops ---- */

enum dnn_kind { DNN_CONV, DNN_ATTENTION };

/* Images are NHWC with `ld` elements between pixels, as in graph/tensor.h. Members that a kind does
 * not mention are zero. */
struct dnn_op {
    enum dnn_kind kind;
    enum dtype dtype; /* of feature maps and weights: F32, F16, BF16; sums are F32 */
    bool tf32;        /* F32 only: products may be rounded to TF32 */
    uint32_t h, w;    /* of the input feature map */
    /* DNN_CONV: y = conv(x) + bias (+ residual); weight: [oc][kernel][kernel][ic], bias: [oc] */
    uint32_t ic, oc, kernel, stride;
    /* DNN_ATTENTION: x is qkv with 3 * heads * head_channels channels; scale: 1 /
     * sqrt(head_channels) */
    uint32_t heads, head_channels;
    bool new_order;
    size_t x_ld, y_ld;
    size_t r_ld; /* of the residual; 0: no residual */
};

/* ---- targets ---- */

struct dnn_target;
/* handle: a present device; NULL: the device that `deviceprop` describes (cuDNN's flat JSON). Both
 * are borrowed. */
enum status dnn_target_new(struct dnn_target **out, cudnnHandle_t handle, const char *deviceprop,
                           struct error *err);
void dnn_target_free(struct dnn_target *t); /* takes NULL; free its plans first */

/* ---- choices ---- */

enum { DNN_MAX_KNOBS = 32, DNN_MAX_OFFERS = 24 };

/* With a bias of the feature maps' type cuDNN has precompiled engines, which copy a feature map
 * whose ld differs from its channels into their workspace. With an F32 bias it compiles an engine
 * at run time, which supports any ld. */
struct dnn_choice {
    int64_t engine;
    struct dnn_knob {
        int64_t value;
        int32_t type; /* cudnnBackendKnobType_t */
    } knobs[DNN_MAX_KNOBS];
    uint32_t n_knobs;
    bool wide_bias; /* F32 */
    bool is_compiled_at_run_time;
};

/* The heuristics' offers for a batch of n, best first. *count may be 0. refused (may be NULL): how
 * many were excluded. */
enum status dnn_candidates(struct dnn_target *t, const struct dnn_op *op, uint32_t n,
                           struct dnn_choice out[DNN_MAX_OFFERS], uint32_t *count,
                           uint32_t *refused, struct error *err);
/* "engine 38: 2=14 13=7", for logs and tests; out is always terminated. */
void dnn_choice_print(const struct dnn_choice *c, char *out, size_t size);

/* ---- plans ---- */

struct dnn_plan;
/* ST_UNSUPPORTED where this engine does not support this op at this batch size. */
enum status dnn_plan_new(struct dnn_plan **out, struct dnn_target *t, const struct dnn_op *op,
                         uint32_t n, const struct dnn_choice *choice, struct error *err);
void dnn_plan_free(struct dnn_plan *p); /* takes NULL */
size_t dnn_plan_workspace_bytes(const struct dnn_plan *p);

/* Device memory. CONV: x, weight, the bias that the choice uses, the residual if there is one, y.
 * ATTENTION: x and y. */
struct dnn_io {
    const void *x, *weight, *residual;
    const void *bias;       /* of the feature maps' type */
    const float *wide_bias; /* F32 */
    void *y, *workspace;
};
/* Runs on the handle's stream; may be recorded into a CUDA graph. Fails with ST_DEVICE_FAULT. */
enum status dnn_plan_run(struct dnn_plan *p, cudnnHandle_t handle, const struct dnn_io *io,
                         struct error *err);

#endif
