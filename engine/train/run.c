/* The steps of a run: draws, micro-batches, updates, and the conditions that end it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/train/trainer.h"

/* A run whose loss is larger, or not finite, does not recover: losses begin near 1. */
static const double exploded = 1e4;
/* The square of a larger gradient overflows the optimiser's floats, and the checkpoint would not be
 * finite. */
static const double exploded_gradient = 1e15;

struct values {
    struct train_progress p;
    const char *unsound; /* the first that is not finite, or too large; NULL: none */
    double unsound_value;
};

static void report(struct values *v, const char *name, double value, double most)
{
    if (v->p.n_values < TRAIN_MOST_VALUES)
        v->p.values[v->p.n_values++] = (struct train_value){ name, value };
    if (fabs(value) <= most || v->unsound) return;
    v->unsound = name;
    v->unsound_value = value;
}

/* ---- draws ---- */

struct times {
    uint32_t score_bridge[MOST_ROWS], score[MOST_ROWS];
    uint32_t generator_bridge[MOST_ROWS], generator[MOST_ROWS];
};

static void draw_times(const struct trainer *t, uint64_t step, uint32_t micro, uint32_t below,
                       struct times *to)
{
    for (uint32_t i = 0; i < t->o.micro_batch; i++) {
        const uint32_t row = loader_row(&t->loader_options, micro * t->o.micro_batch + i);
        struct rng rng = rng_of(t->o.seed, step, DRAW_TIMES, row);
        to->score_bridge[i] = draw_bridge_time(&rng);
        to->score[i] = rng_below(&rng, below);
        to->generator_bridge[i] = draw_bridge_time(&rng);
        to->generator[i] = rng_below(&rng, below);
    }
}

static enum status draw_images(struct trainer *t, uint64_t step, uint32_t micro, enum draw what,
                               float *to, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < t->o.micro_batch; i++) {
        const struct normals_args a = {
            .seed = draw_key(t->o.seed, step),
            .stream = draw_stream(what),
            .sample = loader_row(&t->loader_options, micro * t->o.micro_batch + i),
            .w = t->side,
            .h = t->side,
            .channels = 3,
            .dst = to + (size_t)i * t->side * t->side * 3,
        };
        s = t->b->ops->net.normals(t->b, &a, err);
    }
    return s;
}

/* ---- updates ---- */

/* The gradients of all processes become their mean; then the update, unless a gradient is not
 * finite or too large. */
static enum status update(struct trainer *t, enum net net, const char *name, double lr,
                          struct values *v, struct error *err)
{
    struct trainable *l = &t->nets[net];
    double norm = 0;
    enum status s = process_group_mean(t, l, err);
    if (!s) s = trainable_gradient_norm(l, &norm, err);
    if (s) return s;
    report(v, name, norm, exploded_gradient);
    if (v->unsound) return ST_OK;
    if (t->o.clip > 0 && norm > t->o.clip)
        s = t->b->ops->gradients->scale(t->b, l->gradients, l->layout.count,
                                        (float)(t->o.clip / norm), err);
    return s ? s : trainable_update(l, lr, err);
}

/* The learning rate: it rises over the first `warmup` steps, is constant, and falls along a cosine
 * over the last `decay`. */
static double rate_at(const struct train_options *o, uint64_t step)
{
    const double pi = 3.14159265358979323846;
    if (step < o->warmup) return o->lr * (double)(step + 1) / (double)o->warmup;
    if (step + o->decay < o->steps || o->decay == 0) return o->lr;
    const double part = (double)(step + o->decay - o->steps) / (double)o->decay;
    return o->lr_end + 0.5 * (o->lr - o->lr_end) * (1 + cos(pi * (part < 1 ? part : 1)));
}

static size_t row_floats(const struct trainer *t)
{
    return (size_t)t->side * t->side * 3;
}

/* The loader's images of a micro-batch, from host memory to that of the back end. */
static enum status load_images(struct trainer *t, const struct batch *batch, uint32_t micro,
                               struct error *err)
{
    const size_t count = t->o.micro_batch * row_floats(t), at = micro * count;
    const struct micro_batch *to = &t->images;
    const struct {
        void *to;
        const void *from;
        size_t bytes;
    } arrays[] = { { to->x, batch->x + at, count * sizeof(float) },
                   { to->measured, batch->y + at, count * sizeof(float) },
                   { to->y_in, batch->y_in + at, count * sizeof(float) },
                   { to->observed_mask, batch->observed_mask + at / 3, count / 3 } };
    enum status s = ST_OK;
    for (size_t i = 0; !s && i < sizeof arrays / sizeof *arrays; i++)
        if (arrays[i].to)
            s = device_copy_in(t->b, arrays[i].to, arrays[i].from, arrays[i].bytes, err);
    return s;
}

/* ---- the prior ---- */

static enum status prior_step(struct trainer *t, const struct batch *batch, uint64_t step,
                              struct values *v, struct error *err)
{
    struct trainable *net = &t->nets[NET_GENERATOR];
    struct denoising_report r;
    struct times times;
    double sums[2] = { 0 };
    enum status s = trainable_zero(net, err);
    for (uint32_t k = 0; !s && k < t->micro_batches; k++) {
        draw_times(t, step, k, SCHEDULE_STEPS, &times);
        s = load_images(t, batch, k, err);
        if (!s) s = draw_images(t, step, k, DRAW_SCORE_NOISE, t->noise, err);
        if (s) return s;
        const struct denoising a = { .schedule = t->schedule,
                                     .x0 = t->images.x,
                                     .noise = t->noise,
                                     .t = times.score,
                                     .share = 1.0 / t->micro_batches,
                                     .x_t = t->x_t,
                                     .y = t->y,
                                     .dy = t->dy };
        s = learn_to_denoise(net, &a, &r, err);
        memcpy(t->last_t, times.score, sizeof t->last_t);
        sums[0] += r.mse / t->micro_batches;
        sums[1] += r.vb / t->micro_batches;
    }
    if (s) return s;
    if (t->process_group.sum) t->process_group.sum(t->process_group.ctx, sums, 2);
    report(v, "loss", (sums[0] + sums[1]) / t->processes, exploded);
    report(v, "mse", sums[0] / t->processes, exploded);
    report(v, "vb", sums[1] / t->processes, exploded);
    s = update(t, NET_GENERATOR, "gradient", rate_at(&t->o, step), v, err);
    return s || v->unsound ? s : trainable_follow(net, err);
}

/* ---- DAVI ---- */

enum {
    OF_MSE,
    OF_VB,
    OF_DISCRIMINATOR,
    OF_IKL,
    OF_CONSISTENCY,
    OF_TRUTH,
    OF_ADVERSARIAL,
    OF_FEATURES,
    OF_LAMBDA,
    OF_TOTAL,
    OF_REGRESSION,
    OF_ENERGY,
    TERMS
};
static const char *const term_names[TERMS] = { "score_mse",   "score_vb",    "discriminator",
                                               "ikl",         "consistency", "truth",
                                               "adversarial", "features",    "lambda",
                                               "total",       "regression",  "energy" };

static enum status take_rows(struct trainer *t, const struct batch *b, uint32_t micro,
                             struct davi_rows *out, struct error *err)
{
    const size_t first = (size_t)micro * t->o.micro_batch;
    const bool hole = operator_of(t->tasks[b->task[first]].task->op)->needs_mask;
    *out = (struct davi_rows){ .x = t->images.x,
                               .y = t->images.measured,
                               .y_in = t->images.y_in,
                               .observed_mask = hole ? t->images.observed_mask : NULL,
                               .levels = b->levels + first };
    return load_images(t, b, micro, err);
}

static struct row_conditions told_of(const struct trainer *t, const struct batch *b, uint32_t micro)
{
    const size_t at = (size_t)micro * t->o.micro_batch;
    return (struct row_conditions){ .label = b->label + at,
                                    .sigma = b->sigma + at,
                                    .level = b->level + at };
}

/* Sets the task of a micro-batch. Returns the bound below which the times of the scores are
 * drawn. */
static uint32_t choose_task(struct trainer *t, const struct batch *batch, uint32_t micro)
{
    const struct train_options *o = &t->o;
    const struct drawn_task *d = &t->tasks[batch->task[(size_t)micro * o->micro_batch]];
    davi_choose(&t->davi, d->task);
    t->davi.o.h = d->h;
    if (o->weight_con >= 0) t->davi.o.weight_con = o->weight_con;
    if (o->reg_coeff >= 0) t->davi.o.reg_coeff = o->reg_coeff;
    return (uint32_t)(o->t_ikl >= 0 ? o->t_ikl : d->task->t_ikl);
}

/* All micro-batches of the score's step come before those of the generator's, which reads the
 * updated score. */
static enum status score_half(struct trainer *t, const struct batch *batch, uint64_t step,
                              double *sums, struct error *err)
{
    enum status s = trainable_zero(&t->nets[NET_SCORE], err);
    if (!s) s = trainable_zero(&t->nets[NET_DISCRIMINATOR], err);
    for (uint32_t k = 0; !s && k < t->micro_batches; k++) {
        struct davi_rows rows;
        struct times times;
        struct score_report r;
        draw_times(t, step, k, choose_task(t, batch, k), &times);
        s = take_rows(t, batch, k, &rows, err);
        if (!s) s = draw_images(t, step, k, DRAW_SCORE_Z, t->z, err);
        if (!s) s = draw_images(t, step, k, DRAW_SCORE_NOISE, t->noise, err);
        const struct davi_draws draws = { times.score_bridge, times.score, t->z, t->noise,
                                          told_of(t, batch, k) };
        if (!s) s = davi_score_step(&t->davi, &rows, &draws, 1.0 / t->micro_batches, &r, err);
        if (s) return s;
        sums[OF_MSE] += r.denoising.mse;
        sums[OF_VB] += r.denoising.vb;
        sums[OF_DISCRIMINATOR] += r.discriminator;
    }
    return s;
}

static enum status generator_half(struct trainer *t, const struct batch *batch, uint64_t step,
                                  double *sums, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t k = 0; !s && k < t->micro_batches; k++) {
        struct davi_rows rows;
        struct times times;
        struct generator_report r;
        draw_times(t, step, k, choose_task(t, batch, k), &times);
        s = take_rows(t, batch, k, &rows, err);
        if (!s) s = draw_images(t, step, k, DRAW_GENERATOR_Z, t->z, err);
        if (!s) s = draw_images(t, step, k, DRAW_GENERATOR_NOISE, t->noise, err);
        const struct davi_draws draws = { times.generator_bridge, times.generator, t->z, t->noise,
                                          told_of(t, batch, k) };
        if (!s)
            s = davi_generator_step(&t->davi, &rows, &draws, t->davi_weight / t->micro_batches, &r,
                                    err);
        if (s) return s;
        const double all[] = { r.ikl,      r.consistency, r.truth, r.adversarial,
                               r.features, r.lambda,      r.total };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            sums[OF_IKL + i] += all[i];
    }
    return s;
}

/* Regression and the energy score, at t = 999. */
static enum status direct_half(struct trainer *t, const struct batch *batch, uint64_t step,
                               double *sums, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t k = 0; !s && k < t->micro_batches; k++) {
        struct davi_rows rows;
        struct direct_report r;
        double h[MOST_ROWS];
        bool is_noisy = false;
        for (uint32_t i = 0; i < t->o.micro_batch; i++) {
            h[i] = t->tasks[batch->task[k * t->o.micro_batch + i]].h;
            is_noisy = is_noisy || h[i] > 0;
        }
        s = take_rows(t, batch, k, &rows, err);
        if (!s && is_noisy) s = draw_images(t, step, k, DRAW_GENERATOR_Z, t->z, err);
        const struct direct_rows all = { rows.x, rows.y_in, is_noisy ? t->z : NULL, h,
                                         told_of(t, batch, k) };
        if (!s) s = direct_step(&t->direct, &all, 1.0 / t->micro_batches, &r, err);
        if (s) return s;
        sums[OF_REGRESSION] += r.regression;
        sums[OF_ENERGY] += r.energy;
        sums[OF_TOTAL] += r.total;
    }
    return s;
}

static enum status score_and_discriminator(struct trainer *t, const struct batch *batch,
                                           uint64_t step, double *sums, struct values *v,
                                           struct error *err)
{
    enum status s = score_half(t, batch, step, sums, err);
    if (!s) s = update(t, NET_SCORE, "score_gradient", rate_at(&t->o, step), v, err);
    if (!s)
        s = update(t, NET_DISCRIMINATOR, "discriminator_gradient", t->o.discriminator_lr, v, err);
    return s;
}

/* The generator's gradients are the sum over all objectives. */
static enum status restorer_step(struct trainer *t, const struct batch *batch, uint64_t step,
                                 struct values *v, struct error *err)
{
    const bool davi = t->davi_weight > 0, direct = trainer_is_direct(t);
    double sums[TERMS] = { 0 };
    enum status s = davi ? score_and_discriminator(t, batch, step, sums, v, err) : ST_OK;
    if (s || v->unsound) return s;
    s = trainable_zero(&t->nets[NET_GENERATOR], err);
    if (!s && davi) s = generator_half(t, batch, step, sums, err);
    sums[OF_TOTAL] *= t->davi_weight;
    if (!s && direct) s = direct_half(t, batch, step, sums, err);
    if (s) return s;
    if (t->process_group.sum) t->process_group.sum(t->process_group.ctx, sums, TERMS);
    for (int i = 0; i < TERMS; i++) {
        const bool is_computed = i == OF_TOTAL        ? true
                                 : i == OF_REGRESSION ? t->direct_options.regression > 0
                                 : i == OF_ENERGY     ? t->direct_options.energy > 0
                                                      : davi;
        if (is_computed)
            report(v, term_names[i], sums[i] / t->micro_batches / t->processes, exploded);
    }
    s = update(t, NET_GENERATOR, "generator_gradient", rate_at(&t->o, step), v, err);
    return s || v->unsound ? s : trainable_follow(&t->nets[NET_GENERATOR], err);
}

/* ---- the run ---- */

static enum status save(struct trainer *t, struct train_result *out, struct error *err)
{
    char path[PATH_MAX];
    if (t->process) return ST_OK;
    enum status s = checkpoint_write(path, t->folder, &t->checkpoint, t->o.keep, err);
    if (!s) memcpy(out->checkpoint, path, sizeof path);
    return s;
}

static enum status unsound(const struct trainer *t, const struct values *v, struct error *err)
{
    return error_set(err, ST_BAD_FILE,
                     "step %" PRIu64 ": %s = %g: training has exploded (a smaller lr may help)",
                     t->checkpoint.step + 1, v->unsound, v->unsound_value);
}

static bool is_due(uint64_t step, uint32_t every)
{
    return every && step % every == 0;
}

static enum status one_step(struct trainer *t, struct train_result *out, struct error *err)
{
    const uint64_t step = t->checkpoint.step, start = t->events.now_ns();
    const struct batch *batch = NULL;
    struct values v = { .unsound = NULL };
    enum status s = process_group_agree(t, loader_next(t->loader, &batch, err), NULL, err);
    if (s) return s;
    s = t->o.kind == TRAIN_DAVI ? restorer_step(t, batch, step, &v, err)
                                : prior_step(t, batch, step, &v, err);
    if (s) return process_group_abandon(t, s, err);
    if (v.unsound) return process_group_agree(t, unsound(t, &v, err), NULL, err);
    const double seconds = (double)(t->events.now_ns() - start) / 1e9;
    t->checkpoint.step = out->steps = v.p.step = step + 1;
    v.p.steps = t->o.steps;
    v.p.images_per_second = seconds > 0 ? t->o.batch / seconds : 0;
    if (t->events.progress && !t->process) t->events.progress(t->events.ctx, &v.p);
    if (is_due(step + 1, t->o.sheet_every) && !t->process)
        s = write_sheet(t, batch, t->micro_batches - 1, err);
    const bool is_last = step + 1 >= t->o.steps;
    if (!s && t->validation && (is_last || is_due(step + 1, t->o.validate_every)))
        s = validate(t, err);
    return process_group_agree(t, s, NULL, err);
}

static enum status run(struct trainer *t, struct train_result *out, struct error *err)
{
    enum status s = ST_OK;
    bool stop = false;
    out->steps = t->checkpoint.step;
    out->bytes = trainer_bytes(t);
    while (!s && !stop && t->checkpoint.step < t->o.steps) {
        s = one_step(t, out, err);
        if (s) return s;
        stop = t->events.should_stop && t->events.should_stop(t->events.ctx);
        const bool is_last = t->checkpoint.step >= t->o.steps;
        s = process_group_agree(t, ST_OK, &stop, err);
        if (stop || is_last || is_due(t->checkpoint.step, t->o.checkpoint_every))
            s = process_group_agree(t, save(t, out, err), NULL, err);
        if (is_last) stop = false;
    }
    out->is_stopped = t->checkpoint.step < t->o.steps;
    if (s || out->is_stopped) return s;
    return process_group_agree(t, t->process ? ST_OK : write_model(t, t->o.out, err), NULL, err);
}

enum status train_run(const struct train_options *o, const struct train_events *events,
                      struct train_result *out, struct error *err)
{
    struct trainer t;
    *out = (struct train_result){ 0 };
    int lock = -1;
    enum status s = trainer_init(&t, o, events, err);
    if (!s && t.checkpoint.step) (void)checkpoint_find(out->checkpoint, t.folder);
    if (!s && !t.process) s = take_places(&t, &lock, err);
    s = process_group_agree(&t, s, NULL, err);
    if (!s) s = process_group_compare(&t, err);
    if (!s) s = run(&t, out, err);
    if (t.dataset) out->images = dataset_count(t.dataset);
    if (t.dataset) out->left_out = dataset_unusable(t.dataset);
    out->is_told_elsewhere = t.process != t.reporting_rank;
    release_places(lock);
    process_group_leave(&t);
    trainer_done(&t);
    return s;
}
