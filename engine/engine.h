/* engine.h - the public interface of the engine: images in, posterior samples out. server/ and
 * cli/ include nothing else of it.
 *
 * An engine is a back end with its team of threads. A model is weights and plans on that engine,
 * immutable once loaded. A restoration is one image that one model restores: its rows (tile x
 * sample) run in any batch and come back in any order, since accumulators are fixed point. A result
 * depends on (model, image, task, h, seed, sample) and not on the other rows of its batch ("One
 * result" in engine/README.md).
 * Threads: one thread at a time calls engine_run, engine_begin and engine_end of an engine. Any
 * thread may call restoration_*; while rows of the restoration run, only restoration_is_done.
 * model_load may run beside engine_run. No logging, no clock. */
#ifndef DAVID_ENGINE_H
#define DAVID_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/images/image.h"
#include "proto/models/dtype.h"
#include "proto/models/model_info.h"

/* ---- engine ---- */
struct engine;

struct engine_options {
    const char *backend; /* "auto", "cpu", "cuda"; NULL = auto */
    const char *dtype;   /* "auto", "f32", "tf32", "bf16", "f16"; NULL = auto */
    int threads;         /* 0 = affinity and cgroup quota */
    uint32_t max_batch;  /* rows in one engine_run, at most; 0 = 32 */
    bool deterministic;  /* the same bytes after every start, even where that costs time */
    uint32_t device;     /* number of the GPU */
    uint32_t engines;    /* that run rows of one restoration at once; 0 = 1 */
};

struct engine_facts {
    char backend[16], dtype[8], isa[32];
    char reason[256]; /* one line: what auto chose and why */
    int threads;
    uint32_t max_batch;
    uint32_t in_flight; /* batches begun and not yet ended, at most: 2 where copies run beside
                           computing, else 1 */
};

/* Engines that can be open at once, one a device; 1 where no GPU can be used. */
uint32_t engine_devices(const char *backend);
/* ST_UNSUPPORTED where this machine lacks the back end or the dtype. */
enum status engine_open(struct engine **out, const struct engine_options *o, struct error *err);
void engine_close(struct engine *e); /* takes NULL; its models have been freed */
const struct engine_facts *engine_describe(const struct engine *e);

/* State of the device; NAN: not known. */
struct engine_gauges {
    char name[64];
    double busy; /* 0..1 */
    double memory_used_bytes, memory_total_bytes, power_w, temperature_c;
};
/* False where the back end does not know it. Any thread, also beside engine_run. */
bool engine_gauges(const struct engine *e, struct engine_gauges *out);

/* ---- models ---- */
struct model;

/* Checks the whole file (digest, every tensor's name, shape and values) before it is accepted:
 * ST_BAD_FILE names the offending tensor. */
enum status model_load(struct model **out, struct engine *e, const char *path, struct error *err);
/* Hash weights (engine/README.md section 7) for an architecture: bench and tests. Offers every
 * task. */
enum status model_hash(struct model **out, struct engine *e, const struct unet_arch *arch,
                       uint64_t seed, struct error *err);
void model_free(struct model *m); /* takes NULL; its restorations have been freed */
const struct model_info *model_describe(const struct model *m);
const char *model_digest(const struct model *m); /* 64 hex digits */
uint32_t model_rows(const struct model *m);      /* of its largest pass, as memory allows */
size_t model_bytes(const struct model *m);       /* weights, plans and arena */
/* Runs every size of pass, so that the first request is not slow. */
enum status model_warm(struct model *m, struct error *err);
/* NULL: not offered */
const struct model_task *model_find_task(const struct model *m, const char *task);

/* ---- restorations ---- */
enum output_kind { OUTPUT_IMAGE, OUTPUT_MEAN, OUTPUT_STD, OUTPUT_ALL };

struct restore_params {
    const char *task; /* NULL where the model has exactly one */
    uint64_t seed;
    double h; /* < 0: the task's own */
    /* Of this measurement, in the task's ranges. 0: the level that the image's file states (the
     * quality of a JPEG, for dejpeg), clamped to the range; else the task's own. */
    double sigma, level;
    uint32_t samples; /* >= 1; IMAGE needs 1, MEAN and STD >= 2 */
    enum output_kind output;
    bool keep_samples; /* OUTPUT_ALL: every sample's image is kept */
};

/* The checks of restoration_new that need the parameters alone. */
enum status restore_params_check(const struct restore_params *p, const struct model *m,
                                 struct error *err);

/* Bytes that a restoration of this size holds at its peak: the decoded image, accumulators, kept
 * samples, the output. */
size_t restoration_peak_bytes(const struct model *m, const struct restore_params *p, uint32_t width,
                              uint32_t height, uint32_t channels, uint32_t depth, bool has_mask);

struct restoration;

/* Takes no ownership: img and mask must outlive it. mask: any channels and depth; its lighter half
 * means missing, its alpha is not read; NULL where the task needs none or alpha marks the hole. All
 * memory is allocated here. ST_UNKNOWN_TASK, ST_BAD_PARAMETER, ST_BAD_MASK, ST_TOO_FEW_PX (< 8 px a
 * side). */
enum status restoration_new(struct restoration **out, struct model *m,
                            const struct restore_params *p, const struct image *img,
                            const struct image *mask, struct error *err);
void restoration_free(struct restoration *r); /* takes NULL; none of its rows is in the engine */

/* tiles x samples; row i is tile i % tiles of sample i / tiles */
uint64_t restoration_tile_jobs(const struct restoration *r);

struct tile_job {
    struct restoration *restoration;
    uint64_t index;
    /* out: ST_OK, or why this row failed (a result that is not finite); the other rows of the batch
     * are not affected */
    enum status status;
};
/* Runs rows of one model, n <= max_batch. Rows of one restoration go out in ascending order and
 * finish in any order. An error is the device's (ST_DEVICE_FAULT, ST_INTERNAL), not a row's. */
enum status engine_run(struct engine *e, struct model *m, struct tile_job *rows, size_t n,
                       struct error *err);
/* engine_run in two halves, so that one batch is copied and extracted while another is computed. At
 * most facts.in_flight batches are between the halves; they end in the order in which they began.
 * Where engine_begin fails, its rows have failed and there is nothing to end. `rows` must outlive
 * engine_end. */
struct in_flight_batch {
    struct model *model;
    struct tile_job *rows; /* that have not come back */
    size_t n;
    uint32_t stream_slot;
};
enum status engine_begin(struct engine *e, struct model *m, struct tile_job *rows, size_t n,
                         struct in_flight_batch *out, struct error *err);
enum status engine_end(struct engine *e, struct in_flight_batch *f, struct error *err);
bool restoration_is_done(const struct restoration *r); /* every row has come back */

struct restoration_result {
    uint32_t width, height; /* px */
    double h, sigma, level; /* as used; level 0: the task has none */
    /* RMS of A x - y over measured entries, x the float image returned; units of [-1,1] */
    double residual_rms;
    double std_scale; /* MEAN/STD/ALL: the deviation of a std image's white, units of [-1,1] */
};
/* After restoration_is_done. */
const struct restoration_result *restoration_facts(struct restoration *r);
/* The image to return: IMAGE (sample 0), MEAN or STD; with OUTPUT_ALL any of the three, and
 * OUTPUT_IMAGE takes `sample`. A gray image stays gray unless the task gives colour; the depth is
 * the input's; alpha is kept, enlarged with the image, or dropped where it marks the hole. */
enum status restoration_image(struct restoration *r, enum output_kind kind, uint32_t sample,
                              struct image *out, struct error *err);

/* ---- simulating a measurement (degrade, eval) ---- */
/* y = A x + n, unclipped; noise from stream 2. mask as above, only where the task takes one. */
struct measurement {
    float *y; /* malloc'd, [height][width][channels], units of [-1,1] */
    uint32_t width, height, channels;
};
enum status measurement_make(struct measurement *out, const char *task,
                             double sigma /* < 0: the task's */, double level /* 0: the task's */,
                             uint64_t seed, const struct image *img, const struct image *mask,
                             struct error *err);
void measurement_done(struct measurement *m);
enum status measurement_image(const struct measurement *m, struct image *out,
                              struct error *err); /* clips and rounds to 8 bit */
/* As restoration_new, from a float measurement (eval: nothing clipped, nothing rounded). */
enum status restoration_of_measurement(struct restoration **out, struct model *m,
                                       const struct restore_params *p, const struct measurement *y,
                                       const struct image *mask, struct error *err);

/* ---- the raw network (forward, bench) ---- */
/* NCHW F32 on the host, y: [n][c][h][w]. Unfolded; h, w from the caller. */
struct network;
struct network_input {
    const float *x; /* [n][network_input_channels][h][w] */
    const float *t; /* [n] */
    /* [n] arguments of their sinusoids, like t: 1000 sigma, level_gain * level; NULL: none */
    const float *sigma, *level;
    const uint32_t *label; /* [n]; NULL: none */
};
enum status network_load(struct network **out, struct engine *e, const char *path, uint32_t h,
                         uint32_t w, struct error *err);
enum status network_hash(struct network **out, struct engine *e, const struct unet_arch *arch,
                         uint64_t seed, uint32_t h, uint32_t w, bool folded, bool time_ops,
                         struct error *err);
void network_free(struct network *n);
uint32_t network_channels(const struct network *n);
uint32_t network_input_channels(const struct network *n); /* 3, or 6 with those of the noise */
/* ST_BAD_PARAMETER where the network needs a label, sigma or level and gets none. */
enum status network_forward(struct network *n, const struct network_input *in, uint32_t rows,
                            float *y, struct error *err);
size_t network_bytes(const struct network *n);
uint64_t network_flop(const struct network *n);
/* Share of time per op since the last call; names: op names, count written. */
size_t network_op_times(struct network *n, const char **names, uint64_t *ns, size_t max);

/* ---- architectures and tasks (convert, degrade) ---- */
/* Whether these are the parameters of `arch`, all of them and no others, by name, shape and type;
 * their data is not read. ST_BAD_FILE names the offending tensor. */
enum status arch_check_tensors(const struct unet_arch *arch, const struct st_tensor *tensors,
                               size_t n, struct error *err);
/* A task with the sigma, h and level of its training, label -1. ST_UNKNOWN_TASK lists the tasks. */
enum status task_defaults(struct model_task *out, const char *name, struct error *err);
extern const char *const task_names; /* of every task: "deblur, sr4, ..." */
/* What the level of each task is: "deblur: standard deviation in px; ...". */
void task_levels(char *out, size_t size);

struct task_shape {
    uint32_t scale;    /* the restored image has this many times the width and height */
    bool gives_colour; /* of a gray image too */
    bool takes_mask;
};
/* Of a task that exists. */
struct task_shape task_shape(const char *name);
/* ST_BAD_MASK, naming the tasks that take one, where this one does not. */
enum status task_check_mask(const char *name, struct error *err);

#endif
