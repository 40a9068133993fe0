/* Makes a run from its options, and refuses options that do not fit together. */
#include "engine/train/trainer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void train_defaults(struct train_options *o, enum train_kind kind)
{
    *o = (struct train_options){ .kind = kind,
                                 .steps = 10000,
                                 .batch = 8,
                                 .keep = 3,
                                 .checkpoint_every = 500,
                                 .loader_threads = 1,
                                 .discriminator_width = PATCHGAN_WIDTH,
                                 .lr = 1e-4,
                                 .discriminator_lr = 1e-4,
                                 .validate_every = 1000,
                                 .validate_crops = 16,
                                 .average_decay = 0.9999,
                                 .weight_decay = 0.01,
                                 .sigma = -1,
                                 .sigma_low = -1,
                                 .sigma_high = -1,
                                 .h = -1,
                                 .weight_con = -1,
                                 .reg_coeff = -1,
                                 .t_ikl = -1,
                                 .jitter = 2,
                                 .texture = 8,
                                 .cache_bytes = (size_t)1 << 30 };
}

void trainer_note(struct trainer *t, const char *format, ...)
{
    char text[768];
    va_list args;
    if (!t->events.note || t->process) return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&t->notes);
    t->events.note(t->events.ctx, text);
    pthread_mutex_unlock(&t->notes);
}

static void complain(void *ctx, const char *file, const char *why, uint32_t count)
{
    trainer_note(ctx, "left out (%u so far): %.200s: %.400s", count, file, why);
}

/* ---- options ---- */

static enum status check_numbers(const struct train_options *o, struct error *err)
{
    const struct {
        const char *name;
        double value, least, most;
    } rows[] = {
        { "lr", o->lr, 0, 1 },
        { "discriminator-lr", o->discriminator_lr, 0, 1 },
        { "lr-end", o->lr_end, 0, 1 },
        { "clip", o->clip, 0, 1e6 },
        { "weight-con", fmax(o->weight_con, 0), 0, 1e6 },
        { "reg-coeff", fmax(o->reg_coeff, 0), 0, 1e6 },
        { "t-ikl", o->t_ikl < 0 ? SCHEDULE_STEPS : o->t_ikl, 1, SCHEDULE_STEPS },
        { "average-decay", o->average_decay, 0, 0.999999 },
        { "weight-decay", o->weight_decay, 0, 1 },
        { "validate-every", o->validate_every, 1, 1e9 },
        { "validate-crops", o->validate_crops, 1, 1024 },
        { "jitter", o->jitter, 1, 16 },
        { "texture", o->texture, 0, 255 },
        { "steps", (double)o->steps, 1, 1e15 },
        { "batch", o->batch, 1, 1 << 20 },
        { "keep", o->keep, 1, 1e9 },
        { "discriminator-width", o->discriminator_width, 1, 1024 },
        { "loader-threads", o->loader_threads, 1, 16 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(rows[i].value >= rows[i].least && rows[i].value <= rows[i].most))
            return error_set(err, ST_BAD_PARAMETER, "%s = %g is not in %g..%g", rows[i].name,
                             rows[i].value, rows[i].least, rows[i].most);
    if ((o->sigma_low >= 0 || o->sigma_high >= 0) &&
        !(o->sigma_low >= 0 && o->sigma_low <= o->sigma_high))
        return error_set(err, ST_BAD_PARAMETER, "sigma-low = %g and sigma-high = %g are no range",
                         o->sigma_low, o->sigma_high);
    return ST_OK;
}

/* "NAME" or "NAME:WEIGHT", up to the comma or the end; *end: the rest of the text. */
static enum status read_weighted(const char *text, const char *what, char name[TASK_NAME_MAX],
                                 double *weight, const char **end, struct error *err)
{
    const size_t len = strcspn(text, ":,");
    char *after = NULL;
    *weight = 1;
    if (len == 0 || len >= TASK_NAME_MAX)
        return error_set(err, ST_BAD_PARAMETER, "%s = %.64s: not a list of names", what, text);
    memcpy(name, text, len);
    name[len] = 0;
    *end = text + len;
    if (text[len] == ':') {
        *weight = strtod(text + len + 1, &after);
        *end = after;
        if (after == text + len + 1 || (*after && *after != ',') ||
            !(*weight > 0 && *weight <= 1e6))
            return error_set(err, ST_BAD_PARAMETER, "%s = %.64s: not a weight above 0", what,
                             text + len + 1);
    }
    if (**end == ',' && !(*end)[1])
        return error_set(err, ST_BAD_PARAMETER, "%s: a name is missing behind the last comma",
                         what);
    if (**end == ',') (*end)++;
    return ST_OK;
}

static enum status read_tasks(struct trainer *t, struct error *err)
{
    char name[TASK_NAME_MAX];
    const char *at = t->o.tasks ? t->o.tasks : "";
    while (t->o.kind == TRAIN_DAVI && (*at || t->n_tasks == 0)) {
        if (t->n_tasks == MODEL_MAX_TASKS)
            return error_set(err, ST_UNKNOWN_TASK, "task = %.64s: more than %d tasks", t->o.tasks,
                             MODEL_MAX_TASKS);
        struct drawn_task *d = &t->tasks[t->n_tasks];
        enum status s = read_weighted(at, "task", name, &d->weight, &at, err);
        if (!s) s = task_defaults(&t->info.tasks[t->n_tasks], name, err); /* lists the tasks */
        if (s) return s;
        d->task = task_find(name);
        t->n_tasks++;
    }
    t->info.n_tasks = t->n_tasks;
    return ST_OK;
}

static enum status read_objective(struct trainer *t, struct error *err)
{
    const struct train_options *o = &t->o;
    struct direct_options *d = &t->direct_options;
    const struct {
        const char *name;
        double *weight;
    } known[] = { { "davi", &t->davi_weight },
                  { "regression", &d->regression },
                  { "energy", &d->energy } };
    const char *at = o->objective ? o->objective : "davi";
    d->kind = o->regression_l2 ? REGRESSION_L2 : REGRESSION_L1;
    d->distance = o->energy_norm ? DISTANCE_NORM : DISTANCE_L1;
    for (int i = 0; i < ENERGY_SCALES; i++)
        d->scales[i] = 1;
    while (o->kind == TRAIN_DAVI && *at) {
        char name[TASK_NAME_MAX];
        double weight;
        size_t k = 0;
        enum status s = read_weighted(at, "objective", name, &weight, &at, err);
        if (s) return s;
        while (k < sizeof known / sizeof *known && strcmp(known[k].name, name) != 0)
            k++;
        if (k == sizeof known / sizeof *known)
            return error_set(err, ST_BAD_PARAMETER,
                             "objective = %s: davi, regression or energy is needed", name);
        *known[k].weight = weight;
    }
    return ST_OK;
}

/* The ranges that each task's rows are drawn in, and the numbers of it in the model file. */
static void fill_tasks(struct trainer *t)
{
    const struct train_options *o = &t->o;
    const struct unet_arch *a = &t->info.arch;
    for (uint32_t i = 0; i < t->n_tasks; i++) {
        struct drawn_task *d = &t->tasks[i];
        struct model_task *m = &t->info.tasks[i];
        const double *range = d->task->sigma_range, *levels = d->task->level_range;
        const bool is_drawn = a->sigma_cond && o->sigma < 0;
        const bool is_given = is_drawn && o->sigma_low >= 0;
        if (o->sigma >= 0) m->sigma = o->sigma;
        if (o->h >= 0) m->h = o->h;
        d->sigma[0] = is_given ? o->sigma_low : is_drawn ? range[0] : m->sigma;
        d->sigma[1] = is_given ? o->sigma_high : is_drawn ? range[1] : m->sigma;
        m->sigma = fmin(fmax(m->sigma, d->sigma[0]), d->sigma[1]);
        m->level = d->task->level;
        for (int k = 0; k < 2; k++) {
            d->level[k] = a->level_cond ? levels[k] : m->level;
            m->sigma_range[k] = d->sigma[k];
            m->level_range[k] = d->level[k];
        }
        d->label = m->label;
        d->h = m->h;
    }
}

/* The largest divisor of a process's rows that is at most 16: such a micro-batch fits the caches of
 * most processors. */
static uint32_t default_micro_batch(uint32_t rows)
{
    uint32_t best = 1;
    for (uint32_t m = 2; m <= 16; m++)
        if (rows % m == 0) best = m;
    return best;
}

static enum status check_batches(struct trainer *t, struct error *err)
{
    struct train_options *o = &t->o;
    t->processes = t->process_group.processes > 1 ? t->process_group.processes : 1;
    const uint32_t rows = o->batch / t->processes;
    if (o->micro_batch == 0) o->micro_batch = default_micro_batch(rows);
    if (o->batch % t->processes || rows == 0 || o->micro_batch == 0 || o->micro_batch > MOST_ROWS ||
        rows % o->micro_batch)
        return error_set(
            err, ST_BAD_PARAMETER,
            "batch = %u is not a multiple of micro-batch = %u (at most %d) times the %u "
            "processes",
            o->batch, o->micro_batch, MOST_ROWS, t->processes);
    t->micro_batches = rows / o->micro_batch;
    return ST_OK;
}

/* ---- the parts of a run ---- */

/* The ops that the back end must have, of enum loss_need. */
static unsigned needs_of(const struct trainer *t)
{
    unsigned needs = 0;
    if (t->o.kind == TRAIN_PRIOR) return NEED_DENOISING | (t->o.sheet_every ? NEED_SHEETS : 0);
    needs = NEED_ANSWERS | NEED_GRADIENTS;
    if (t->direct_options.regression > 0) needs |= NEED_REGRESSION;
    if (t->direct_options.energy > 0) needs |= NEED_ENERGY;
    if (!(t->davi_weight > 0)) return needs;
    needs |= NEED_DAVI;
    for (uint32_t i = 0; i < t->n_tasks; i++) {
        const struct operator_traits *op = operator_of(t->tasks[i].task->op);
        if (op->transpose) needs |= NEED_ADJOINT;
        if (op->needs_mask) needs |= NEED_MASK;
    }
    return needs;
}

static enum status take_memory(struct trainer *t, struct error *err)
{
    const size_t count = (size_t)t->o.micro_batch * t->side * t->side * 3;
    const bool is_prior = t->o.kind == TRAIN_PRIOR;
    void *mask = NULL;
    const struct {
        float **to;
        size_t count;
    } parts[] = { { &t->images.x, count },
                  { &t->images.measured, is_prior ? 0 : count },
                  { &t->images.y_in, is_prior ? 0 : count },
                  { &t->z, is_prior ? 0 : count },
                  { &t->noise, count },
                  { &t->x_t, is_prior ? count : 0 },
                  { &t->y, is_prior ? 2 * count : 0 },
                  { &t->dy, is_prior ? 2 * count : 0 } };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        void *memory = NULL;
        if (!parts[i].count) continue;
        enum status s = t->b->ops->device.alloc(t->b, parts[i].count * sizeof(float), &memory, err);
        if (s) return s;
        *parts[i].to = memory;
    }
    if (is_prior) return ST_OK;
    enum status s = t->b->ops->device.alloc(t->b, count / 3, &mask, err);
    if (!s) t->images.observed_mask = mask;
    return s;
}

static enum status open_data(struct trainer *t, struct error *err)
{
    const struct dataset_options d = { .folder = t->o.data,
                                       .least_side = t->side,
                                       .cache_bytes = t->o.cache_bytes,
                                       .complain = complain,
                                       .ctx = t };
    enum status s = dataset_open(&t->dataset, &d, err);
    if (s) return s;
    t->loader_options = (struct loader_options){
        .crops = { t->side, t->o.jitter, t->o.texture, t->o.seed },
        .dataset = t->dataset,
        .rows = t->o.micro_batch * t->micro_batches,
        .micro_rows = t->o.micro_batch,
        .process = t->process,
        .processes = t->processes,
        .tasks = t->tasks,
        .in_pairs = t->direct_options.energy > 0,
        .surroundings = !(t->davi_weight > 0),
        .mixed = !(t->davi_weight > 0),
        .n_tasks = t->n_tasks,
        .threads = t->o.loader_threads,
        .first_step = t->checkpoint.step,
    };
    return ST_OK;
}

static void setting(struct checkpoint *c, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void setting(struct checkpoint *c, const char *name, const char *format, ...)
{
    va_list args;
    struct checkpoint_setting *s = &c->settings[c->n_settings++];
    s->name = name;
    va_start(args, format);
    (void)vsnprintf(s->value, sizeof s->value, format, args);
    va_end(args);
}

/* The settings that a resumed run shares with the run before; of the architecture the digest, as
 * its text may be long. */
static enum status describe_run(struct trainer *t, struct error *err)
{
    struct checkpoint *c = &t->checkpoint;
    static const char *const names[] = { "generator", "score", "discriminator" };
    char arch[DIGEST_HEX] = "";
    char *text = unet_arch_json(&t->info.arch);
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an architecture");
    enum status s = digest_bytes(arch, text, strlen(text), err);
    free(text);
    c->n_nets = t->davi_weight > 0 ? 3 : 1;
    for (uint32_t i = 0; i < c->n_nets; i++) {
        c->names[i] = names[i];
        c->nets[i] = &t->nets[i];
    }
    setting(c, "kind", "%s", t->o.kind == TRAIN_DAVI ? "davi" : "prior");
    setting(c, "arch", "%s", arch);
    setting(c, "task", "%.120s", t->o.tasks ? t->o.tasks : "none");
    setting(c, "parent", "%s", t->o.kind == TRAIN_DAVI ? t->parent : "none");
    setting(c, "size", "%u", t->side);
    setting(c, "seed", "%llu", (unsigned long long)t->o.seed);
    setting(c, "batch", "%u", t->o.batch);
    setting(c, "micro-batch", "%u of %u", t->o.micro_batch, t->processes);
    setting(c, "dtype", "%s", dtype_name(t->engine->dtype));
    setting(c, "sigma", "%.17g in %.17g..%.17g, h %.17g", t->o.sigma, t->o.sigma_low,
            t->o.sigma_high, t->o.h);
    setting(c, "objective", "%.100s%s%s", t->o.objective ? t->o.objective : "davi",
            t->o.regression_l2 ? " l2" : "", t->o.energy_norm ? " norm" : "");
    setting(c, "davi", "consistency %.17g, truth %.17g, t %.17g", t->o.weight_con, t->o.reg_coeff,
            t->o.t_ikl);
    setting(c, "update", "clip %.17g, weight decay %.17g, average %.17g", t->o.clip,
            t->o.weight_decay, t->o.average_decay);
    setting(c, "jitter", "%.17g", t->o.jitter);
    setting(c, "texture", "%.17g", t->o.texture);
    setting(c, "discriminator-width", "%u", t->o.discriminator_width);
    setting(c, "data", "%s", dataset_digest(t->dataset));
    return s;
}

static enum status begin_or_resume(struct trainer *t, struct error *err)
{
    char path[PATH_MAX];
    enum status s = describe_run(t, err);
    if (s) return s;
    bool found = checkpoint_find(path, t->folder);
    if (found && !t->o.resume)
        return error_set(
            err, ST_BAD_PARAMETER,
            "%s: it holds a run's checkpoints already: resume it, or name another folder",
            t->folder);
    if (!found) return ST_OK;
    s = checkpoint_read(path, &t->checkpoint, err);
    if (!s) trainer_note(t, "resumed from %s", path);
    return s;
}

enum status trainer_init(struct trainer *t, const struct train_options *o,
                         const struct train_events *events, struct error *err)
{
    *t = (struct trainer){ .o = *o, .events = *events, .side = o->size };
    pthread_mutex_init(&t->notes, NULL);
    int len = o->checkpoints ? snprintf(t->folder, sizeof t->folder, "%s", o->checkpoints)
                             : snprintf(t->folder, sizeof t->folder, "%s.checkpoints", o->out);
    enum status s = process_group_join(t, err);
    if (!s)
        s = len < (int)sizeof t->folder - 64
                ? check_numbers(o, err)
                : error_set(err, ST_BAD_PARAMETER, "the checkpoints' path is too long");
    t->schedule = malloc(sizeof *t->schedule);
    if (!s && !t->schedule) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a schedule");
    if (!s) s = read_tasks(t, err);
    if (!s) s = read_objective(t, err);
    if (!s) s = check_batches(t, err);
    if (!s) s = engine_open(&t->engine, &o->engine, err);
    if (s) return s;
    t->b = t->engine->backend;
    s = losses_check(t->b, needs_of(t), err);
    if (!s) s = make_nets(t, err);
    if (!s) fill_tasks(t);
    if (!s) s = take_memory(t, err);
    if (!s) s = open_data(t, err);
    if (!s) s = begin_or_resume(t, err);
    if (!s && o->validate && o->kind == TRAIN_DAVI && !t->process)
        s = validation_open(&t->validation, t, err);
    if (s) return s;
    t->loader_options.first_step = t->checkpoint.step;
    return loader_open(&t->loader, &t->loader_options, err);
}

void trainer_done(struct trainer *t)
{
    loader_close(t->loader);
    dataset_close(t->dataset);
    validation_close(t->validation);
    davi_done(&t->davi);
    direct_done(&t->direct);
    void *const all[] = { t->images.x, t->images.measured, t->images.y_in, t->images.observed_mask,
                          t->z,        t->noise,           t->x_t,         t->y,
                          t->dy };
    for (size_t i = 0; t->b && i < sizeof all / sizeof *all; i++)
        t->b->ops->device.free(t->b, all[i]);
    for (int i = 0; i < NETS; i++)
        trainable_done(&t->nets[i]);
    model_info_done(&t->info);
    engine_close(t->engine);
    free(t->schedule);
    pthread_mutex_destroy(&t->notes);
    *t = (struct trainer){ 0 };
}

size_t trainer_bytes(const struct trainer *t)
{
    size_t bytes = 0;
    for (int i = 0; i < NETS; i++)
        if (t->nets[i].tape) bytes += trainable_bytes(&t->nets[i]);
    return bytes;
}
