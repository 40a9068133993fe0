/* train.h - the face of training: a prior from photographs, a restorer from a prior (engine/README.md section 5).
 *
 * train_run takes all it needs, works until it is done, told to stop, or at fault, and leaves a model file and checkpoints. A run
 * is a function of its options and the data (same machine, build, instruction set and threads): one that is resumed ends with the
 * same bytes. What happens is told through callbacks, from the calling thread but for `note`. No clock of its own. */
#ifndef DAVID_TRAIN_TRAIN_H
#define DAVID_TRAIN_TRAIN_H

#include <limits.h>

#include "engine/engine.h"
#include "engine/graph/backward_plan.h"

enum train_kind { TRAIN_PRIOR, TRAIN_DAVI };

struct train_options {
    enum train_kind kind;
    struct engine_options engine;
    const char *data; /* folder */
    const char *
        tasks; /* DAVI: "sr4", or "sr4:1,denoise:2": each micro-batch has one of them, drawn by weight */
    const char
        *objective; /* DAVI: "davi", "regression", "energy", or a sum "energy:1,regression:0.5" */
    const char
        *prior; /* DAVI: the teacher of the objective davi, and what score and generator begin as */
    const char *init; /* the weights to begin from instead; NULL: none */
    const char
        *arch; /* JSON or a published name, where nothing is begun from or more is wanted of it */
    const char *validate;    /* DAVI: a folder whose images are scored; NULL: none */
    const char *out;         /* the model file */
    const char *checkpoints; /* folder; NULL: OUT with .checkpoints */
    uint32_t size;           /* px of a crop; 0: the architecture's image_size */
    uint64_t steps, seed;
    uint32_t batch,
        micro_batch; /* rows of a step, of all processes; rows at a time, of one; 0: all */
    uint32_t keep, checkpoint_every, sheet_every; /* checkpoints kept; steps between; 0: none */
    uint32_t validate_every, validate_crops;      /* steps between; crops of each task */
    uint64_t warmup,
        decay; /* steps at the beginning over which lr rises, and at the end over which it falls along a cosine */
    double lr_end; /* where it falls to */
    double clip;   /* norm beyond which a gradient is shortened; 0: none */
    double average_decay, weight_decay;
    bool regression_l2; /* squares, else absolute differences */
    bool energy_norm;   /* Euclidean norm over channels, else absolute differences */
    uint32_t loader_threads, discriminator_width;
    double lr, discriminator_lr;
    double sigma; /* < 0: the task's, or for a network that is told sigma drawn in a range */
    double sigma_low, sigma_high;        /* that range, for all tasks; < 0: each task's */
    double h;                            /* of the sampler's noise; < 0: the task's */
    double weight_con, reg_coeff, t_ikl; /* of the objective davi; < 0: the task's */
    double jitter, texture;              /* of crops (crops.h) */
    size_t cache_bytes;
    bool resume;              /* from the newest checkpoint, where there is one */
    enum recompute recompute; /* less memory for more time */
};
void train_defaults(struct train_options *o, enum train_kind kind);

enum { TRAIN_MOST_VALUES = 24 };
struct train_progress {
    uint64_t step, steps; /* done, of all */
    double images_per_second;
    struct train_value {
        const char *name; /* "vb" */
        double value;
    } values[TRAIN_MOST_VALUES];
    uint32_t n_values;
};

/* How the average of the weights does on crops of the validation folder, always the same ones with the same draws. */
struct train_validation {
    uint64_t step;
    uint32_t n_tasks;
    struct train_task_score {
        const char *name;
        double psnr, mean_psnr; /* dB, of one sample and of the mean of VALIDATION_SAMPLES */
        double
            coverage; /* share of values within one deviation of the mean; NAN: samples do not differ */
    } tasks[MODEL_MAX_TASKS];
    double score; /* dB, the mean of mean_psnr over the tasks */
    bool is_best; /* so far; FOLDER/best.safetensors is this one */
};
enum { VALIDATION_SAMPLES = 8 };

struct train_events {
    void (*progress)(void *ctx, const struct train_progress *p); /* after every step */
    void (*validation)(void *ctx, const struct train_validation *v);
    void (*note)(void *ctx, const char *text); /* any thread, one at a time */
    bool (*should_stop)(void *ctx);            /* asked after every step */
    uint64_t (*now_ns)(void);
    void *ctx;
};

struct train_result {
    uint64_t steps;  /* done */
    bool is_stopped; /* before the last step, as should_stop said: no model file is written */
    char checkpoint[PATH_MAX]; /* the last good one; "": none */
    uint32_t images, left_out; /* of the data: listed; found to be of no use */
    size_t bytes;              /* of networks, moments and activations */
    bool is_told_elsewhere;    /* one of several processes, and another tells how it ended */
};

/* Started by mpirun as one process of several, a run is that process's share of theirs; they end together. */
/* Where to write is checked before the first step. ST_BAD_FILE: what does not fit, or that the loss exploded; ST_IO: a disk that is
 * full, and the like. A step that failed leaves no trace, and *out is filled in every case: its checkpoint is good. */
enum status train_run(const struct train_options *o, const struct train_events *events,
                      struct train_result *out, struct error *err);

/* Times of the steps: of the whole, and of what it consists of. Hash weights, images of noise, made once; no files. A batch is one
 * micro-batch. For DAVI a step is the whole iteration, of the task denoise. */
struct train_bench_options {
    enum train_kind kind;
    struct engine_options engine;
    const struct unet_arch *arch;
    uint32_t size; /* px; 0: the architecture's image_size */
    uint32_t batch, steps, discriminator_width;
    enum recompute recompute;
    uint64_t (*now_ns)(void);
};

enum { TRAIN_MOST_PARTS = 64 };
struct train_timing {
    double ms, min_ms; /* of a step: the median, the fastest */
    size_t bytes;      /* of networks, moments and activations */
    struct engine_facts facts;
    struct train_part {
        const char *name; /* an op; or "update", "losses" */
        bool is_backward;
        double ms;
    } parts[TRAIN_MOST_PARTS];
    size_t n_parts;
};
enum status train_bench(struct train_timing *out, const struct train_bench_options *o,
                        struct error *err);

/* DDIM samples of a prior, `count` in a sheet (see what it knows). steps: 1..1000. */
struct sample_options {
    struct engine_options engine;
    const char *prior;
    uint32_t steps, count;
    uint64_t seed;
};
enum status prior_sample(struct image *out, const struct sample_options *o, struct error *err);

#endif
