#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "server/limits.h"

enum type { TEXT, COUNT, SIZE, TIME };

static const struct option {
    const char *name, *standard, *help;
    enum type type;
    uint64_t min, max;
    size_t offset;
} options[CONFIG_COUNT] = {
#define OPTION(name, type, standard, min, max, help)                                               \
    { #name, standard, help, type, min, max, offsetof(struct config, name) },
#include "server/config.def"
#undef OPTION
};

const char *config_name(enum config_index i)
{
    return options[i].name;
}

const char *config_help(enum config_index i)
{
    return options[i].help;
}

const char *config_default(enum config_index i)
{
    return options[i].standard;
}

static enum status parse(uint64_t *v, const struct option *o, const char *text, struct error *err)
{
    switch (o->type) {
    case COUNT: return config_count(v, text, err);
    case SIZE: return config_size(v, text, err);
    case TIME: return config_duration(v, text, err);
    case TEXT: break;
    }
    return ST_INTERNAL;
}

static enum status set(struct config *c, size_t i, const char *value, enum config_source source,
                       struct error *err)
{
    const struct option *o = &options[i];
    char *field = (char *)c + o->offset;
    if (o->type == TEXT) {
        size_t n = strlen(value);
        if (n < o->min || n > o->max || n >= CONFIG_VALUE_MAX)
            return error_set(err, ST_BAD_PARAMETER, "%s has %zu bytes, not %" PRIu64 " to %" PRIu64,
                             o->name, n, o->min, o->max);
        memmove(field, value, n + 1);
    } else {
        uint64_t v = 0;
        struct error why = { 0 };
        if (parse(&v, o, value, &why))
            return error_set(err, ST_BAD_PARAMETER, "%s = %.80s: %.200s", o->name, value,
                             why.detail);
        if (v < o->min || v > o->max) {
            char low[32], high[32];
            if (o->type == TIME) {
                config_duration_text(low, sizeof low, o->min);
                config_duration_text(high, sizeof high, o->max);
            } else {
                (void)snprintf(low, sizeof low, "%" PRIu64, o->min);
                (void)snprintf(high, sizeof high, "%" PRIu64, o->max);
            }
            return error_set(err, ST_BAD_PARAMETER, "%s = %.80s is not within %s to %s", o->name,
                             value, low, high);
        }
        memcpy(field, &v, sizeof v);
    }
    c->source[i] = source;
    return ST_OK;
}

void config_init(struct config *c)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < CONFIG_COUNT; i++)
        (void)set(c, i, options[i].standard, FROM_DEFAULT, NULL);
}

enum config_index config_find(const char *name)
{
    char plain[CONFIG_NAME_MAX] = { 0 };
    for (size_t i = 0; name[i] && i + 1 < sizeof plain; i++)
        plain[i] = (char)(name[i] == '-' ? '_' : name[i]);
    for (size_t i = 0; i < CONFIG_COUNT; i++)
        if (strcmp(plain, options[i].name) == 0) return (enum config_index)i;
    return CONFIG_COUNT;
}

enum status config_set(struct config *c, const char *name, const char *value,
                       enum config_source source, struct error *err)
{
    enum config_index i = config_find(name);
    if (i == CONFIG_COUNT)
        return error_set(err, ST_BAD_PARAMETER, "there is no setting '%.64s'", name);
    return set(c, i, value, source, err);
}

enum status config_read_text(struct config *c, const char *text, size_t len, struct error *err)
{
    struct config_line line = { 0 };
    size_t at = 0;
    bool seen[CONFIG_COUNT] = { false };
    for (;;) {
        enum status s = config_next(&line, text, len, &at, err);
        if (s == ST_NOT_FOUND) return ST_OK;
        if (s) return s;
        struct error why = { 0 };
        s = config_set(c, line.name, line.value, FROM_FILE, &why);
        if (s) return error_set(err, s, "line %u: %.400s", line.number, why.detail);
        enum config_index i = config_find(line.name);
        if (seen[i])
            return error_set(err, ST_BAD_PARAMETER, "line %u: %s is set twice", line.number,
                             line.name);
        seen[i] = true;
    }
}

enum status config_read_file(struct config *c, const char *path, struct error *err)
{
    enum { FILE_MAX = 1 << 16 };
    FILE *f = fopen(path, "re");
    if (!f) return error_set(err, ST_IO, "%.200s: %s", path, strerror(errno));
    char *text = malloc(FILE_MAX + 1);
    size_t n = text ? fread(text, 1, FILE_MAX + 1, f) : 0;
    enum status s;
    if (!text || ferror(f))
        s = error_set(err, ST_IO, "%.200s cannot be read", path);
    else if (n > FILE_MAX)
        s = error_set(err, ST_BAD_PARAMETER, "%.200s has more than %d bytes", path, FILE_MAX);
    else {
        struct error why = { 0 };
        s = config_read_text(c, text, n, &why);
        if (s) error_set(err, s, "%.100s, %.380s", path, why.detail);
    }
    free(text);
    (void)fclose(f);
    return s;
}

enum status config_read_environment(struct config *c, const char *(*get)(const char *name),
                                    struct error *err)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        char name[CONFIG_NAME_MAX] = "DAVID_";
        for (size_t k = 0; options[i].name[k]; k++)
            name[6 + k] = (char)toupper((unsigned char)options[i].name[k]);
        const char *value = get(name);
        if (!value) continue;
        struct error why = { 0 };
        enum status s = set(c, i, value, FROM_ENVIRONMENT, &why);
        if (s) return error_set(err, s, "%s: %.400s", name, why.detail);
    }
    return ST_OK;
}

void config_resolve(struct config *c)
{
    if (c->threads == 0) {
        c->threads = limits_cpus("");
        c->source[CONFIG_threads] = FROM_MACHINE;
    }
    if (c->codec_threads == 0) {
        c->codec_threads = c->threads < 8 ? c->threads : 8;
        c->source[CONFIG_codec_threads] = FROM_MACHINE;
    }
    if (c->memory_budget == 0) {
        c->memory_budget = limits_memory_bytes("") / 2;
        c->source[CONFIG_memory_budget] = FROM_MACHINE;
    }
    /* Only the default is lowered; serve_run() refuses a value that was set. */
    uint64_t files = limits_files(c->max_connections + CONFIG_SPARE_FILES);
    if (files < c->max_connections + CONFIG_SPARE_FILES && files > CONFIG_SPARE_FILES + 8 &&
        c->source[CONFIG_max_connections] == FROM_DEFAULT) {
        c->max_connections = files - CONFIG_SPARE_FILES;
        c->source[CONFIG_max_connections] = FROM_MACHINE;
    }
}

void config_value_text(const struct config *c, enum config_index i, char *out, size_t cap)
{
    const struct option *o = &options[i];
    const char *field = (const char *)c + o->offset;
    uint64_t v = 0;
    if (o->type == TEXT) {
        (void)snprintf(out, cap, "%s", field);
        return;
    }
    memcpy(&v, field, sizeof v);
    if (o->type == SIZE)
        config_size_text(out, cap, v);
    else if (o->type == TIME)
        config_duration_text(out, cap, v);
    else
        (void)snprintf(out, cap, "%" PRIu64, v);
}

static const char *const sources[] = { "default", "file", "environment", "flag", "machine" };

void config_print(const struct config *c, FILE *f)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        char value[CONFIG_VALUE_MAX];
        config_value_text(c, i, value, sizeof value);
        (void)fprintf(f, "%s = %s  # %s\n", options[i].name, value, sources[c->source[i]]);
    }
}

void config_print_json(const struct config *c, FILE *f)
{
    json_t *all = json_object();
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        char value[CONFIG_VALUE_MAX];
        config_value_text(c, i, value, sizeof value);
        (void)json_object_set_new(
            all, options[i].name,
            json_pack("{s:s, s:s}", "value", value, "source", sources[c->source[i]]));
    }
    (void)json_dumpf(all, f, JSON_INDENT(2));
    (void)fputc('\n', f);
    json_decref(all);
}
