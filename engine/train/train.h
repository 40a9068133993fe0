/* train.h - the interface of training: a prior from photographs, a restorer from a prior
 * (engine/README.md sections 5 and 9).
 *
 * train_run runs until the last step, a stop request or an error, and writes a model file and
 * checkpoints. A run is a function of its options and the data (same machine, build, instruction
 * set and threads): a resumed run ends with the same bytes. Callbacks report its progress from the
 * calling thread; `note` may come from any. The clock is the caller's. */
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
    /* DAVI: "sr4", or "sr4:1,denoise:2": each micro-batch has one of them, drawn by weight. */
    const char *tasks;
    /* DAVI: "davi", "regression", "energy", or a sum "energy:1,regression:0.5". */
    const char *objective;
    /* DAVI: the frozen prior of the objective davi, and the initial weights of score and
     * generator. */
    const char *prior;
    const char *init; /* a file with other initial weights; NULL: none */
    /* JSON or a published name: where there are no initial weights, or they lack parameters of
     * it. */
    const char *arch;
    const char *validate;    /* DAVI: a folder whose images are scored; NULL: none */
    const char *out;         /* the model file */
    const char *checkpoints; /* folder; NULL: OUT with .checkpoints */
    uint32_t size;           /* px of a crop; 0: the architecture's image_size */
    uint64_t steps, seed;
    uint32_t batch; /* rows of a step, of all processes */
    /* Rows that run together, of one process; 0: their largest divisor up to 16. */
    uint32_t micro_batch;
    uint32_t keep, checkpoint_every, sheet_every; /* checkpoints kept; steps between; 0: none */
    uint32_t validate_every, validate_crops;      /* steps between; crops of each task */
    /* Steps at the beginning over which lr rises, and at the end over which it falls along a
     * cosine. */
    uint64_t warmup, decay;
    double lr_end; /* the lr after the last step */
    double clip;   /* a gradient with a larger norm is scaled to this norm; 0: no limit */
    double average_decay, weight_decay;
    bool regression_l2; /* squares, else absolute differences */
    bool energy_norm;   /* Euclidean norm over channels, else absolute differences */
    uint32_t loader_threads, discriminator_width;
    double lr, discriminator_lr;
    double sigma; /* < 0: the task's, or drawn in a range for a network with sigma_cond */
    double sigma_low, sigma_high;        /* that range, for all tasks; < 0: each task's */
    double h;                            /* of the sampler's noise; < 0: the task's */
    double weight_con, reg_coeff, t_ikl; /* of the objective davi; < 0: the task's */
    double jitter, texture;              /* of crops (crops.h) */
    size_t cache_bytes;
    bool resume;              /* from the newest checkpoint, where there is one */
    enum recompute recompute; /* saves memory, takes time */
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

/* Scores of the average of the weights on crops of the validation folder; crops and draws are the
 * same every time. */
struct train_validation {
    uint64_t step;
    uint32_t n_tasks;
    struct train_task_score {
        const char *name;
        double psnr, mean_psnr; /* dB, of one sample and of the mean of VALIDATION_SAMPLES */
        /* Share of values within one deviation of the mean; NAN: there is one sample. */
        double coverage;
    } tasks[MODEL_MAX_TASKS];
    double score; /* dB, the mean of mean_psnr over the tasks */
    bool is_best; /* of all so far; FOLDER/best.safetensors is its model */
};
enum { VALIDATION_SAMPLES = 8 };

struct train_events {
    void (*progress)(void *ctx, const struct train_progress *p); /* after every step */
    void (*validation)(void *ctx, const struct train_validation *v);
    void (*note)(void *ctx, const char *text); /* any thread, one at a time */
    bool (*should_stop)(void *ctx);            /* called after every step */
    uint64_t (*now_ns)(void);
    void *ctx;
};

struct train_result {
    uint64_t steps;  /* done */
    bool is_stopped; /* should_stop ended it before the last step: no model file is written */
    char checkpoint[PATH_MAX]; /* the last good one; "": none */
    uint32_t images, left_out; /* files of the data: listed; excluded */
    size_t bytes;              /* of networks, moments and activations */
    bool is_told_elsewhere;    /* another process of the run reports its result */
};

/* In a process that mpirun started as one of several, train_run computes that process's share of
 * the run; all end together. The files are checked before the first step. ST_BAD_FILE: files that
 * do not fit together, or a loss that is not finite or too large; ST_IO: files that cannot be read
 * or written; ST_UNSUPPORTED: the back end lacks an op that the objective needs. A step that failed
 * changes no file. *out is filled in every case: its checkpoint is complete. */
enum status train_run(const struct train_options *o, const struct train_events *events,
                      struct train_result *out, struct error *err);

/* Times of the training steps and of their parts, with hash weights and images of noise, without
 * files. A batch is one micro-batch. For DAVI a step is the whole iteration, of the task
 * denoise. */
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

/* A sheet of `count` samples of a prior by DDIM with `steps` steps, 1..1000. */
struct sample_options {
    struct engine_options engine;
    const char *prior;
    uint32_t steps, count;
    uint64_t seed;
};
enum status prior_sample(struct image *out, const struct sample_options *o, struct error *err);

#endif
