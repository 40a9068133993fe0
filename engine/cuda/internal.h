/* internal.h - what the files of the CUDA back end share.
 *
 * A batch execution is a few hundred kernels, the same ones on the same memory each time. The first
 * run of a size loads what cuDNN and CUDA load lazily; the second is recorded as a CUDA graph, and
 * the rest replay it. While a batch execution is open, its condition indices, labels and scalars
 * are the execution's own arrays; they have fixed addresses on the device and are sent before every
 * replay. */
#ifndef DAVID_CUDA_INTERNAL_H
#define DAVID_CUDA_INTERNAL_H

#include "engine/cuda/device.h"
#include "engine/cuda/kernels.h"
#include "engine/graph/plugin.h"

enum { MAX_STREAM_SLOTS = 2, MAX_BATCH_ROWS = 1024 };

struct stream_slot {
    cudaEvent_t sent, computed, received;
};

/* A batch execution that has been run: its program and its number of rows. */
struct record {
    const void *key;
    uint32_t rows;
    bool has_run;
    cudaGraphExec_t exec; /* NULL: not recorded yet */
    struct record *next;
};

enum recording { PASS_NONE, PASS_RUNNING, PASS_RECORDED };

/* The arrays of a batch execution's values; one for each enum scalar. */
enum { VALUE_CONDITIONS, VALUE_LABELS, VALUE_SCALARS, VALUE_ARRAYS = VALUE_SCALARS + SCALARS };

struct cuda_backend {
    struct backend base;
    struct gpu gpu;
    char isa[16]; /* "sm_90" */
    bool tf32, one_size;
    uint32_t max_rows;
    uint32_t convolutions; /* number of convolution plans */
    struct dnn_target *target;
    struct dnn_cache *plans;
    struct timer *timer; /* of plans; NULL where none are timed */
    /* The open batch execution: */
    enum recording recording;
    struct execution execution;
    struct record *record, *records;
    void *values; /* device: [VALUE_ARRAYS][MAX_BATCH_ROWS] of four bytes */
    /* Copies that overlap with computing: */
    cudaStream_t in, out;
    struct stream_slot stream_slots[MAX_STREAM_SLOTS];
};

static inline struct cuda_backend *cuda_of(struct backend *b)
{
    return (struct cuda_backend *)b;
}

enum status cuda_expect(bool ok, const char *what, struct error *err);

/* The device address of `host`, which is one of a batch execution's arrays or n other values of
 * four bytes. NULL stays NULL. */
enum status cuda_values(struct cuda_backend *c, const void *host, uint32_t n, const void **device,
                        struct error *err);

/* Defined in execution.c. */
uint32_t cuda_batch_rows(struct backend *b, uint32_t rows);
enum status cuda_execution_begin(struct backend *b, const struct execution *p, bool *is_replayed,
                                 struct error *err);
enum status cuda_execution_end(struct backend *b, bool is_whole, struct error *err);
void cuda_execution_forget(struct backend *b, const void *key);

/* Defined in stream_slots.c. */
enum status cuda_stream_slots_init(struct cuda_backend *c, struct error *err);
void cuda_stream_slots_done(struct cuda_backend *c);
enum status cuda_stream_slots_finish(struct cuda_backend *c,
                                     struct error *err); /* waits for all copies */
enum status cuda_host_alloc(struct backend *b, size_t bytes, void **out, struct error *err);
void cuda_host_free(struct backend *b, void *p);
enum status cuda_send(struct backend *b, uint32_t stream_slot, void *device, const void *host,
                      size_t bytes, struct error *err);
enum status cuda_receive(struct backend *b, uint32_t stream_slot, void *host, const void *device,
                         size_t bytes, struct error *err);
enum status cuda_wait(struct backend *b, uint32_t stream_slot, struct error *err);

/* Defined in conv.c. */
enum status cuda_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                           const float *bias, struct conv_plan **out, struct error *err);
void cuda_conv_plan_free(struct backend *b, struct conv_plan *p);
size_t cuda_conv_plan_bytes(const struct conv_plan *p);
enum status cuda_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                      const struct tensor *residual, const struct tensor *y,
                      const uint32_t *condition, struct error *err);
enum status cuda_attention_plan(struct backend *b, const struct attention_desc *d,
                                struct attention_plan **out, struct error *err);
void cuda_attention_plan_free(struct backend *b, struct attention_plan *p);
enum status cuda_attention(struct backend *b, struct attention_plan *p, const struct tensor *qkv,
                           const struct tensor *y, struct error *err);

/* Defined in timer.c. */
struct timer;
enum status timer_new(struct timer **out, struct gpu *g, struct error *err);
void timer_free(struct timer *t); /* takes NULL */
void timer_rest(struct timer *t); /* frees its memory until the next use; takes NULL */
/* The callback `time` of struct dnn_selector; ctx: struct timer. */
enum status timer_time(void *ctx, const struct dnn_op *op, struct dnn_plan *p, uint32_t n,
                       uint64_t *ns, struct error *err);

/* images.c */
extern const struct image_ops cuda_images;

/* Defined in nvml.c: reads NVIDIA's management library, which is opened at the first call; false
 * where it is absent. Any thread. */
bool nvml_gauges(const struct gpu *g, struct device_gauges *out);

/* Defined in backend.c. */
enum status cuda_backend_open(struct backend **out, const struct plugin_options *o,
                              struct error *err);

#endif
