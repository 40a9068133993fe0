/* backend.h - what a device must be able to do: one function pointer per op (engine/graph/ops.def).
 *
 * Three implementations stand behind it: tests/reference (double, naive), engine/cpu (own loops), engine/cuda
 * (a plugin). Nothing above this line knows which one it has.
 * Images are NHWC in the back end's compute dtype (F32 or BF16/F16 storage, F32 accumulation and statistics); embeddings,
 * biases, affine constants and labels are always F32. Tensors live in memory from `alloc`; weights are given on the host as
 * F32 and packed by *_plan. A plan is for ONE shape and fixed (one result: the same plan serves a row whatever the load); run
 * functions allocate nothing. One thread drives a back end at a time (it may use a team inside); errors come back as ST_*.
 * "May be NULL" marks what a back end may leave out; everything else is required. */
#ifndef DAVID_GRAPH_BACKEND_H
#define DAVID_GRAPH_BACKEND_H

#include "engine/graph/backend/device.h"
#include "engine/graph/backend/ops.h"

struct gradient_ops;
struct image_ops;

struct backend_ops {
    const char *name; /* "cpu" */
    bool
        host_memory; /* alloc gives memory that the host may touch; copy_in / copy_out are then NULL */
    void (*close)(struct backend *b);
    /* The instruction set or card that it computes on, for logs. */
    const char *(*isa)(struct backend *b);
    bool (*has_dtype)(struct backend *b, enum dtype t);
    enum dtype (*best_dtype)(struct backend *b); /* what --dtype auto takes */
    /* Rows that run through the network together: a batch execution is always exactly this many (CPU: 1). */
    uint32_t (*rows_per_batch)(struct backend *b);
    /* Sizes of passes: the smallest that holds `rows`. May be NULL: there is one, rows_per_batch, and it is the largest. */
    uint32_t (*batch_rows)(struct backend *b, uint32_t rows);
    /* Around the ops of a batch execution: a back end may record them once and replay them (*is_replayed: the ops are left out). execution_end
     * also where an op has failed (!is_whole); execution_forget before the memory that the ops name is freed. All three or none. */
    enum status (*execution_begin)(struct backend *b, const struct execution *p, bool *is_replayed,
                                   struct error *err);
    enum status (*execution_end)(struct backend *b, bool is_whole, struct error *err);
    void (*execution_forget)(struct backend *b, const void *key);
    /* Waits for everything asked for. May be NULL: ops are done when they return. */
    enum status (*finish)(struct backend *b, struct error *err);

    enum status (*alloc)(struct backend *b, size_t bytes, void **out,
                         struct error *err);  /* 64-byte aligned, uninitialised */
    void (*free)(struct backend *b, void *p); /* takes NULL */
    enum status (*copy_in)(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err); /* may be NULL */
    enum status (*copy_out)(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err); /* may be NULL */

    /* Copies beside computing: batches that are in flight together have a stream_slot each, below `stream_slots`; 0: copy_in and copy_out are
     * all there is, and the rest is NULL. send and receive return at once: what is computed later sees what was sent, what is received
     * is as computed so far. After wait, which alone may be called beside everything else, the stream_slot's host memory is free again. */
    uint32_t stream_slots;
    enum status (*host_alloc)(struct backend *b, size_t bytes, void **out, struct error *err);
    void (*host_free)(struct backend *b, void *p); /* takes NULL */
    enum status (*send)(struct backend *b, uint32_t stream_slot, void *device, const void *host,
                        size_t bytes, struct error *err);
    enum status (*receive)(struct backend *b, uint32_t stream_slot, void *host, const void *device,
                           size_t bytes, struct error *err);
    enum status (*wait)(struct backend *b, uint32_t stream_slot, struct error *err);
    bool (*gauges)(struct backend *b, struct device_gauges *out); /* any thread; may be NULL */

    /* weight: [oc][ic][kernel][kernel] F32 (PyTorch order), bias: [conditions][oc] F32 or NULL (zeros); both only read during the call. */
    enum status (*conv_plan)(struct backend *b, const struct conv_desc *d, const float *weight,
                             const float *bias, struct conv_plan **out, struct error *err);
    void (*conv_plan_free)(struct backend *b, struct conv_plan *p);
    /* What its packed weights and biases hold. May be NULL: then as many elements of `dtype` as were given. */
    size_t (*conv_plan_bytes)(const struct conv_plan *p);
    /* y = conv(x) + bias[set] (+ residual). x: [n][h][w][ic], residual, y: [n][h'][w'][oc]; residual may be y itself (same buffer). */
    enum status (*conv)(struct backend *b, struct conv_plan *p, const struct tensor *x,
                        const struct tensor *residual, const struct tensor *y,
                        const uint32_t *condition, struct error *err);

    /* Whether conv_with_prologue can run a plan with this prologue. Both may be NULL: norms then stay ops of their own. Where it takes
     * one convolution of a dtype, every plan of that dtype can tell the moments of its output. x of a resampling stage:
     * [n][2h][2w][ic] (DOWN) or [n][h/2][w/2][ic] (UP). */
    bool (*supports_prologue)(struct backend *b, const struct conv_desc *d);
    enum status (*conv_with_prologue)(struct backend *b, struct conv_plan *p,
                                      const struct tensor *x, const struct prologue_args *prologue,
                                      const struct tensor *residual, const struct tensor *y,
                                      const uint32_t *condition, struct error *err);

    /* weight: [oc][ic] F32, bias: [oc] F32 or NULL. */
    enum status (*linear_plan)(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                               const float *bias, struct linear_plan **out, struct error *err);
    void (*linear_plan_free)(struct backend *b, struct linear_plan *p);
    /* x: [n][1][1][ic], y: [n][1][1][oc], F32. */
    enum status (*linear)(struct backend *b, struct linear_plan *p, const struct tensor *x,
                          const struct tensor *y, struct error *err);

    enum status (*attention_plan)(struct backend *b, const struct attention_desc *d,
                                  struct attention_plan **out, struct error *err);
    void (*attention_plan_free)(struct backend *b, struct attention_plan *p);
    /* qkv: [n][h][w][3c] -> y: [n][h][w][c]; scale 1/sqrt(head_channels) overall, softmax in F32. */
    enum status (*attention)(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                             const struct tensor *y, struct error *err);

    enum status (*group_norm)(struct backend *b, const struct group_norm_args *a,
                              struct error *err);
    bool norm_resamples; /* false: group_norm takes RESAMPLE_NONE alone */
    /* y = x + e; x, y: [n][h][w][c], e: [n][1][1][c] F32; x may be y. */
    enum status (*add_channel)(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err);

    /* The unary and binary ops of ops.def, which states their shapes. */
#define OP(name, traits, what)
#define UNARY_OP(name, function, traits, what)                                                     \
    enum status (*function)(struct backend * b, const struct tensor *x, const struct tensor *y,    \
                            struct error *err);
#define BINARY_OP(name, function, traits, what)                                                    \
    enum status (*function)(struct backend * b, const struct tensor *x, const struct tensor *o,    \
                            const struct tensor *y, struct error *err);
#include "engine/graph/ops.def"

    /* Embeddings, all F32 [n][1][1][c]; y may be x. */
    enum status (*timestep)(struct backend *b, const float *t /* host, [n]; any scalar */,
                            const struct tensor *y, struct error *err);
    enum status (*label)(struct backend *b, const float *table /* device, [classes][c] */,
                         const uint32_t *label /* host, [n] */, const struct tensor *y,
                         struct error *err);
    /* Same h, w, c and tight ld on the F32 side; converts, and copies only x's c channels where y's ld is wider. */
    enum status (*cast)(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err);

    /* The sampler (engine/README.md section 3). All F32. */
    enum status (*normals)(struct backend *b, const struct normals_args *a, struct error *err);
    /* x = y_in + hz * z; all [count] */
    enum status (*sampler_in)(struct backend *b, const float *y_in, const float *z, float hz,
                              float *x, size_t count, struct error *err);
    /* The noise as channels of its own: x: [pixels][6], three of y_in and then three of hz * z; y_in, z: [pixels][3]. */
    enum status (*sampler_join)(struct backend *b, const float *y_in, const float *z, float hz,
                                float *x, size_t pixels, struct error *err);
    /* x0 = tanh(x - std * eps), or x - std * eps clamped to [-1, 1]; x0 may be x; eps: [n][h][w][>= 3] (ld), x: [n][h][w][3] (ld),
     * x0: [n][h][w][3] */
    enum status (*sampler_out)(struct backend *b, const struct tensor *x, const struct tensor *eps,
                               float std, bool linear, const struct tensor *x0, struct error *err);

    const struct gradient_ops *gradients; /* gradients.h; NULL: this back end cannot train */
    const struct image_ops *images; /* feature maps.h; NULL: feature maps are the host's matter */
};

struct backend {
    const struct backend_ops *ops;
};

/* The back ends that exist. `threads`: size of the team, >= 1. */
enum status cpu_backend_open(struct backend **out, int threads, struct error *err); /* engine/cpu */
enum status
reference_backend_open(struct backend **out,
                       struct error *err); /* tests/reference; F32 storage, double inside */

#endif
