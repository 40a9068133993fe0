#include "server/restore/parameters.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "proto/messages/config_text.h"
#include "proto/messages/query.h"
#include "proto/utf8.h"

static const char *const outputs[] = {
    [OUTPUT_IMAGE] = "image", [OUTPUT_MEAN] = "mean", [OUTPUT_STD] = "std", [OUTPUT_ALL] = "all"
};

void parameters_init(struct parameters *p)
{
    *p = (struct parameters){ .h = -1 };
}

static enum status bad(struct error *err, const char *name, const char *value, const char *want)
{
    return error_set(err, ST_BAD_PARAMETER, "%s = '%.40s' is not %s", name, value, want);
}

static enum status set_task(struct parameters *p, const char *v, struct error *err)
{
    if (v[0] == '\0' || strlen(v) >= sizeof p->task)
        return error_set(err, ST_UNKNOWN_TASK, "there is no task '%.40s'", v);
    memcpy(p->task, v, strlen(v) + 1);
    p->has_task = true;
    return ST_OK;
}

static enum status set_model(struct parameters *p, const char *v, struct error *err)
{
    if (v[0] == '\0' || strlen(v) >= sizeof p->model)
        return error_set(err, ST_UNKNOWN_MODEL, "there is no model '%.40s'; /v1/models lists them",
                         v);
    memcpy(p->model, v, strlen(v) + 1);
    p->has_model = true;
    return ST_OK;
}

static enum status set_seed(struct parameters *p, const char *v, struct error *err)
{
    if (config_count(&p->seed, v, NULL))
        return bad(err, "seed", v, "a whole number from 0 to 2^64-1");
    p->has_seed = true;
    return ST_OK;
}

/* A decimal number, and finite. */
static bool read_number(double *out, const char *v)
{
    char *end;
    const double n = strtod(v, &end);
    bool is_decimal = v[0] != '\0' && strspn(v, "0123456789.eE+-") == strlen(v);
    if (!is_decimal || *end != '\0' || !isfinite(n)) return false;
    *out = n;
    return true;
}

static enum status set_h(struct parameters *p, const char *v, struct error *err)
{
    double h;
    if (!read_number(&h, v) || h < 0 || h > 10) return bad(err, "h", v, "a number from 0 to 10");
    p->h = h;
    return ST_OK;
}

/* The range that a model was trained for is narrower; the engine checks it. */
static enum status set_sigma(struct parameters *p, const char *v, struct error *err)
{
    double sigma;
    if (!read_number(&sigma, v) || sigma <= 0 || sigma > 10)
        return bad(err, "sigma", v, "a number above 0 and up to 10");
    p->sigma = sigma;
    return ST_OK;
}

static enum status set_level(struct parameters *p, const char *v, struct error *err)
{
    double level;
    if (!read_number(&level, v) || level <= 0 || level > 100)
        return bad(err, "level", v, "a number above 0 and up to 100");
    p->level = level;
    return ST_OK;
}

static enum status set_samples(struct parameters *p, const char *v, struct error *err)
{
    uint64_t n;
    if (config_count(&n, v, NULL) || n == 0) return bad(err, "samples", v, "a whole number from 1");
    p->samples = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    return ST_OK;
}

static enum status set_output(struct parameters *p, const char *v, struct error *err)
{
    for (unsigned i = 0; i < sizeof outputs / sizeof outputs[0]; i++)
        if (strcmp(v, outputs[i]) == 0) {
            p->output = (enum output_kind)i;
            p->has_output = true;
            return ST_OK;
        }
    return bad(err, "output", v, "one of image, mean, std, all");
}

static enum status set_deadline(struct parameters *p, const char *v, struct error *err)
{
    uint64_t ms;
    if (config_count(&ms, v, NULL) || ms == 0 || ms > 86400000)
        return bad(err, "deadline_ms", v, "a whole number from 1 to 86400000");
    p->deadline_ms = ms;
    return ST_OK;
}

static const struct {
    const char *name;
    enum status (*set)(struct parameters *p, const char *value, struct error *err);
} names[] = {
    { "task", set_task },
    { "model", set_model },
    { "seed", set_seed },
    { "h", set_h },
    { "sigma", set_sigma },
    { "level", set_level },
    { "samples", set_samples },
    { "output", set_output },
    { "deadline_ms", set_deadline },
};

enum status parameters_set(struct parameters *p, const char *name, size_t name_len,
                           const char *value, size_t value_len, struct error *err)
{
    char text[128];
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i].name) != name_len || memcmp(name, names[i].name, name_len) != 0)
            continue;
        if (p->given & 1u << i)
            return error_set(err, ST_BAD_PARAMETER, "the parameter %s is given more than once",
                             names[i].name);
        p->given |= 1u << i;
        if (value_len >= sizeof text || !text_is_plain(value, value_len))
            return error_set(err, ST_BAD_PARAMETER,
                             "the value of %s is longer than %zu bytes or not plain text",
                             names[i].name, sizeof text - 1);
        memcpy(text, value, value_len);
        text[value_len] = '\0';
        return names[i].set(p, text, err);
    }
    bool is_plain = text_is_plain(name, name_len);
    return error_set(err, ST_BAD_PARAMETER,
                     "there is no parameter '%.*s'; there are task, model, seed, h, sigma, level, "
                     "samples, output "
                     "and deadline_ms",
                     is_plain ? (int)(name_len < 40 ? name_len : 40) : 1, is_plain ? name : "?");
}

enum status parameters_read_query(struct parameters *p, const char *query, struct error *err)
{
    struct query q;
    enum status s = query_parse(&q, query, strlen(query), err);
    for (size_t i = 0; !s && i < q.n; i++)
        s = parameters_set(p, q.params[i].name, strlen(q.params[i].name), q.params[i].value,
                           strlen(q.params[i].value), err);
    return s;
}

enum status parameters_complete(struct parameters *p, bool wants_json, uint64_t max_samples,
                                struct error *err)
{
    enum { DEFAULT_SAMPLES = 8 };
    if (!p->has_output) p->output = wants_json ? OUTPUT_ALL : OUTPUT_IMAGE;
    if (p->samples > max_samples)
        return error_set(err, ST_TOO_MANY_SAMPLES,
                         "samples = %" PRIu32 " is more than max_samples = %" PRIu64, p->samples,
                         max_samples);
    if (p->output == OUTPUT_IMAGE && p->samples > 1)
        return error_set(err, ST_BAD_PARAMETER,
                         "samples = %" PRIu32 " with output = image, which returns one",
                         p->samples);
    if ((p->output == OUTPUT_MEAN || p->output == OUTPUT_STD) && p->samples == 1)
        return error_set(err, ST_BAD_PARAMETER,
                         "samples = 1 with output = %s, which needs 2 or more", outputs[p->output]);
    if (p->samples == 0)
        p->samples = p->output == OUTPUT_IMAGE       ? 1
                     : max_samples < DEFAULT_SAMPLES ? (uint32_t)max_samples
                                                     : DEFAULT_SAMPLES;
    if (!p->has_seed && getrandom(&p->seed, sizeof p->seed, 0) != (ssize_t)sizeof p->seed)
        return error_set(err, ST_INTERNAL, "no random seed: %s", strerror(errno));
    p->has_seed = true;
    return ST_OK;
}

enum image_format accept_choose(bool *wants_json, const char *accept)
{
    enum { JSON = IMAGE_FORMAT_COUNT, TYPES };
    double best[TYPES] = { 0 };
    for (const char *p = accept; *p;) {
        size_t n = strcspn(p, ",");
        const char *end = p + n, *type = p + strspn(p, " \t");
        size_t len = 0;
        while (type + len < end && !strchr("; \t", type[len]))
            len++;
        const char *q = memmem(p, n, "q=", 2);
        double weight = q ? strtod(q + 2, NULL) : 1;
        for (int i = 0; i < TYPES; i++) {
            const char *offered = i == JSON ? "application/json" : image_formats[i].media_type;
            if (strlen(offered) == len && strncasecmp(type, offered, len) == 0 && weight > best[i])
                best[i] = weight;
        }
        p = *end ? end + 1 : end;
    }
    int format = 0;
    for (int i = 1; i < IMAGE_FORMAT_COUNT; i++)
        if (best[i] > best[format]) format = i;
    *wants_json = best[JSON] > best[format];
    return (enum image_format)format;
}
