/* Models: the whole file is checked, then its weights are packed for the back end. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/davi/restoration_device.h"
#include "engine/internal.h"
#include "engine/nets/unet.h"

/* ---- the file ---- */

/* A private copy, read at once: a later write to the file, or its truncation, cannot change bytes
 * that have been checked. */
static enum status read_whole(void **bytes, size_t *len, const char *path, struct error *err)
{
    enum status s = ST_OK;
    char *all = NULL;
    struct stat st;
    size_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        s = error_set(err, ST_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        s = error_set(err, ST_BAD_FILE, "%s: not a file with anything in it", path);
        goto done;
    }
    all = malloc((size_t)st.st_size);
    if (!all) {
        s = error_set(err, ST_NO_MEMORY_NOW, "%s: no memory for its %lld bytes", path,
                      (long long)st.st_size);
        goto done;
    }
    while (got < (size_t)st.st_size) {
        ssize_t n = read(fd, all + got, (size_t)st.st_size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            s = error_set(err, n ? ST_IO : ST_BAD_FILE, "%s: %s", path,
                          n ? strerror(errno) : "it became shorter while it was read");
            goto done;
        }
        got += (size_t)n;
    }
    *bytes = all;
    *len = got;
    all = NULL;
done:
    free(all);
    if (fd >= 0) close(fd);
    return s;
}

enum status model_file_open(struct model_file *out, const char *path, struct error *err)
{
    struct model_file f = { 0 };
    enum status s = read_whole(&f.bytes, &f.len, path, err);
    if (s) goto done;
    s = safetensors_open_memory(&f.st, f.bytes, f.len, path, err);
    if (s) goto done;
    s = model_info_read(&f.info, f.st, err);
    if (s) goto done;
    *out = f;
    memset(&f, 0, sizeof f);
done:
    model_file_close(&f);
    return s;
}

void model_file_close(struct model_file *f)
{
    model_info_done(&f->info);
    safetensors_close(f->st);
    free(f->bytes);
    memset(f, 0, sizeof *f);
}

/* ---- its weights ---- */

static bool has_shape(const struct st_tensor *t, const struct param_desc *d)
{
    if (t->dims != d->dims || t->count != d->count) return false;
    for (uint32_t i = 0; i < d->dims; i++)
        if (t->shape[i] != d->shape[i]) return false;
    return true;
}

/* A NaN or an infinity in one weight would spoil every result. */
static enum status check_finite(const struct st_tensor *t, struct error *err)
{
    float v[1024];
    const size_t chunk = sizeof v / sizeof *v, size = dtype_size(t->dtype);
    for (size_t at = 0; at < t->count; at += chunk) {
        size_t n = t->count - at < chunk ? t->count - at : chunk;
        dtype_to_f32(v, (const char *)t->data + at * size, t->dtype, n);
        for (size_t i = 0; i < n; i++)
            if (!isfinite(v[i]))
                return error_set(err, ST_BAD_FILE, "tensor %s: value %zu is not finite", t->name,
                                 at + i);
    }
    return ST_OK;
}

static const struct param_desc *find_param(const struct graph *g, const char *name)
{
    for (uint32_t i = 0; i < g->n_params; i++)
        if (strcmp(g->params[i].name, name) == 0) return &g->params[i];
    return NULL;
}

enum { SHAPE_TEXT = 96 };

/* "6, 32, 3, 3" */
static void shape_text(char out[SHAPE_TEXT], const uint64_t *shape, uint32_t dims)
{
    size_t n = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < dims && n < SHAPE_TEXT; i++)
        n += (size_t)snprintf(out + n, SHAPE_TEXT - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)shape[i]);
}

enum status file_check(const struct safetensors *st, const struct graph *g, struct error *err)
{
    for (uint32_t i = 0; i < g->n_params; i++)
        if (!safetensors_find(st, g->params[i].name))
            return error_set(err, ST_BAD_FILE, "tensor %s is missing", g->params[i].name);
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        const struct param_desc *d = find_param(g, t->name);
        if (!d)
            return error_set(err, ST_BAD_FILE, "tensor %.80s is not of this architecture", t->name);
        if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16 && t->dtype != DT_F64)
            return error_set(err, ST_BAD_FILE, "tensor %s is of type %s, not of floats", t->name,
                             dtype_name(t->dtype));
        if (!has_shape(t, d)) {
            char is[SHAPE_TEXT], should_be[SHAPE_TEXT];
            uint64_t shape[PARAM_MAX_DIMS];
            for (uint32_t k = 0; k < d->dims; k++)
                shape[k] = d->shape[k];
            shape_text(is, t->shape, t->dims);
            shape_text(should_be, shape, d->dims);
            return error_set(err, ST_BAD_FILE, "tensor %s has the shape [%s], not [%s]", t->name,
                             is, should_be);
        }
        enum status s = check_finite(t, err);
        if (s) return s;
    }
    return ST_OK;
}

enum status file_param_load(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    const struct file_source *src = ctx;
    const struct st_tensor *t = safetensors_find(src->st, d->name);
    if (!t || t->count != d->count)
        return error_set(err, ST_BAD_FILE, "tensor %s is missing", d->name);
    pthread_mutex_unlock(&src->engine->device);
    dtype_to_f32(dst, t->data, t->dtype, t->count);
    pthread_mutex_lock(&src->engine->device);
    return ST_OK;
}

/* ---- the model ---- */

/* Fills in the table's level where the file has none, and checks the range. */
static enum status check_level(struct model_task *t, struct error *err)
{
    const struct task_desc *desc = task_find(t->name);
    struct error why = { 0 };
    if (t->level_range[1] == 0) t->level = t->level_range[0] = t->level_range[1] = desc->level;
    enum status s = task_check_level(desc, t->level_range[0], &why);
    if (!s) s = task_check_level(desc, t->level_range[1], &why);
    return s ? error_set(err, ST_BAD_FILE, "david.tasks: %s", why.detail) : ST_OK;
}

/* Also fills in the levels that the file leaves out. */
static enum status check_tasks(struct model_info *info, struct error *err)
{
    if (info->n_tasks == 0)
        return error_set(err, ST_BAD_FILE, "the model offers no task (role %s): it cannot restore",
                         info->role == ROLE_PRIOR ? "prior" : "restorer");
    for (uint32_t i = 0; i < info->n_tasks; i++) {
        struct model_task *t = &info->tasks[i];
        if (!task_find(t->name))
            return error_set(err, ST_BAD_FILE, "david.tasks: there is no task \"%s\"", t->name);
        enum status s = check_level(t, err);
        if (s) return s;
        bool fits = info->arch.class_cond
                        ? t->label >= 0 && (uint32_t)t->label < info->arch.num_classes
                        : t->label == -1;
        if (!fits)
            return error_set(err, ST_BAD_FILE, "david.tasks: label %d of task %s, of %u classes",
                             t->label, t->name, info->arch.num_classes);
    }
    return ST_OK;
}

/* The program and the sampler's memory, for the largest pass whose memory can be allocated. */
static enum status make_program(struct model *m, const struct graph *g,
                                const struct param_source *src, struct program_options *o,
                                struct error *err)
{
    struct backend *b = m->engine->backend;
    enum status s = program_new(&m->program, b, g, src, o, err);
    while (!s) {
        struct error why = { 0 };
        const uint32_t rows = program_rows(m->program);
        s = sampler_init(&m->sampler, b, m->program, &m->info, &why);
        if (!s) break;
        if (s != ST_NO_MEMORY_NOW || rows == 1 || !b->ops->device.batch_rows ||
            b->ops->device.batch_rows(b, rows / 2) == rows)
            return error_set(err, s, "%s", why.detail);
        o->most_rows = b->ops->device.batch_rows(b, rows / 2);
        program_free(m->program);
        m->program = NULL;
        s = program_new(&m->program, b, g, src, o, err);
    }
    return s;
}

/* With the first model, so before any batch can read e->image_pool. Where the back end holds no images
 * nothing is written: batches of other models run beside the load of this one. */
static enum status open_image_pool(struct engine *e, struct error *err)
{
    struct image_pool *pool = NULL;
    enum status s = image_pool_open(&pool, e->backend, e->facts.max_batch, err);
    if (!s && pool) s = restorations_warm(pool, err);
    if (s)
        image_pool_close(pool);
    else if (pool)
        e->image_pool = pool;
    return s;
}

/* Uses m->info; the source may release the engine's lock while it reads. */
static enum status pack(struct model *m, const struct graph *g, const struct param_source *src,
                        struct error *err)
{
    enum status s = conditions_init(&m->conditions, &m->info, err);
    if (s) return s;
    struct program_options o = { .dtype = m->engine->dtype,
                                 .conditions = m->conditions.all,
                                 .n_conditions = m->conditions.n,
                                 .output_channels = 3 };
    pthread_mutex_lock(&m->engine->device);
    s = m->engine->image_pool ? ST_OK : open_image_pool(m->engine, err);
    if (!s) s = make_program(m, g, src, &o, err);
    pthread_mutex_unlock(&m->engine->device);
    return s;
}

static struct model *model_alloc(struct engine *e, struct error *err)
{
    struct model *m = calloc(1, sizeof *m);
    if (m)
        m->engine = e;
    else
        error_set(err, ST_NO_MEMORY_NOW, "no memory for a model");
    return m;
}

enum status model_load(struct model **out, struct engine *e, const char *path, struct error *err)
{
    struct model *m = NULL;
    struct graph *g = NULL;
    struct model_file f = { 0 };
    enum status s = model_file_open(&f, path, err);
    if (s) goto done;
    s = check_tasks(&f.info, err);
    if (s) goto done;
    s = unet_build(&g, &f.info.arch, f.info.tile_size, f.info.tile_size, err);
    if (s) goto done;
    s = file_check(f.st, g, err);
    if (s) goto done;
    m = model_alloc(e, err);
    if (!m) {
        s = ST_NO_MEMORY_NOW;
        goto done;
    }
    s = digest_bytes(m->digest, f.bytes, f.len, err);
    if (s) goto done;
    m->info = f.info; /* with the ownership of its texts */
    memset(&f.info, 0, sizeof f.info);
    struct file_source src = { e, f.st };
    s = pack(m, g, &(struct param_source){ file_param_load, &src }, err);
    if (s) goto done;
    *out = m;
    m = NULL;
done:
    model_free(m);
    graph_free(g);
    model_file_close(&f);
    return s;
}

enum status model_hash(struct model **out, struct engine *e, const struct unet_arch *arch,
                       uint64_t seed, struct error *err)
{
    struct model *m = NULL;
    struct graph *g = NULL;
    char text[160];
    enum status s = unet_build(&g, arch, arch->image_size, arch->image_size, err);
    if (s) goto done;
    m = model_alloc(e, err);
    if (!m) {
        s = ST_NO_MEMORY_NOW;
        goto done;
    }
    m->info.arch = *arch;
    m->info.role = ROLE_RESTORER;
    m->info.tile_size = arch->image_size;
    m->info.tile_overlap = tile_overlap_default(arch->image_size);
    for (int i = 0; i < TASK_COUNT; i++) {
        struct model_task *t = &m->info.tasks[m->info.n_tasks++];
        (void)snprintf(t->name, sizeof t->name, "%s", task_table[i].name);
        t->sigma = t->sigma_range[0] = t->sigma_range[1] = task_table[i].sigma;
        t->level = t->level_range[0] = t->level_range[1] = task_table[i].level;
        t->h = task_table[i].h;
        t->label = arch->class_cond ? 0 : -1;
    }
    /* Without a file the digest is of the parameter count and the seed. */
    int len = snprintf(text, sizeof text, "hash weights %llu %llu",
                       (unsigned long long)graph_param_count(g), (unsigned long long)seed);
    s = digest_bytes(m->digest, text, (size_t)len, err);
    if (s) goto done;
    s = pack(m, g, &(struct param_source){ hash_param_load, &seed }, err);
    if (s) goto done;
    *out = m;
    m = NULL;
done:
    model_free(m);
    graph_free(g);
    return s;
}

void model_free(struct model *m)
{
    if (!m) return;
    pthread_mutex_lock(&m->engine->device);
    sampler_done(&m->sampler);
    program_free(m->program);
    pthread_mutex_unlock(&m->engine->device);
    conditions_done(&m->conditions);
    model_info_done(&m->info);
    free(m);
}

const struct model_info *model_describe(const struct model *m)
{
    return &m->info;
}

const char *model_digest(const struct model *m)
{
    return m->digest;
}

uint32_t model_rows(const struct model *m)
{
    return program_rows(m->program);
}

size_t model_bytes(const struct model *m)
{
    return program_bytes(m->program) + sampler_bytes(&m->sampler);
}

/* Runs each size of a batch execution on black tiles, as often as it takes to load its kernels and
 * to record it. */
enum status model_warm(struct model *m, struct error *err)
{
    enum { LOADED_AND_RECORDED = 2 };
    struct sampler *sampler = &m->sampler;
    const struct backend *b = m->engine->backend;
    const size_t floats = (size_t)3 * m->info.tile_size * m->info.tile_size;
    enum status s = ST_OK;
    pthread_mutex_lock(&m->engine->device);
    sampler_turn(sampler, 0);
    for (uint32_t size, n = 1; !s && n <= sampler->rows; n = size + 1) {
        size = b->ops->device.batch_rows ? b->ops->device.batch_rows(m->engine->backend, n)
                                         : sampler->rows;
        if (size > sampler->rows) size = sampler->rows;
        const int times = b->ops->device.execution_begin ? LOADED_AND_RECORDED : 1;
        for (int k = 0; !s && k < times; k++) {
            memset(sampler_row(sampler, 0), 0, size * floats * sizeof(float));
            for (uint32_t i = 0; !s && i < size; i++) {
                s = sampler_draw(sampler, i, 0, 0, 0, 0, err);
                sampler_choose(sampler, i, 0, 0);
            }
            if (!s) s = sampler_run(sampler, size, err);
        }
    }
    pthread_mutex_unlock(&m->engine->device);
    return s;
}

const struct model_task *model_find_task(const struct model *m, const char *task)
{
    for (uint32_t i = 0; i < m->info.n_tasks; i++)
        if (strcmp(m->info.tasks[i].name, task) == 0) return &m->info.tasks[i];
    return NULL;
}
