#include "proto/messages/messages.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/query.h"

size_t base64_length(size_t n)
{
    return (n + 2) / 3 * 4;
}

void base64_encode(char *out, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = bytes;
    for (; n >= 3; n -= 3, b += 3) {
        uint32_t v = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = digits[v >> 6 & 63];
        *out++ = digits[v & 63];
    }
    if (n == 0) return;
    uint32_t v = (uint32_t)b[0] << 16 | (n == 2 ? (uint32_t)b[1] << 8 : 0);
    *out++ = digits[v >> 18];
    *out++ = digits[v >> 12 & 63];
    *out++ = (char)(n == 2 ? digits[v >> 6 & 63] : '=');
    *out = '=';
}

/* A text from outside as a JSON string: bytes that no JSON may hold become '?'. */
static json_t *text_value(const char *text)
{
    if (!text) return json_null();
    json_t *v = json_string(text);
    if (v) return v;
    char *copy = strdup(text);
    if (!copy) return NULL;
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p >= 0x80 || (unsigned char)*p < 0x20) *p = '?';
    v = json_string(copy);
    free(copy);
    return v;
}

static json_t *number_value(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* null where a task has no level. */
static json_t *level_value(double level)
{
    return level > 0 ? number_value(level) : json_null();
}

/* Dumps and drops `v`; NULL in, NULL out. Into memory of our own: where the buffer of jansson 2.14 cannot grow, json_dumps
 * leaves out a key and calls that success. */
static char *dumped(size_t *len, json_t *v)
{
    enum { FLAGS = JSON_COMPACT | JSON_REAL_PRECISION(9) };
    size_t n = v ? json_dumpb(v, NULL, 0, FLAGS) : 0;
    char *text = n ? malloc(n + 1) : NULL;
    if (text && json_dumpb(v, text, n, FLAGS) != n) {
        free(text);
        text = NULL;
    }
    json_decref(v);
    if (!text) return NULL;
    text[n] = '\0';
    *len = n;
    return text;
}

char *message_problem(size_t *len, enum status s, const char *detail, const char *request_id)
{
    char type[64];
    (void)snprintf(type, sizeof type, "urn:david:problem:%s", status_name(s));
    return dumped(len, json_pack("{s:s, s:s, s:i, s:o, s:o}", "type", type, "title",
                                 status_title(s), "status", status_http(s), "detail",
                                 text_value(detail), "request_id", text_value(request_id)));
}

/* `"<base64>"` or `null` at p; returns the end. */
static char *put_image(char *p, const struct message_image *image)
{
    if (!image->bytes) return stpcpy(p, "null");
    *p++ = '"';
    base64_encode(p, image->bytes, image->len);
    p += base64_length(image->len);
    *p++ = '"';
    return p;
}

char *message_restored(size_t *len, const struct message_restored *m)
{
    char seed[24];
    (void)snprintf(seed, sizeof seed, "%" PRIu64, m->seed);
    size_t head_len = 0;
    char *head =
        dumped(&head_len,
               json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:i, s:i, s:o, s:o, s:o}",
                         "request_id", text_value(m->request_id), "model", text_value(m->model),
                         "task", text_value(m->task), "seed", seed, "h", number_value(m->h),
                         "sigma", number_value(m->sigma), "level", level_value(m->level), "width",
                         (int)m->width, "height", (int)m->height, "std_scale",
                         number_value(m->std_scale), "residual_rms", number_value(m->residual_rms),
                         "residual_expected", number_value(m->residual_expected)));
    if (!head) return NULL;
    /* The images are written behind the small values by hand: a JSON tree would hold each of them twice more. */
    size_t cap = head_len + 64 + base64_length(m->mean.len) + base64_length(m->std.len);
    for (size_t i = 0; i < m->n_images; i++)
        cap += base64_length(m->images[i].len) + 8;
    char *text = malloc(cap), *p = text;
    if (text) {
        memcpy(p, head, head_len - 1); /* without the closing brace */
        p = stpcpy(p + head_len - 1, ",\"images\":[");
        for (size_t i = 0; i < m->n_images; i++) {
            if (i) *p++ = ',';
            p = put_image(p, &m->images[i]);
        }
        p = put_image(stpcpy(p, "],\"mean\":"), &m->mean);
        p = put_image(stpcpy(p, ",\"std\":"), &m->std);
        *p++ = '}';
        *p = '\0';
        *len = (size_t)(p - text);
    }
    free(head);
    return text;
}

char *message_version(size_t *len, const struct message_version *v)
{
    return dumped(len, json_pack("{s:s, s:o, s:o, s:o, s:o, s:i, s:o}", "name", "david", "version",
                                 text_value(v->version), "backend", text_value(v->backend), "dtype",
                                 text_value(v->dtype), "isa", text_value(v->isa), "threads",
                                 v->threads, "reason", text_value(v->reason)));
}

/* JSON that was read before: what does not parse now has no memory to, and is NULL. */
static json_t *parsed_again(const char *text)
{
    return text ? json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL) : json_null();
}

static json_t *range_value(const double range[2])
{
    return json_pack("[o, o]", number_value(range[0]), number_value(range[1]));
}

static json_t *tasks_value(const struct model_info *info)
{
    json_t *tasks = json_object();
    for (uint32_t i = 0; tasks && i < info->n_tasks; i++) {
        const struct model_task *t = &info->tasks[i];
        const bool has_level = t->level > 0;
        json_t *v = json_pack(
            "{s:o, s:o, s:o, s:o, s:o, s:o}", "sigma", number_value(t->sigma), "sigma_range",
            range_value(t->sigma_range), "level", level_value(t->level), "level_range",
            has_level ? range_value(t->level_range) : json_null(), "h", number_value(t->h), "label",
            t->label < 0 ? json_null() : json_integer(t->label));
        if (json_object_set_new(tasks, t->name, v)) {
            json_decref(tasks);
            tasks = NULL;
        }
    }
    return tasks;
}

static json_t *model_value(const struct message_model *m)
{
    char *arch = unet_arch_json(&m->info->arch);
    if (!arch) return NULL;
    json_t *v = json_pack(
        "{s:o, s:o, s:o, s:b, s:s, s:o, s:{s:i, s:i, s:i}, s:s, s:o, s:o, s:o}", "name",
        text_value(m->name), "version", text_value(m->version), "digest", text_value(m->digest),
        "default", (int)m->is_default, "role",
        m->info->role == ROLE_RESTORER ? "restorer" : "prior", "tasks", tasks_value(m->info),
        "tile", "size", (int)m->info->tile_size, "overlap", (int)m->info->tile_overlap, "margin",
        (int)m->info->tile_margin, "schedule",
        m->info->schedule == SCHEDULE_DAVI ? "davi" : "linear", "arch", parsed_again(arch),
        "provenance", parsed_again(m->info->provenance), "metrics", parsed_again(m->info->metrics));
    free(arch);
    return v;
}

char *message_models(size_t *len, const struct message_model *models, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++)
        if (json_array_append_new(list, model_value(&models[i]))) {
            json_decref(list);
            list = NULL;
        }
    return dumped(len, list ? json_pack("{s:o}", "models", list) : NULL);
}

char *message_health(size_t *len, const char *status)
{
    return dumped(len, json_pack("{s:o}", "status", text_value(status)));
}
