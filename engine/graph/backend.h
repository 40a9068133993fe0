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

#include <stdbool.h>

#include "engine/graph/scalar.h"
#include "engine/graph/tensor.h"
#include "proto/error.h"

struct backend;
struct gradient_ops;
struct image_ops;
struct loss_ops;
struct conv_plan;
struct linear_plan;
struct attention_plan;

/* Folded constants come in `conditions` (one per (t, label)); a row picks its set by index. `condition` below is [n] or NULL (= all 0). */

/* What happens to a feature map on its way into a convolution: conv(resample(silu(norm(x)))). It saves the back end that
 * can do it (`supports_prologue`) from writing and reading the feature map once more. */
struct prologue_desc {
    bool norm, silu;
    uint32_t groups;
    float eps;
    enum resample resample; /* needs `norm` */
};

struct conv_desc {
    uint32_t h, w; /* of the feature map that is convolved: after the prologue's resampling */
    uint32_t ic, oc;
    uint32_t kernel;     /* 1 or 3; padding kernel / 2 */
    uint32_t stride;     /* 1 or 2; output is ceil(h / stride) x ceil(w / stride) */
    uint32_t conditions; /* bias sets; >= 1 */
    enum dtype dtype;    /* of x, residual and y */
    size_t x_ld, y_ld;   /* elements between pixels of x and y (and of the residual: r_ld) */
    size_t r_ld;         /* 0: no residual */
    struct prologue_desc prologue;
    uint32_t rows; /* of the largest pass; 0: not known. A plan takes any number of rows. */
};

/* Sums over a feature map's pixels, from which a norm takes its mean and variance: of channel c of row n at
 * data[2 * n * ld + c], of its square at data[(2 * n + 1) * ld + c]. Memory from `alloc`; NULL: not wanted, not known. */
struct moments {
    double *data;
    size_t ld;
};

/* The constants of a convolution's prologue, as in group_norm_args; what is known of x, and what to tell of y. */
struct prologue_args {
    const float *gamma, *beta;
    const uint32_t *condition;
    const struct tensor *scale_shift;
    struct moments in
        [2]; /* of x: channels below `split`, and the rest (two feature maps joined); in[0] NULL: to be found */
    uint32_t split; /* x's channels where in[1] is not used */
    struct moments out;
};

/* Where `norm_resamples`, a norm may resample what it has rounded to the dtype: y is then [n][2h][2w][c] (UP) or [n][h/2][w/2][c] (DOWN; h, w
 * are even) and not x's buffer, and its bytes are those of the two ops one after the other. x_too: as y, x itself resampled. */
struct group_norm_args {
    struct tensor x, y; /* [n][h][w][c]; may be the same buffer */
    uint32_t groups;    /* c % groups == 0; 32 everywhere in engine/README.md */
    float eps;
    const float *gamma, *beta; /* [conditions][c] */
    const uint32_t *condition; /* [n] or NULL */
    const struct tensor
        *scale_shift; /* NULL or [n][1][1][2c] F32: y = norm * (1 + ss[0..c)) + ss[c..2c) */
    bool silu;        /* y = silu(...) last */
    enum resample resample;
    const struct tensor *x_too; /* NULL or out; only with a resampling */
};

struct attention_desc {
    uint32_t h, w, heads, head_channels; /* c = heads * head_channels; qkv has 3c channels */
    bool new_order; /* channels of qkv: false = head by head (q,k,v), true = q,k,v by heads */
    enum dtype dtype;
    size_t qkv_ld, y_ld;
};

/* The ops of a network over some rows. They are the same ops on the same memory whenever `key` and `rows` are; what differs is in these arrays. */
struct execution {
    const void *key;
    uint32_t rows;
    const float *scalar[SCALARS];      /* host, [rows]; NULL: no op embeds it */
    const uint32_t *label, *condition; /* the pointers that the ops will be given */
};

/* How a device is doing; NAN: not known. */
struct device_gauges {
    char name[64];
    double busy; /* 0..1 */
    double memory_used_bytes, memory_total_bytes, power_w, temperature_c;
};

/* Philox4x32-10 normals, engine/README.md section 3: dst[y][x][c] for c < channels at pixels (x0 + x, y0 + y). */
struct normals_args {
    uint64_t seed;
    uint32_t stream, sample;
    uint32_t x0, y0, w, h, channels;
    float *dst; /* [h][w][channels], host or device as alloc gives */
};

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
    /* x: [n][h][w][c] -> y: [n][2h][2w][c] */
    enum status (*upsample)(struct backend *b, const struct tensor *x, const struct tensor *y,
                            struct error *err);
    /* x: [n][2h][2w][c] -> y: [n][h][w][c]; sizes of x are even */
    enum status (*downsample)(struct backend *b, const struct tensor *x, const struct tensor *y,
                              struct error *err);
    /* Cells of p x p pixels become channels, p the ratio of the sides: x: [n][p h][p w][c] -> y: [n][h][w][p p c], channel
     * (dy p + dx) c + k of a cell is channel k of its pixel (dy, dx). And back. x is not y. */
    enum status (*space_to_depth)(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err);
    enum status (*depth_to_space)(struct backend *b, const struct tensor *x, const struct tensor *y,
                                  struct error *err);
    /* y: [n][h][w][ca + cb]; a (or b) already standing in its slice of y is not copied. */
    enum status (*concat)(struct backend *b, const struct tensor *a, const struct tensor *c,
                          const struct tensor *y, struct error *err);
    /* y = x + e; x, y: [n][h][w][c], e: [n][1][1][c] F32; x may be y. */
    enum status (*add_channel)(struct backend *b, const struct tensor *x, const struct tensor *e,
                               const struct tensor *y, struct error *err);

    /* Embeddings, all F32 [n][1][1][c]; y may be x. */
    enum status (*timestep)(struct backend *b, const float *t /* host, [n]; any scalar */,
                            const struct tensor *y, struct error *err);
    enum status (*label)(struct backend *b, const float *table /* device, [classes][c] */,
                         const uint32_t *label /* host, [n] */, const struct tensor *y,
                         struct error *err);
    enum status (*silu)(struct backend *b, const struct tensor *x, const struct tensor *y,
                        struct error *err);
    enum status (*add)(struct backend *b, const struct tensor *x, const struct tensor *e,
                       const struct tensor *y, struct error *err);

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
    const struct loss_ops *losses;        /* backend/losses.h; NULL: this back end cannot train */
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
