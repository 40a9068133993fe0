/* What a run is made of, and what is wrong with its options. */
#include "engine/train/trainer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nets/unet.h"

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
                                 .sigma = -1,
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
    return ST_OK;
}

static enum status read_tasks(struct trainer *t, struct error *err)
{
    char name[TASK_NAME_MAX];
    const char *at = t->o.tasks ? t->o.tasks : "";
    while (t->o.kind == TRAIN_DAVI) {
        size_t len = strcspn(at, ",");
        if (len >= sizeof name || t->n_tasks == MODEL_MAX_TASKS)
            return error_set(err, ST_UNKNOWN_TASK, "task = %.64s: not a list of tasks", t->o.tasks);
        memcpy(name, at, len);
        name[len] = 0;
        const struct task_desc *task = task_find(name);
        struct model_task *m = &t->info.tasks[t->n_tasks];
        enum status s = task_defaults(m, name, err); /* its message lists the tasks */
        if (s) return s;
        if (t->o.sigma >= 0) m->sigma = t->o.sigma;
        t->tasks[t->n_tasks] = task;
        t->sigmas[t->n_tasks++] = m->sigma;
        if (!at[len]) break;
        at += len + 1;
    }
    t->info.n_tasks = t->n_tasks;
    return ST_OK;
}

/* The largest that divides the rows of a process, and that the caches of most processors hold. */
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
    t->processes = t->team.processes > 1 ? t->team.processes : 1;
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

/* ---- networks ---- */

/* A network's weights when it begins: uniform within 1 / sqrt(fan in), as its first authors' framework has it, and zero where a
 * block ends, so that every block begins as the identity. The discriminator's are normal, 0.02. */
struct beginning {
    uint64_t seed;
    const struct graph *g;
    bool is_discriminator;
};

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

/* Of the layer that a bias belongs to: its weight stands just before it. */
static double fan_in(const struct graph *g, const struct param_desc *d)
{
    double n = 1;
    for (uint32_t i = 0; d->dims == 1 && i + 1 < g->n_params; i++)
        if (strcmp(g->params[i + 1].name, d->name) == 0) d = &g->params[i];
    for (uint32_t i = 1; i < d->dims; i++)
        n *= d->shape[i];
    return n;
}

static enum status begin_param(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    (void)err;
    const struct beginning *b = ctx;
    uint32_t index = 0;
    while (index + 1 < b->g->n_params && strcmp(b->g->params[index].name, d->name) != 0)
        index++;
    const bool is_weight = ends_with(d->name, ".weight");
    /* A norm's two are the only weights and biases of one dimension that belong together. */
    const bool is_norm = d->dims == 1 && (is_weight || b->g->params[index - 1].dims == 1);
    const bool is_last = strstr(d->name, ".out_layers.3.") || strstr(d->name, ".proj_out.") ||
                         strncmp(d->name, "out.2.", 6) == 0;
    struct dice dice = dice_of(b->seed, 0, DRAW_WEIGHTS, index);
    memset(dst, 0, d->count * sizeof *dst);
    if (is_norm || (b->is_discriminator && is_weight)) {
        for (size_t i = 0; is_norm && is_weight && i < d->count; i++)
            dst[i] = 1;
        if (b->is_discriminator && is_weight)
            draw_add_normals(b->seed, 0, DRAW_WEIGHTS, index, dst, d->count, 0.02);
        return ST_OK;
    }
    if (is_last && !b->is_discriminator) return ST_OK;
    const double reach = 1 / sqrt(fan_in(b->g, d));
    for (size_t i = 0; i < d->count; i++)
        dst[i] = (float)(reach * (2 * dice_unit(&dice) - 1));
    return ST_OK;
}

static enum status begin(struct trainer *t, enum net net, struct error *err)
{
    struct beginning b = { t->o.seed + net, t->nets[net].g, net == NET_DISCRIMINATOR };
    return learner_load(&t->nets[net], &(struct param_source){ begin_param, &b }, err);
}

static enum status load(struct trainer *t, enum net net, const struct safetensors *st,
                        const char *path, struct error *err)
{
    struct file_source src = { t->engine, st };
    struct error why = { 0 };
    enum status s = file_check(st, t->nets[net].g, &why);
    if (s) return error_set(err, s, "%s: %s", path, why.detail);
    pthread_mutex_lock(&t->engine->device);
    s = learner_load(&t->nets[net], &(struct param_source){ file_param_load, &src }, err);
    pthread_mutex_unlock(&t->engine->device);
    return s;
}

static enum status make_unet(struct trainer *t, enum net net, struct error *err)
{
    struct graph *g = NULL;
    struct learner_options o = { .has_average = net == NET_GENERATOR };
    o.tape = (struct backward_options){ .rows = t->o.micro_batch,
                                        .dtype = t->engine->dtype,
                                        .forward_only = net == NET_TEACHER,
                                        .recompute = t->o.recompute };
    enum status s = unet_build(&g, &t->info.arch, t->side, t->side, err);
    if (s) return s;
    if (net == NET_GENERATOR && t->o.kind == TRAIN_DAVI) o.tape.probe = generator_probe(g);
    return learner_init(&t->nets[net], t->b, g, &o, err);
}

static enum status make_discriminator(struct trainer *t, struct error *err)
{
    struct graph *g = NULL;
    struct learner_options o = { .has_average = false };
    o.tape = (struct backward_options){ .rows = t->o.micro_batch,
                                        .dtype = t->engine->dtype,
                                        .keep_taps = true,
                                        .input_gradient = true,
                                        .team = t->team };
    enum status s = patchgan_build(&g, t->o.discriminator_width, t->side, t->side, err);
    if (!s) s = learner_init(&t->nets[NET_DISCRIMINATOR], t->b, g, &o, err);
    return s ? s : begin(t, NET_DISCRIMINATOR, err);
}

static enum status check_arch(const struct trainer *t, const char *path, struct error *err)
{
    const struct unet_arch *a = &t->info.arch;
    if (a->class_cond)
        return error_set(err, ST_UNSUPPORTED, "%s: class-conditional networks are not trained here",
                         path);
    if (!a->learn_sigma)
        return error_set(
            err, ST_BAD_FILE,
            "%s: its network has no learned variance (learn_sigma), which training needs", path);
    return ST_OK;
}

static enum status digest_of(char out[DIGEST_HEX], const struct model_file *f, struct error *err)
{
    return digest_bytes(out, f->bytes, f->len, err);
}

/* The teacher, and the networks that begin as it; --init replaces the generator's weights. */
static enum status make_davi_nets(struct trainer *t, struct error *err)
{
    struct model_file prior = { 0 }, init = { 0 };
    enum status s = model_file_open(&prior, t->o.prior, err);
    if (!s && prior.info.role != ROLE_PRIOR)
        s = error_set(err, ST_BAD_FILE, "%s: its role is restorer, not prior", t->o.prior);
    if (s) goto done;
    t->info.arch = prior.info.arch;
    t->info.schedule = prior.info.schedule;
    if (!t->side) t->side = t->info.arch.image_size;
    s = check_arch(t, t->o.prior, err);
    for (int net = 0; !s && net < NETS; net++) {
        if (net == NET_DISCRIMINATOR) continue;
        s = make_unet(t, (enum net)net, err);
        if (!s) s = load(t, (enum net)net, prior.st, t->o.prior, err);
    }
    if (!s) s = digest_of(t->parent, &prior, err);
    if (s || !t->o.init) goto done;
    s = model_file_open(&init, t->o.init, err);
    if (!s) s = load(t, NET_GENERATOR, init.st, t->o.init, err);
    if (!s) s = digest_of(t->parent, &init, err);
done:
    model_file_close(&prior);
    model_file_close(&init);
    return s ? s : make_discriminator(t, err);
}

static enum status make_prior_net(struct trainer *t, struct error *err)
{
    struct model_file init = { 0 };
    struct error why = { 0 };
    enum status s = ST_OK;
    if (t->o.init) {
        s = model_file_open(&init, t->o.init, err);
        if (s) return s;
        t->info.arch = init.info.arch;
        t->info.schedule = init.info.schedule;
    } else if (unet_arch_parse(&t->info.arch, t->o.arch, &why)) {
        return error_set(err, ST_BAD_PARAMETER, "arch: %s", why.detail);
    }
    if (!t->side) t->side = t->info.arch.image_size;
    s = check_arch(t, t->o.init ? t->o.init : "arch", err);
    if (!s) s = make_unet(t, NET_GENERATOR, err);
    if (!s)
        s = t->o.init ? load(t, NET_GENERATOR, init.st, t->o.init, err)
                      : begin(t, NET_GENERATOR, err);
    if (!s && t->o.init) s = digest_of(t->parent, &init, err);
    model_file_close(&init);
    return s;
}

static enum status make_nets(struct trainer *t, struct error *err)
{
    const bool davi = t->o.kind == TRAIN_DAVI;
    if (davi && !t->o.prior) return error_set(err, ST_BAD_PARAMETER, "a prior is needed");
    if (!davi && !t->o.init && !t->o.arch)
        return error_set(err, ST_BAD_PARAMETER,
                         "an architecture or weights to begin from are needed");
    enum status s = davi ? make_davi_nets(t, err) : make_prior_net(t, err);
    if (s) return s;
    schedule_init(t->schedule, t->info.schedule);
    t->info.role = davi ? ROLE_RESTORER : ROLE_PRIOR;
    t->info.tile_size = t->side;
    t->info.tile_overlap = t->side / 8 * 2; /* even: blending halves it */
    if (!davi) return ST_OK;
    const struct davi_options o = { .schedule = t->schedule, .team = t->team };
    return davi_init(&t->davi, &o, &t->nets[NET_TEACHER], &t->nets[NET_SCORE],
                     &t->nets[NET_GENERATOR], &t->nets[NET_DISCRIMINATOR], err);
}

/* ---- the rest ---- */

static enum status take_memory(struct trainer *t, struct error *err)
{
    const size_t count = (size_t)t->o.micro_batch * t->side * t->side * 3;
    const struct {
        float **to;
        size_t count;
    } parts[] = { { &t->z, count },
                  { &t->noise, count },
                  { &t->x_t, count },
                  { &t->y, 2 * count },
                  { &t->dy, 2 * count } };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        void *memory = NULL;
        enum status s = t->b->ops->alloc(t->b, parts[i].count * sizeof(float), &memory, err);
        if (s) return s;
        *parts[i].to = memory;
    }
    return ST_OK;
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
        .sigmas = t->sigmas,
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

/* What a resumed run must have in common with the run before; the architecture by its digest, as it may be long. */
static enum status describe_run(struct trainer *t, struct error *err)
{
    struct checkpoint *c = &t->checkpoint;
    static const char *const names[] = { "generator", "score", "discriminator" };
    char arch[DIGEST_HEX] = "";
    char *text = unet_arch_json(&t->info.arch);
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory for an architecture");
    enum status s = digest_bytes(arch, text, strlen(text), err);
    free(text);
    c->n_nets = t->o.kind == TRAIN_DAVI ? 3 : 1;
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
    setting(c, "sigma", "%.17g", t->o.sigma);
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
    enum status s = team_join(t, err);
    if (!s)
        s = len < (int)sizeof t->folder - 64
                ? check_numbers(o, err)
                : error_set(err, ST_BAD_PARAMETER, "the checkpoints' path is too long");
    t->schedule = malloc(sizeof *t->schedule);
    if (!s && !t->schedule) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a schedule");
    if (!s) s = read_tasks(t, err);
    if (!s) s = check_batches(t, err);
    if (!s) s = engine_open(&t->engine, &o->engine, err);
    if (s) return s;
    t->b = t->engine->backend;
    if (!t->b->ops->gradients || !t->b->ops->host_memory)
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot train", t->b->ops->name);
    s = make_nets(t, err);
    if (!s) s = take_memory(t, err);
    if (!s) s = open_data(t, err);
    if (!s) s = begin_or_resume(t, err);
    if (s) return s;
    t->loader_options.first_step = t->checkpoint.step;
    return loader_open(&t->loader, &t->loader_options, err);
}

void trainer_done(struct trainer *t)
{
    loader_close(t->loader);
    dataset_close(t->dataset);
    davi_done(&t->davi);
    float *const all[] = { t->z, t->noise, t->x_t, t->y, t->dy };
    for (size_t i = 0; t->b && i < sizeof all / sizeof *all; i++)
        t->b->ops->free(t->b, all[i]);
    for (int i = 0; i < NETS; i++)
        learner_done(&t->nets[i]);
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
        if (t->nets[i].tape) bytes += learner_bytes(&t->nets[i]);
    return bytes;
}
