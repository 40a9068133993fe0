/* The metadata of a model file except its architecture (unet_arch.c). */
#include "proto/models/model_info.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/models/unet_arch.h"

enum { MAX_TEXT = 1 << 20, MAX_TILE = 4096 };
#define MAX_SIGMA 10.0
#define MAX_H     10.0
#define MAX_LEVEL 100.0

static enum status parse_text(json_t **out, const char *key, const char *text, struct error *err)
{
    json_error_t why;
    if (strlen(text) > MAX_TEXT)
        return error_set(err, ST_BAD_FILE, "%s: %zu bytes of JSON, more than %d", key, strlen(text),
                         MAX_TEXT);
    json_t *v = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!v) return error_set(err, ST_BAD_FILE, "%s is not JSON: %s", key, why.text);
    *out = v;
    return ST_OK;
}

/* Written so that a NaN fails. */
static enum status check_range(const double range[2], double at, double most, const char *key,
                               const char *task, struct error *err)
{
    if (!(range[0] >= 0 && range[1] <= most))
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: %s_range = [%g, %g] of %s is outside [0, %g]", key, range[0],
                         range[1], task, most);
    if (!(range[0] <= at && at <= range[1]))
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: %s_range = [%g, %g] of %s does not hold %s = %g", key,
                         range[0], range[1], task, key, at);
    return ST_OK;
}

static enum status check_task(const struct model_task *t, const struct unet_arch *arch,
                              struct error *err)
{
    size_t len = strnlen(t->name, TASK_NAME_MAX);
    if (len == 0 || len == TASK_NAME_MAX ||
        strspn(t->name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != len)
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: \"%.40s\" is not a name of at most %d of [a-z0-9_-]",
                         t->name, TASK_NAME_MAX - 1);
    /* Written so that a NaN fails. */
    if (!(t->sigma >= 0 && t->sigma <= MAX_SIGMA))
        return error_set(err, ST_BAD_FILE, "david.tasks: sigma = %g of %s is outside [0, %g]",
                         t->sigma, t->name, MAX_SIGMA);
    if (!(t->level >= 0 && t->level <= MAX_LEVEL))
        return error_set(err, ST_BAD_FILE, "david.tasks: level = %g of %s is outside [0, %g]",
                         t->level, t->name, MAX_LEVEL);
    enum status s = check_range(t->sigma_range, t->sigma, MAX_SIGMA, "sigma", t->name, err);
    if (!s) s = check_range(t->level_range, t->level, MAX_LEVEL, "level", t->name, err);
    if (s) return s;
    if (!(t->h >= 0 && t->h <= MAX_H))
        return error_set(err, ST_BAD_FILE, "david.tasks: h = %g of %s is outside [0, %g]", t->h,
                         t->name, MAX_H);
    if (t->label < -1 || (t->label >= 0 && (uint32_t)t->label >= arch->num_classes))
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: label = %d of %s, the model has %u classes", t->label,
                         t->name, arch->num_classes);
    if (arch->class_cond && t->label == -1)
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: %s needs a label, the model has %u classes", t->name,
                         arch->num_classes);
    return ST_OK;
}

static enum status check_info(const struct model_info *m, struct error *err)
{
    enum status s = unet_arch_check(&m->arch, err);
    if (s) return s;
    if (m->n_tasks > MODEL_MAX_TASKS)
        return error_set(err, ST_BAD_FILE, "david.tasks: %u tasks, more than %d", m->n_tasks,
                         MODEL_MAX_TASKS);
    if (m->role == ROLE_RESTORER && m->n_tasks == 0)
        return error_set(err, ST_BAD_FILE, "david.tasks: a restorer needs at least one task");
    for (uint32_t i = 0; i < m->n_tasks; i++) {
        s = check_task(&m->tasks[i], &m->arch, err);
        if (s) return s;
    }
    const uint32_t step = arch_side_unit(&m->arch);
    if (m->tile_size == 0 || m->tile_size > MAX_TILE || m->tile_size % step != 0)
        return error_set(err, ST_BAD_FILE,
                         "david.tile: size = %u is not a multiple of %u up to %d px", m->tile_size,
                         step, MAX_TILE);
    if (m->tile_margin >= m->tile_size)
        return error_set(err, ST_BAD_FILE, "david.tile: margin = %u is not below the size = %u",
                         m->tile_margin, m->tile_size);
    if (m->tile_overlap >= m->tile_size || m->tile_overlap % 2 != 0)
        return error_set(err, ST_BAD_FILE,
                         "david.tile: overlap = %u is not even and below the size = %u",
                         m->tile_overlap, m->tile_size);
    return ST_OK;
}

static enum status parse_number(double *out, const json_t *v, const char *task, const char *key,
                                struct error *err)
{
    if (!json_is_number(v))
        return error_set(err, ST_BAD_FILE, "david.tasks: %s of \"%.40s\" is %s", key, task,
                         v ? "not a number" : "missing");
    *out = json_number_value(v);
    return ST_OK;
}

/* "sigma_range": [0.02, 0.4]; both ends are `at` where the key is absent. */
static enum status parse_range(double out[2], const json_t *v, const char *task, const char *key,
                               double at, struct error *err)
{
    out[0] = out[1] = at;
    if (!v) return ST_OK;
    if (json_array_size(v) != 2)
        return error_set(err, ST_BAD_FILE, "david.tasks: %s of \"%.40s\" is not two numbers", key,
                         task);
    enum status s = ST_OK;
    for (size_t i = 0; !s && i < 2; i++)
        s = parse_number(&out[i], json_array_get(v, i), task, key, err);
    return s;
}

static enum status parse_task(struct model_task *t, const char *name, const json_t *object,
                              struct error *err)
{
    static const char *const known[] = { "sigma",       "h",     "label",
                                         "sigma_range", "level", "level_range" };
    const json_t *label = json_object_get(object, "label");
    const json_t *level = json_object_get(object, "level");
    size_t taken = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        taken += json_object_get(object, known[i]) != NULL;
    if (!json_is_object(object) || json_object_size(object) != taken)
        return error_set(err, ST_BAD_FILE,
                         "david.tasks: \"%.40s\" is not an object of sigma, h, label, sigma_range, "
                         "level and level_range",
                         name);
    if (strlen(name) >= TASK_NAME_MAX)
        return error_set(err, ST_BAD_FILE, "david.tasks: the name \"%.40s\" is longer than %d",
                         name, TASK_NAME_MAX - 1);
    enum status s = parse_number(&t->sigma, json_object_get(object, "sigma"), name, "sigma", err);
    if (!s) s = parse_number(&t->h, json_object_get(object, "h"), name, "h", err);
    if (!s && level) s = parse_number(&t->level, level, name, "level", err);
    if (!s)
        s = parse_range(t->sigma_range, json_object_get(object, "sigma_range"), name, "sigma_range",
                        t->sigma, err);
    if (!s)
        s = parse_range(t->level_range, json_object_get(object, "level_range"), name, "level_range",
                        t->level, err);
    if (s) return s;
    t->label = -1;
    if (label && !json_is_null(label)) {
        if (!json_is_integer(label) || json_integer_value(label) < 0 ||
            json_integer_value(label) > INT32_MAX)
            return error_set(err, ST_BAD_FILE, "david.tasks: label of \"%.40s\" is not a class",
                             name);
        t->label = (int32_t)json_integer_value(label);
    }
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    return ST_OK;
}

static enum status parse_tasks(struct model_info *m, const json_t *object, struct error *err)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object)) return error_set(err, ST_BAD_FILE, "david.tasks is not an object");
    if (json_object_size(object) > MODEL_MAX_TASKS)
        return error_set(err, ST_BAD_FILE, "david.tasks: %zu tasks, more than %d",
                         json_object_size(object), MODEL_MAX_TASKS);
    json_object_foreach ((json_t *)object, name, value) {
        enum status s = parse_task(&m->tasks[m->n_tasks], name, value, err);
        if (s) return s;
        m->n_tasks++;
    }
    return ST_OK;
}

static enum status parse_tile(struct model_info *m, const json_t *object, struct error *err)
{
    const json_t *size = json_object_get(object, "size");
    const json_t *overlap = json_object_get(object, "overlap");
    const json_t *margin = json_object_get(object, "margin");
    if (!json_is_object(object) || json_object_size(object) != (margin ? 3 : 2) ||
        !json_is_integer(size) || !json_is_integer(overlap) || (margin && !json_is_integer(margin)))
        return error_set(err, ST_BAD_FILE,
                         "david.tile is not {\"size\": N, \"overlap\": N} (and \"margin\": N)");
    if (json_integer_value(size) < 1 || json_integer_value(size) > MAX_TILE ||
        json_integer_value(overlap) < 0 || json_integer_value(overlap) > MAX_TILE)
        return error_set(err, ST_BAD_FILE,
                         "david.tile: size = %lld is outside [1, %d] px, or overlap = %lld below 0",
                         (long long)json_integer_value(size), MAX_TILE,
                         (long long)json_integer_value(overlap));
    m->tile_size = (uint32_t)json_integer_value(size);
    m->tile_overlap = (uint32_t)json_integer_value(overlap);
    const json_int_t px = margin ? json_integer_value(margin) : 0;
    if (px < 0 || px >= (json_int_t)m->tile_size)
        return error_set(err, ST_BAD_FILE, "david.tile: margin = %lld is not below the size = %u",
                         (long long)px, m->tile_size);
    m->tile_margin = (uint32_t)px;
    return ST_OK;
}

static enum status parse_word(const json_t *v, const char *key, const char *first,
                              const char *second, bool *is_second, struct error *err)
{
    const char *word = json_string_value(v);
    if (!word || (strcmp(word, first) != 0 && strcmp(word, second) != 0))
        return error_set(err, ST_BAD_FILE, "%s is neither \"%s\" nor \"%s\"", key, first, second);
    *is_second = strcmp(word, second) == 0;
    return ST_OK;
}

/* Reads the text of one metadata key. */
static enum status read_key(struct model_info *m, const char *key, const char *text,
                            struct error *err)
{
    json_t *v = NULL;
    bool second = false;
    char **keep = NULL;
    enum status s = parse_text(&v, key, text, err);
    if (s) return s;
    if (strcmp(key, "david.role") == 0) {
        s = parse_word(v, key, "restorer", "prior", &second, err);
        m->role = second ? ROLE_PRIOR : ROLE_RESTORER;
    } else if (strcmp(key, "david.schedule") == 0) {
        s = parse_word(v, key, "davi", "linear", &second, err);
        m->schedule = second ? SCHEDULE_LINEAR : SCHEDULE_DAVI;
    } else if (strcmp(key, "david.tasks") == 0) {
        s = parse_tasks(m, v, err);
    } else if (strcmp(key, "david.tile") == 0) {
        s = parse_tile(m, v, err);
    } else {
        keep = strcmp(key, "david.metrics") == 0 ? &m->metrics : &m->provenance;
        if (!json_is_object(v))
            s = error_set(err, ST_BAD_FILE, "%s is not a JSON object", key);
        else if (!(*keep = strdup(text)))
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory for %s", key);
    }
    json_decref(v);
    return s;
}

enum status model_info_read(struct model_info *out, const struct safetensors *st, struct error *err)
{
    static const char *const keys[] = { "david.role",     "david.tasks",      "david.tile",
                                        "david.schedule", "david.provenance", "david.metrics" };
    struct model_info m = { 0 };
    const char *arch = safetensors_metadata(st, "david.arch");
    bool is_model = arch != NULL;
    enum status s;
    if (!arch) arch = safetensors_metadata(st, "david.config");
    if (!arch)
        return error_set(err, ST_BAD_FILE,
                         "the metadata has no david.arch: not a model file of david (david convert "
                         "makes one)");
    s = unet_arch_parse(&m.arch, arch, err);
    if (s) return s;
    m.role = ROLE_PRIOR;
    m.tile_size = m.arch.image_size;
    m.tile_overlap = tile_overlap_default(m.tile_size);
    if (is_model && !safetensors_metadata(st, "david.role")) {
        s = error_set(err, ST_BAD_FILE, "the metadata has no david.role");
        goto done;
    }
    for (size_t i = 0; is_model && i < sizeof keys / sizeof keys[0]; i++) {
        const char *text = safetensors_metadata(st, keys[i]);
        s = text ? read_key(&m, keys[i], text, err) : ST_OK;
        if (s) goto done;
    }
    s = check_info(&m, err);
    if (s) goto done;
    *out = m;
    m = (struct model_info){ 0 };
done:
    model_info_done(&m);
    return s;
}

void model_info_done(struct model_info *info)
{
    free(info->provenance);
    free(info->metrics);
    info->provenance = info->metrics = NULL;
}

/* The shortest decimal that reads back as the same number; jansson would write 0.2 as
 * 0.20000000000000001. Hence the texts below are written by hand; no name in them needs an
 * escape. */
static void print_double(char out[32], double v)
{
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(out, 32, "%.*g", digits, v);
        if (strtod(out, NULL) == v) return;
    }
}

static char *tasks_text(const struct model_info *m)
{
    size_t size = 4 + (size_t)m->n_tasks * 384, used = 1;
    char *text = malloc(size);
    if (!text) return NULL;
    text[0] = '{';
    for (uint32_t i = 0; i < m->n_tasks; i++) {
        const struct model_task *t = &m->tasks[i];
        char sigma[32], h[32], label[16] = "null", low[32], high[32];
        print_double(sigma, t->sigma);
        print_double(h, t->h);
        if (t->label >= 0) (void)snprintf(label, sizeof label, "%d", t->label);
        used += (size_t)snprintf(text + used, size - used,
                                 "%s\"%s\": {\"sigma\": %s, \"h\": %s, \"label\": %s",
                                 i ? ", " : "", t->name, sigma, h, label);
        if (t->sigma_range[0] < t->sigma_range[1]) {
            print_double(low, t->sigma_range[0]);
            print_double(high, t->sigma_range[1]);
            used += (size_t)snprintf(text + used, size - used, ", \"sigma_range\": [%s, %s]", low,
                                     high);
        }
        if (t->level_range[1] > 0) { /* the level lies in this range */
            char level[32];
            print_double(level, t->level);
            print_double(low, t->level_range[0]);
            print_double(high, t->level_range[1]);
            used +=
                (size_t)snprintf(text + used, size - used,
                                 ", \"level\": %s, \"level_range\": [%s, %s]", level, low, high);
        }
        text[used++] = '}';
    }
    (void)snprintf(text + used, size - used, "}");
    return text;
}

static char *tile_text(const struct model_info *m)
{
    char *text = NULL;
    char margin[32] = "";
    if (m->tile_margin) (void)snprintf(margin, sizeof margin, ", \"margin\": %u", m->tile_margin);
    if (asprintf(&text, "{\"size\": %u, \"overlap\": %u%s}", m->tile_size, m->tile_overlap,
                 margin) < 0)
        return NULL;
    return text;
}

static enum status add(struct model_metadata *m, const char *key, char *text, struct error *err)
{
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %s", key);
    m->texts[m->n] = text;
    m->meta[m->n++] = (struct st_meta){ key, text };
    return ST_OK;
}

enum status model_info_metadata(struct model_metadata *out, const struct model_info *info,
                                struct error *err)
{
    struct model_metadata m = { 0 };
    enum status s = check_info(info, err);
    if (s) return s;
    s = add(&m, "david.arch", unet_arch_json(&info->arch), err);
    if (!s)
        s = add(&m, "david.role", strdup(info->role == ROLE_PRIOR ? "\"prior\"" : "\"restorer\""),
                err);
    if (!s && info->n_tasks) s = add(&m, "david.tasks", tasks_text(info), err);
    if (!s) s = add(&m, "david.tile", tile_text(info), err);
    if (!s)
        s = add(&m, "david.schedule",
                strdup(info->schedule == SCHEDULE_LINEAR ? "\"linear\"" : "\"davi\""), err);
    if (!s && info->provenance) s = add(&m, "david.provenance", strdup(info->provenance), err);
    if (!s && info->metrics) s = add(&m, "david.metrics", strdup(info->metrics), err);
    if (s) {
        model_metadata_done(&m);
        return s;
    }
    *out = m;
    return ST_OK;
}

void model_metadata_done(struct model_metadata *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->texts[i]);
    *m = (struct model_metadata){ 0 };
}
