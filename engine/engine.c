/* The engine: its back end, dtype and threads; what a request may ask; running rows.
 * Models are in model.c, the raw network in network.c, restorations in davi/. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/restoration_device.h"
#include "engine/internal.h"

enum { DEFAULT_MAX_BATCH = 32, LARGEST_BATCH = 1024, MOST_THREADS = 1024 };

static bool is_auto(const char *name)
{
    return !name || strcmp(name, "auto") == 0;
}

static enum status choose_dtype(enum dtype *out, struct backend *b, const char *name,
                                struct error *err)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = { { "f32", DT_F32 }, { "bf16", DT_BF16 }, { "f16", DT_F16 } };
    /* TF32 is F32 in memory; the back end was opened with it. */
    if (name && strcmp(name, "tf32") == 0 && strcmp(b->ops->device.name, "cuda") == 0) {
        *out = DT_F32;
        return ST_OK;
    }
    if (is_auto(name)) {
        *out = b->ops->device.best_dtype(b);
        return ST_OK;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) != 0 || !b->ops->device.has_dtype(b, names[i].dtype))
            continue;
        *out = names[i].dtype;
        return ST_OK;
    }
    return error_set(err, ST_UNSUPPORTED, "dtype = %.32s: the %s back end of this machine lacks it",
                     name, b->ops->device.name);
}

static const char *dtype_option(enum dtype t, const char *asked)
{
    if (asked && strcmp(asked, "tf32") == 0) return "tf32";
    return t == DT_BF16 ? "bf16" : t == DT_F16 ? "f16" : "f32";
}

static enum status check_options(const struct engine_options *o, struct error *err)
{
    if (o->threads < 0 || o->threads > MOST_THREADS)
        return error_set(err, ST_BAD_PARAMETER, "threads = %d is not in 0..%d", o->threads,
                         MOST_THREADS);
    if (o->max_batch > LARGEST_BATCH)
        return error_set(err, ST_BAD_PARAMETER, "max_batch = %u is more than %d", o->max_batch,
                         LARGEST_BATCH);
    return ST_OK;
}

enum status engine_on(struct engine **out, struct backend *backend, const struct engine_options *o,
                      struct error *err)
{
    struct engine *e = NULL;
    enum status s = check_options(o, err);
    if (s) goto done;
    e = calloc(1, sizeof *e);
    if (!e) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for an engine");
        goto done;
    }
    s = choose_dtype(&e->dtype, backend, o->dtype, err);
    if (s) goto done;
    if (pthread_mutex_init(&e->device, NULL)) {
        s = error_set(err, ST_INTERNAL, "a mutex could not be made");
        goto done;
    }
    struct engine_facts *f = &e->facts;
    e->backend = backend;
    e->engines = o->engines ? o->engines : 1;
    f->threads = o->threads ? o->threads : threads_available();
    f->max_batch = o->max_batch ? o->max_batch : DEFAULT_MAX_BATCH;
    f->in_flight =
        backend->ops->device.stream_slots >= SAMPLER_STREAM_SLOTS ? SAMPLER_STREAM_SLOTS : 1;
    snprintf(f->backend, sizeof f->backend, "%s", backend->ops->device.name);
    snprintf(f->dtype, sizeof f->dtype, "%s", dtype_option(e->dtype, o->dtype));
    snprintf(f->isa, sizeof f->isa, "%s",
             backend->ops->device.isa ? backend->ops->device.isa(backend)
                                      : backend->ops->device.name);
    snprintf(f->reason, sizeof f->reason, "backend %s (%s), dtype %s (%s)", f->backend,
             is_auto(o->backend) ? "auto: the best of this build" : "as asked", f->dtype,
             !is_auto(o->dtype)   ? "as asked"
             : e->dtype == DT_F32 ? "auto: no faster 16-bit arithmetic here"
                                  : "auto: 16-bit arithmetic is faster here");
    *out = e;
    return ST_OK;
done:
    free(e);
    backend->ops->device.close(backend);
    return s;
}

uint32_t engine_devices(const char *backend)
{
    return backend_devices(is_auto(backend) ? NULL : backend);
}

enum status engine_open(struct engine **out, const struct engine_options *o, struct error *err)
{
    struct backend *b = NULL;
    char passed_over[160] = "";
    enum status s = check_options(o, err);
    const struct backend_choice choice = {
        .name = is_auto(o->backend) ? NULL : o->backend,
        .threads = o->threads ? o->threads : threads_available(),
        .max_rows = o->max_batch ? o->max_batch : DEFAULT_MAX_BATCH,
        .tf32 = o->dtype && strcmp(o->dtype, "tf32") == 0,
        .one_size = o->deterministic,
        .device = (int)o->device,
    };
    if (!s) s = backend_choose(&b, &choice, passed_over, sizeof passed_over, err);
    if (!s) s = engine_on(out, b, o, err);
    if (s || !passed_over[0]) return s;
    char *reason = (*out)->facts.reason;
    size_t len = strlen(reason);
    snprintf(reason + len, sizeof(*out)->facts.reason - len, "; not %s", passed_over);
    return ST_OK;
}

void engine_close(struct engine *e)
{
    if (!e) return;
    image_pool_close(e->image_pool);
    e->backend->ops->device.close(e->backend);
    pthread_mutex_destroy(&e->device);
    free(e);
}

const struct engine_facts *engine_describe(const struct engine *e)
{
    return &e->facts;
}

bool engine_gauges(const struct engine *e, struct engine_gauges *out)
{
    struct device_gauges g;
    if (!e->backend->ops->device.gauges || !e->backend->ops->device.gauges(e->backend, &g))
        return false;
    *out = (struct engine_gauges){ .busy = g.busy,
                                   .memory_used_bytes = g.memory_used_bytes,
                                   .memory_total_bytes = g.memory_total_bytes,
                                   .power_w = g.power_w,
                                   .temperature_c = g.temperature_c };
    snprintf(out->name, sizeof out->name, "%s", g.name);
    return true;
}

/* ---- restorations of a model ---- */

static enum status check_range(const char *name, double value, const double range[2],
                               const char *task, struct error *err)
{
    if (value >= range[0] && value <= range[1]) return ST_OK;
    return range[0] < range[1] ? error_set(err, ST_BAD_PARAMETER,
                                           "%s = %g is not in %g..%g, what the model's task %s "
                                           "was trained for",
                                           name, value, range[0], range[1], task)
                               : error_set(err, ST_BAD_PARAMETER,
                                           "%s = %g: the model's task %s was trained for %g alone",
                                           name, value, task, range[0]);
}

/* The level where a request leaves it out: the file's, else the task's own. */
static double level_of(const struct restore_params *p, const struct model_task *t,
                       const struct image *img)
{
    const struct operator_traits *op = operator_of(task_find(t->name)->op);
    const double told = img && op->level_of ? op->level_of(img) : 0;
    if (p->level != 0) return p->level;
    return told > 0 ? fmin(fmax(told, t->level_range[0]), t->level_range[1]) : t->level;
}

/* img: NULL where it is not known yet, or where the measurement is one of floats. */
static enum status check_params(struct restoration_setup *s, const struct model *m,
                                const struct restore_params *p, const struct image *img,
                                struct error *err)
{
    const struct model_info *info = &m->info;
    const struct model_task *task = NULL;
    if (p->task)
        task = model_find_task(m, p->task);
    else if (info->n_tasks == 1)
        task = &info->tasks[0];
    if (!task) {
        char offered[256] = "";
        for (uint32_t i = 0; i < info->n_tasks; i++) {
            size_t len = strlen(offered);
            snprintf(offered + len, sizeof offered - len, "%s%s", i ? ", " : "",
                     info->tasks[i].name);
        }
        return p->task ? error_set(err, ST_UNKNOWN_TASK,
                                   "the model does not offer task \"%.32s\"; it offers: %s",
                                   p->task, offered)
                       : error_set(err, ST_UNKNOWN_TASK,
                                   "a task must be named; the model offers: %s", offered);
    }
    double h = p->h < 0 ? task->h : p->h;
    if (!(h >= 0 && h <= RESTORE_MAX_H))
        return error_set(err, ST_BAD_PARAMETER, "h = %g is not in 0..%g", h, RESTORE_MAX_H);
    const double sigma = p->sigma != 0 ? p->sigma : task->sigma;
    const double level = level_of(p, task, img);
    enum status status = check_range("sigma", sigma, task->sigma_range, task->name, err);
    if (!status && task->level == 0) status = task_check_level(task_find(task->name), level, err);
    if (!status && task->level != 0)
        status = check_range("level", level, task->level_range, task->name, err);
    if (status) return status;
    if (p->samples < 1)
        return error_set(err, ST_BAD_PARAMETER, "samples = 0; at least 1 is needed");
    if (p->samples > RESTORE_MAX_SAMPLES)
        return error_set(err, ST_TOO_MANY_SAMPLES, "samples = %u is more than %d", p->samples,
                         RESTORE_MAX_SAMPLES);
    if (p->output == OUTPUT_IMAGE && p->samples != 1)
        return error_set(err, ST_BAD_PARAMETER, "samples = %u: output image is one sample",
                         p->samples);
    if ((p->output == OUTPUT_MEAN || p->output == OUTPUT_STD) && p->samples < 2)
        return error_set(err, ST_BAD_PARAMETER, "samples = 1: output %s needs at least 2",
                         p->output == OUTPUT_MEAN ? "mean" : "std");
    *s = (struct restoration_setup){ .task = task_find(task->name),
                                     .sigma = sigma,
                                     .level = level,
                                     .h = h,
                                     .condition = conditions_find(&m->conditions, info,
                                                                  (uint32_t)(task - info->tasks),
                                                                  sigma, level),
                                     .seed = p->seed,
                                     .samples = p->samples,
                                     .output = p->output,
                                     .keep_samples = p->keep_samples,
                                     .tile = info->tile_size,
                                     .overlap = info->tile_overlap,
                                     .margin = info->tile_margin,
                                     .jobs_in_flight = m->engine->facts.max_batch };
    /* One engine ends its batches in order, so its rows in flight are one run of neighbours. */
    if (m->engine->engines > 1)
        s->runs_in_flight = m->engine->engines * m->engine->facts.in_flight;
    else
        s->jobs_in_flight *= m->engine->facts.in_flight;
    return ST_OK;
}

enum status restore_params_check(const struct restore_params *p, const struct model *m,
                                 struct error *err)
{
    struct restoration_setup s;
    return check_params(&s, m, p, NULL, err);
}

enum status restoration_new(struct restoration **out, struct model *m,
                            const struct restore_params *p, const struct image *img,
                            const struct image *mask, struct error *err)
{
    struct restoration_setup s;
    enum status status = check_params(&s, m, p, img, err);
    if (status) return status;
    s.img = img;
    s.mask = mask;
    return restoration_make(out, &s, err);
}

enum status restoration_of_measurement(struct restoration **out, struct model *m,
                                       const struct restore_params *p, const struct measurement *y,
                                       const struct image *mask, struct error *err)
{
    struct restoration_setup s;
    enum status status = check_params(&s, m, p, NULL, err);
    if (status) return status;
    s.y = y;
    s.mask = mask;
    return restoration_make(out, &s, err);
}

/* The block, the image given with its mask, the images of restoration_image (each kind once), what
 * the operator allocates, and the allocator's own. */
size_t restoration_peak_bytes(const struct model *m, const struct restore_params *p, uint32_t width,
                              uint32_t height, uint32_t channels, uint32_t depth, bool has_mask)
{
    struct restoration_setup s;
    struct restoration_shape shape;
    if (check_params(&s, m, p, NULL, NULL) ||
        restoration_shape_of(&shape, s.task, width, height, channels, depth, NULL))
        return SIZE_MAX;
    const size_t allocator = 1 << 16, kinds = p->output == OUTPUT_ALL ? 3 : 1;
    const size_t out_px = (size_t)shape.out.w * shape.out.h;
    const size_t parts[] = { restoration_block_bytes(&s, &shape),
                             (size_t)width * height * (channels * (depth / 8) + has_mask),
                             kinds * out_px * (shape.out.c + shape.has_alpha) * (shape.depth / 8),
                             operator_working_bytes(s.task->op, shape.out), allocator };
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (__builtin_add_overflow(total, parts[i], &total)) return SIZE_MAX;
    return total;
}

/* ---- rows ---- */

/* The row's input and output are in the device's memory. */
static bool stays(const struct tile_job *row)
{
    return restoration_is_on_device(row->restoration);
}

/* Places restorations whose first rows are here: on the device where no other engine gets rows of
 * theirs, else on the host. */
static void place_restorations(struct engine *e, struct tile_job *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct restoration *r = rows[i].restoration;
        if (restoration_is_placed(r)) continue;
        uint64_t here = 0;
        for (size_t k = i; k < n; k++)
            here += rows[k].restoration == r;
        restoration_place(r, e->image_pool, e->engines == 1 || here == restoration_tile_jobs(r));
    }
}

/* The network's input, in the memory that holds the images. */
static enum status extract_jobs(struct model *m, uint32_t stream_slot, struct tile_job *rows,
                                uint32_t n, struct error *err)
{
    struct sampler *sampler = &m->sampler;
    enum status s = ST_OK;
#pragma omp parallel for if (n > 1) num_threads(m->engine->facts.threads) schedule(dynamic)
    for (uint32_t i = 0; i < n; i++)
        if (!stays(&rows[i])) /* on the host it cannot fail */
            (void)restoration_extract(rows[i].restoration, rows[i].index, sampler_row(sampler, i),
                                      NULL);
    for (uint32_t i = 0; !s && i < n; i++) {
        if (!stays(&rows[i])) continue;
        s = restoration_send(rows[i].restoration, stream_slot, err);
        if (!s)
            s = restoration_extract(rows[i].restoration, rows[i].index,
                                    sampler_output(sampler, stream_slot, i), err);
    }
    return s;
}

/* Blends the rows of images that are on the device. */
static enum status put_placed(struct model *m, uint32_t stream_slot, struct tile_job *rows,
                              uint32_t n, struct error *err)
{
    struct image_pool *pool = m->engine->image_pool;
    const size_t floats = (size_t)3 * m->sampler.tile * m->sampler.tile;
    enum status s = ST_OK;
    bool any = false;
    for (uint32_t first = 0, end; !s && first < n; first = end) {
        for (end = first + 1; end < n && stays(&rows[end]) == stays(&rows[first]); end++) {
        }
        if (!stays(&rows[first])) continue;
        any = true;
        s = image_pool_check(pool, stream_slot, first, end - first,
                             sampler_output(&m->sampler, stream_slot, first), floats, err);
        for (uint32_t i = first; !s && i < end; i++)
            s = restoration_put_on_device(rows[i].restoration, rows[i].index, stream_slot, i,
                                          sampler_output(&m->sampler, stream_slot, i), err);
    }
    return s || !any ? s : image_pool_report(pool, stream_slot, n, err);
}

static enum status begin_execution(struct model *m, uint32_t stream_slot, struct tile_job *rows,
                                   uint32_t n, struct error *err)
{
    struct sampler *sampler = &m->sampler;
    sampler_turn(sampler, stream_slot);
    enum status s = extract_jobs(m, stream_slot, rows, n, err);
    for (uint32_t i = 0; !s && i < n; i++) {
        const struct restoration *r = rows[i].restoration;
        const struct tile_position at = restoration_tile_position(r, rows[i].index);
        s = sampler_draw(sampler, i, r->s.seed, at.sample, at.x0, at.y0, err);
        sampler_choose(sampler, i, r->s.h, r->s.condition);
        sampler_stay(sampler, i, stays(&rows[i]));
    }
    if (!s) s = sampler_begin(sampler, n, err);
    return s ? s : put_placed(m, stream_slot, rows, n, err);
}

/* The device has failed: these rows come back without a tile. */
static void lose(struct tile_job *rows, size_t n, enum status s)
{
    for (size_t i = 0; i < n; i++) {
        rows[i].status = s;
        restoration_count_back(rows[i].restoration, s);
    }
}

static enum status put_job(struct engine *e, const struct in_flight_batch *f, uint32_t i)
{
    const struct tile_job *row = &f->rows[i];
    if (!stays(row))
        return restoration_put(row->restoration, row->index,
                               sampler_row_of(&f->model->sampler, f->stream_slot, i), NULL);
    const enum status s = image_pool_is_bad(e->image_pool, f->stream_slot, i) ? ST_INTERNAL : ST_OK;
    restoration_count_back(row->restoration, s);
    return s;
}

enum status engine_end(struct engine *e, struct in_flight_batch *f, struct error *err)
{
    struct sampler *sampler = &f->model->sampler;
    enum status s = sampler_end(sampler, f->stream_slot, err);
    if (s) {
        lose(f->rows, f->n, s);
    } else {
#pragma omp parallel for if (f->n > 1) num_threads(e->facts.threads) schedule(dynamic)
        for (size_t i = 0; i < f->n; i++)
            f->rows[i].status = put_job(e, f, (uint32_t)i);
    }
    f->n = 0;
    return s;
}

/* With more rows than a batch execution holds, all executions except the last end here. */
enum status engine_begin(struct engine *e, struct model *m, struct tile_job *rows, size_t n,
                         struct in_flight_batch *out, struct error *err)
{
    if (n > e->facts.max_batch)
        return error_set(err, ST_INTERNAL, "a batch of %zu rows; max_batch = %u", n,
                         e->facts.max_batch);
    const size_t batch_rows = m->sampler.rows;
    struct in_flight_batch f = { .model = m, .stream_slot = e->stream_slot };
    enum status s = ST_OK;
    e->stream_slot = (e->stream_slot + 1) % m->sampler.stream_slots;
    place_restorations(e, rows, n);
    for (size_t i = 0; !s && i < n; i += f.n) {
        if (i > 0) s = engine_end(e, &f, err);
        f.rows = rows + i;
        f.n = n - i < batch_rows ? n - i : batch_rows;
        if (!s) {
            pthread_mutex_lock(&e->device);
            s = begin_execution(m, f.stream_slot, f.rows, (uint32_t)f.n, err);
            /* Nothing may use the memory of the lost rows any more. */
            if (s && e->backend->ops->device.finish)
                (void)e->backend->ops->device.finish(e->backend, NULL);
            pthread_mutex_unlock(&e->device);
        }
        if (s) lose(f.rows, n - i, s);
    }
    if (!s) *out = f;
    return s;
}

enum status engine_run(struct engine *e, struct model *m, struct tile_job *rows, size_t n,
                       struct error *err)
{
    struct in_flight_batch f = { 0 };
    enum status s = engine_begin(e, m, rows, n, &f, err);
    return s ? s : engine_end(e, &f, err);
}
