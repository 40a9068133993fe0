#include "proto/messages/messages.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/json.h"

/* Length of the base64 text of n bytes, without a terminator. The n bytes are in memory, so the
 * result does not overflow. */
static size_t base64_length(size_t n)
{
    return (n + 2) / 3 * 4;
}

/* Writes base64_length(n) characters and a terminator; returns the end. EVP_EncodeBlock counts in
 * int: longer input is encoded in pieces of a multiple of 3 bytes, of which only the last is
 * padded. */
static char *put_base64(char *to, const unsigned char *bytes, size_t n)
{
    enum { PIECE_BYTES = 3 << 20 };
    for (size_t at = 0; at < n; at += PIECE_BYTES) {
        const size_t piece = n - at < PIECE_BYTES ? n - at : PIECE_BYTES;
        to += EVP_EncodeBlock((unsigned char *)to, bytes + at, (int)piece);
    }
    return to;
}

char *message_problem(size_t *len, enum status s, const char *detail, const char *request_id)
{
    char type[64];
    (void)snprintf(type, sizeof type, "urn:david:problem:%s", status_name(s));
    return json_to_text(len,
                        json_pack("{s:s, s:s, s:i, s:o, s:o}", "type", type, "title",
                                  status_title(s), "status", status_http(s), "detail",
                                  json_of_text(detail), "request_id", json_of_text(request_id)));
}

/* Writes `"<base64>"` or `null` at p; returns the end. */
static char *put_image(char *p, const struct message_image *image)
{
    if (!image->bytes) return stpcpy(p, "null");
    *p++ = '"';
    p = put_base64(p, image->bytes, image->len);
    *p++ = '"';
    return p;
}

char *message_restored(size_t *len, const struct message_restored *m)
{
    char seed[24];
    (void)snprintf(seed, sizeof seed, "%" PRIu64, m->seed);
    size_t head_len = 0;
    char *head = json_to_text(
        &head_len,
        json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:i, s:i, s:o, s:o, s:o}", "request_id",
                  json_of_text(m->request_id), "model", json_of_text(m->model), "task",
                  json_of_text(m->task), "seed", seed, "h", json_of_number(m->h), "sigma",
                  json_of_number(m->sigma), "level", json_of_level(m->level), "width",
                  (int)m->width, "height", (int)m->height, "std_scale",
                  json_of_number(m->std_scale), "residual_rms", json_of_number(m->residual_rms),
                  "residual_expected", json_of_number(m->residual_expected)));
    if (!head) return NULL;
    /* The images are appended by hand: in a JSON tree each of them would be in memory twice
     * more. */
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
    return json_to_text(len,
                        json_pack("{s:s, s:o, s:o, s:o, s:o, s:i, s:o}", "name", "david", "version",
                                  json_of_text(v->version), "backend", json_of_text(v->backend),
                                  "dtype", json_of_text(v->dtype), "isa", json_of_text(v->isa),
                                  "threads", v->threads, "reason", json_of_text(v->reason)));
}

static json_t *range_value(const double range[2])
{
    return json_pack("[o, o]", json_of_number(range[0]), json_of_number(range[1]));
}

static json_t *tasks_value(const struct model_info *info)
{
    json_t *tasks = json_object();
    for (uint32_t i = 0; tasks && i < info->n_tasks; i++) {
        const struct model_task *t = &info->tasks[i];
        const bool has_level = t->level > 0;
        json_t *v = json_pack(
            "{s:o, s:o, s:o, s:o, s:o, s:o}", "sigma", json_of_number(t->sigma), "sigma_range",
            range_value(t->sigma_range), "level", json_of_level(t->level), "level_range",
            has_level ? range_value(t->level_range) : json_null(), "h", json_of_number(t->h),
            "label", t->label < 0 ? json_null() : json_integer(t->label));
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
    json_t *v =
        json_pack("{s:o, s:o, s:o, s:b, s:s, s:o, s:{s:i, s:i, s:i}, s:s, s:o, s:o, s:o}", "name",
                  json_of_text(m->name), "version", json_of_text(m->version), "digest",
                  json_of_text(m->digest), "default", (int)m->is_default, "role",
                  m->info->role == ROLE_RESTORER ? "restorer" : "prior", "tasks",
                  tasks_value(m->info), "tile", "size", (int)m->info->tile_size, "overlap",
                  (int)m->info->tile_overlap, "margin", (int)m->info->tile_margin, "schedule",
                  m->info->schedule == SCHEDULE_DAVI ? "davi" : "linear", "arch",
                  json_of_source(arch), "provenance", json_of_source(m->info->provenance),
                  "metrics", json_of_source(m->info->metrics));
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
    return json_to_text(len, list ? json_pack("{s:o}", "models", list) : NULL);
}

char *message_health(size_t *len, const char *status)
{
    return json_to_text(len, json_pack("{s:o}", "status", json_of_text(status)));
}
