/* Scores of a run on a folder that it does not learn from, with the average of the weights: the
 * crops, measurements and noise are the same every time. The best average is written as a model
 * file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/conditions.h"
#include "engine/graph/backend/device.h"
#include "engine/nets/unet.h"
#include "engine/train/trainer.h"
#include "proto/messages/training_log.h"

enum { ROWS = 4, COLUMNS = 5 };
static const uint64_t seed_of_all = 20241125; /* of every draw, whatever the run's own seed */

struct validation {
    struct dataset *dataset;
    struct trainable net;
    struct generator answer;
    uint32_t side, crops; /* of each task; a multiple of ROWS */
    size_t each;          /* values of an image */
    float *x, *y_in;      /* [tasks][crops] images, in host memory */
    float *samples;       /* [VALIDATION_SAMPLES][ROWS] images, in host memory */
    struct backend *b;
    float *device_y_in, *device_z; /* [ROWS] images, memory of the back end */
    double best;                   /* dB; 0: none yet */
};

static void complain(void *ctx, const char *file, const char *why, uint32_t count)
{
    trainer_note(ctx, "validation: left out (%u so far): %.200s: %.400s", count, file, why);
}

static enum status make_net(struct validation *v, struct trainer *t, struct error *err)
{
    struct graph *g = NULL;
    const struct trainable_options o = {
        .tape = { .rows = ROWS, .dtype = t->engine->dtype, .forward_only = true }
    };
    enum status s = unet_build(&g, &t->info.arch, v->side, v->side, err);
    if (!s) s = trainable_init(&v->net, t->b, g, &o, err);
    if (!s) s = generator_init(&v->answer, &v->net, t->schedule, t->direct_options.form, err);
    return s;
}

static enum status make_measurements(struct validation *v, struct trainer *t, struct error *err)
{
    const struct crop_options c = { v->side, t->o.jitter, t->o.texture, seed_of_all };
    struct row_scratch scratch = { 0 };
    uint8_t *observed_mask = malloc(v->each / 3);
    float *y = malloc(v->each * sizeof *y);
    enum status s = row_scratch_init(&scratch, v->side, t->tasks, t->n_tasks, err);
    if (!s && (!observed_mask || !y)) s = error_set(err, ST_NO_MEMORY_NOW, "no memory to validate");
    for (uint32_t k = 0; !s && k < t->n_tasks; k++)
        for (uint32_t i = 0; !s && i < v->crops; i++) {
            const size_t at = k * v->crops + i;
            const struct row_out out = { v->x + at * v->each, y, v->y_in + at * v->each,
                                         observed_mask };
            s = row_draw(v->dataset, &c, &t->tasks[k], t->info.tasks[k].sigma,
                         t->info.tasks[k].level, true, 0, i, &scratch, &out, err);
        }
    row_scratch_done(&scratch);
    free(observed_mask);
    free(y);
    return s;
}

/* The score in the best model's file of the run that is resumed; 0: there is none. */
static double best_before(const char *folder)
{
    char path[PATH_MAX];
    struct model_file f = { 0 };
    (void)snprintf(path, sizeof path, "%.*s/best.safetensors", PATH_MAX - 32, folder);
    if (model_file_open(&f, path, NULL)) return 0;
    const double score = training_metrics_score(f.info.metrics);
    model_file_close(&f);
    return score;
}

static enum status take_images(struct validation *v, size_t bytes, float **out, struct error *err)
{
    void *memory = NULL;
    enum status s = v->b->ops->device.alloc(v->b, bytes, &memory, err);
    if (!s) *out = memory;
    return s;
}

enum status validation_open(struct validation **out, struct trainer *t, struct error *err)
{
    struct validation *v = calloc(1, sizeof *v);
    if (!v) return error_set(err, ST_NO_MEMORY_NOW, "no memory to validate");
    *out = v; /* closed with the run, also on failure */
    v->b = t->b;
    v->side = 2 * t->side; /* a restoration's tiles are larger than a crop */
    v->crops = (t->o.validate_crops + ROWS - 1) / ROWS * ROWS;
    v->each = (size_t)v->side * v->side * 3;
    v->best = t->o.resume ? best_before(t->folder) : 0;
    const struct dataset_options d = { .folder = t->o.validate,
                                       .least_side = v->side,
                                       .cache_bytes = t->o.cache_bytes,
                                       .complain = complain,
                                       .ctx = t };
    enum status s = dataset_open(&v->dataset, &d, err);
    if (!s) s = make_net(v, t, err);
    if (s) return s;
    const size_t image = v->each * sizeof(float), rows = ROWS * image;
    v->x = malloc(image * v->crops * t->n_tasks);
    v->y_in = malloc(image * v->crops * t->n_tasks);
    v->samples = malloc(VALIDATION_SAMPLES * rows);
    if (!v->x || !v->y_in || !v->samples)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory to validate on %u crops", v->crops);
    s = take_images(v, rows, &v->device_y_in, err);
    if (!s) s = take_images(v, rows, &v->device_z, err);
    return s ? s : make_measurements(v, t, err);
}

void validation_close(struct validation *v)
{
    if (!v) return;
    generator_done(&v->answer);
    trainable_done(&v->net);
    dataset_close(v->dataset);
    free(v->x);
    free(v->y_in);
    free(v->samples);
    v->b->ops->device.free(v->b, v->device_y_in);
    v->b->ops->device.free(v->b, v->device_z);
    free(v);
}

/* ---- scores ---- */

static float clamp(float v)
{
    return v < -1 ? -1 : v > 1 ? 1 : v;
}

static double psnr_of(double squares, size_t count)
{
    return 10 * log10(4 / (squares / (double)count + 1e-12));
}

/* Writes v->samples: `samples` samples of the crops first .. first + ROWS - 1 of a task. */
static enum status sample_rows(struct validation *v, const struct trainer *t, uint32_t task,
                               uint32_t first, uint32_t samples, struct error *err)
{
    const struct model_task *m = &t->info.tasks[task];
    uint32_t times[ROWS], label[ROWS];
    float sigma[ROWS], level[ROWS];
    enum status s = ST_OK;
    for (uint32_t i = 0; i < ROWS; i++) {
        times[i] = SCHEDULE_LAST;
        label[i] = m->label < 0 ? 0 : (uint32_t)m->label;
        sigma[i] = told_sigma(m->sigma);
        level[i] = told_level(m->name, m->level);
    }
    s = device_copy_in(v->b, v->device_y_in, v->y_in + (task * v->crops + first) * v->each,
                       ROWS * v->each * sizeof *v->y_in, err);
    for (uint32_t k = 0; !s && k < samples; k++) {
        for (uint32_t i = 0; !s && i < ROWS && m->h > 0; i++) {
            const struct normals_args a = { .seed = seed_of_all,
                                            .stream = draw_stream(DRAW_GENERATOR_Z),
                                            .sample = (first + i) * VALIDATION_SAMPLES + k,
                                            .w = v->side,
                                            .h = v->side,
                                            .channels = 3,
                                            .dst = v->device_z + i * v->each };
            s = t->b->ops->net.normals(t->b, &a, err);
        }
        const struct generator_input in = {
            .y_in = v->device_y_in,
            .z = m->h > 0 ? v->device_z : NULL,
            .h = m->h,
            .told = { .t = times, .label = label, .sigma = sigma, .level = level },
        };
        if (!s) s = generator_predict(&v->answer, &in, err);
        float *to = v->samples + (size_t)k * ROWS * v->each;
        if (!s) s = device_copy_out(v->b, to, v->answer.pred, ROWS * v->each * sizeof *to, err);
        for (size_t i = 0; !s && i < ROWS * v->each; i++)
            to[i] = clamp(to[i]);
    }
    return s;
}

struct moments_of_values {
    float mean, deviation;
};

static struct moments_of_values over_samples(const struct validation *v, size_t i, uint32_t samples)
{
    double sum = 0, sum2 = 0;
    for (uint32_t k = 0; k < samples; k++) {
        const double at = (double)v->samples[(size_t)k * ROWS * v->each + i];
        sum += at;
        sum2 += at * at;
    }
    const double mean = sum / samples;
    const double var = samples > 1 ? (sum2 - sum * mean) / (samples - 1) : 0;
    return (struct moments_of_values){ (float)mean, (float)sqrt(var > 0 ? var : 0) };
}

static enum status score_task(struct validation *v, const struct trainer *t, uint32_t task,
                              struct train_task_score *out, struct error *err)
{
    const uint32_t samples = t->info.tasks[task].h > 0 ? VALIDATION_SAMPLES : 1;
    double psnr = 0, mean_psnr = 0, covered = 0;
    for (uint32_t first = 0; first < v->crops; first += ROWS) {
        enum status s = sample_rows(v, t, task, first, samples, err);
        if (s) return s;
        for (uint32_t n = 0; n < ROWS; n++) {
            double squares = 0, mean_squares = 0;
            for (size_t i = n * v->each; i < (n + 1) * v->each; i++) {
                const struct moments_of_values m = over_samples(v, i, samples);
                const float x = v->x[(task * v->crops + first) * v->each + i];
                squares += (double)(v->samples[i] - x) * (double)(v->samples[i] - x);
                mean_squares += (double)(m.mean - x) * (double)(m.mean - x);
                covered += fabsf(x - m.mean) <= m.deviation;
            }
            psnr += psnr_of(squares, v->each) / v->crops;
            mean_psnr += psnr_of(mean_squares, v->each) / v->crops;
        }
    }
    *out = (struct train_task_score){ .name = t->info.tasks[task].name,
                                      .psnr = psnr,
                                      .mean_psnr = mean_psnr,
                                      .coverage = samples > 1
                                                      ? covered / (double)v->crops / (double)v->each
                                                      : (double)NAN };
    return ST_OK;
}

/* ---- the best model ---- */

/* FOLDER/sheet-validation-NNNNNNNNN.png: a row for each task: truth, the network's input, a sample,
 * the mean, ten times the deviation. */
static enum status write_scores_sheet(struct validation *v, struct trainer *t, struct error *err)
{
    const size_t image = v->each * sizeof(float);
    const float *images[MODEL_MAX_TASKS * COLUMNS];
    float *all = malloc(image * COLUMNS * t->n_tasks + 1);
    struct image img = { 0 };
    enum status s = all ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for a sheet");
    for (uint32_t k = 0; !s && k < t->n_tasks; k++) {
        const uint32_t samples = t->info.tasks[k].h > 0 ? VALIDATION_SAMPLES : 1;
        float *row = all + (size_t)k * COLUMNS * v->each;
        s = sample_rows(v, t, k, 0, samples, err);
        memcpy(row, v->x + (size_t)k * v->crops * v->each, image);
        memcpy(row + v->each, v->y_in + (size_t)k * v->crops * v->each, image);
        memcpy(row + 2 * v->each, v->samples, image);
        for (size_t i = 0; i < v->each; i++) {
            const struct moments_of_values m = over_samples(v, i, samples);
            row[3 * v->each + i] = m.mean;
            row[4 * v->each + i] = clamp(10 * m.deviation - 1);
        }
        for (uint32_t c = 0; c < COLUMNS; c++)
            images[k * COLUMNS + c] = row + c * v->each;
    }
    if (!s) s = image_grid(&img, images, COLUMNS * t->n_tasks, COLUMNS, v->side, err);
    if (!s) s = save_sheet(t, "sheet-validation", &img, err);
    image_done(&img);
    free(all);
    return s;
}

static char *metrics_text(const struct train_validation *r)
{
    struct training_score scores[MODEL_MAX_TASKS];
    for (uint32_t i = 0; i < r->n_tasks; i++)
        scores[i] = (struct training_score){ r->tasks[i].name, r->tasks[i].psnr,
                                             r->tasks[i].mean_psnr, r->tasks[i].coverage };
    return training_metrics_text(r->score, r->step, scores, r->n_tasks);
}

static enum status keep_best(struct trainer *t, const struct train_validation *r, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%.*s/best.safetensors", PATH_MAX - 32, t->folder);
    free(t->info.metrics);
    t->info.metrics = metrics_text(r);
    if (!t->info.metrics) return error_set(err, ST_NO_MEMORY_NOW, "no memory for metrics");
    return write_model(t, path, err);
}

enum status validate(struct trainer *t, struct error *err)
{
    struct validation *v = t->validation;
    const struct trainable *l = &t->nets[NET_GENERATOR];
    struct train_validation r = { .step = t->checkpoint.step, .n_tasks = t->n_tasks };
    /* A decay of 0 copies. */
    enum status s =
        v->b->ops->gradients->average(v->b, v->net.params, l->average, l->layout.count, 0, err);
    if (!s) s = tape_pack(v->net.tape, err);
    for (uint32_t k = 0; !s && k < t->n_tasks; k++) {
        s = score_task(v, t, k, &r.tasks[k], err);
        r.score += r.tasks[k].mean_psnr / t->n_tasks;
    }
    if (s) return s;
    r.is_best = r.score > v->best;
    if (r.is_best) {
        v->best = r.score;
        s = keep_best(t, &r, err);
    }
    if (!s && t->o.sheet_every) s = write_scores_sheet(v, t, err);
    if (!s && t->events.validation) t->events.validation(t->events.ctx, &r);
    return s;
}
