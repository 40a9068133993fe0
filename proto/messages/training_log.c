#include "proto/messages/training_log.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* As json_dumps writes them: a number of so many digits has them and no others. */
enum { PRECISION = 15 };

/* A number rounded as printf's format says. Whole numbers are JSON integers, without a point. */
static json_t *number(const char *format, double v)
{
    char text[64];
    if (!isfinite(v)) return json_null();
    (void)snprintf(text, sizeof text, format, v);
    v = strtod(text, NULL);
    return v == rint(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v);
}

static json_t *count(uint64_t v)
{
    char text[32];
    if (v <= INT64_MAX) return json_integer((json_int_t)v);
    (void)snprintf(text, sizeof text, "%" PRIu64, v);
    return json_string(text);
}

/* Releases v. json_dumpb, not json_dumps: where json_dumps of jansson 2.14 finds no memory it may
 * leave out a key. */
static char *text_of(json_t *v)
{
    const size_t flags = JSON_REAL_PRECISION(PRECISION);
    const size_t n = v ? json_dumpb(v, NULL, 0, flags) : 0;
    char *text = n ? malloc(n + 1) : NULL;
    if (text && json_dumpb(v, text, n, flags) != n) {
        free(text);
        text = NULL;
    }
    json_decref(v);
    if (text) text[n] = 0;
    return text;
}

static json_t *recipe_of(const struct training_provenance *p)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "objective", p->objective, "tasks", p->tasks, "regression", p->regression,
                     "energy_distance", p->energy_distance, "warmup", count(p->warmup), "decay",
                     count(p->decay), "lr_end", number("%.6g", p->lr_end), "clip",
                     number("%.6g", p->clip), "average_decay", number("%.6g", p->average_decay),
                     "weight_decay", number("%.6g", p->weight_decay), "jitter",
                     number("%.6g", p->jitter), "texture", number("%.6g", p->texture), "weight_con",
                     number("%.6g", p->weight_con), "reg_coeff", number("%.6g", p->reg_coeff),
                     "t_ikl", number("%.6g", p->t_ikl));
}

char *training_provenance_text(const struct training_provenance *p)
{
    json_t *all = json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s?}", "data", p->data, "data_digest",
        p->data_digest, "kind", p->kind, "steps", count(p->steps), "batch", count(p->batch),
        "micro_batch", count(p->micro_batch), "size", count(p->size), "lr", number("%.15g", p->lr),
        "seed", count(p->seed), "dtype", p->dtype, "parent", p->parent);
    json_t *recipe = p->has_recipe ? recipe_of(p) : NULL;
    if (p->has_recipe && (!recipe || json_object_update(all, recipe))) {
        json_decref(all);
        all = NULL;
    }
    json_decref(recipe);
    return text_of(all);
}

char *training_metrics_text(double score, uint64_t step, const struct training_score *scores,
                            uint32_t n)
{
    json_t *tasks = json_object();
    bool is_whole = tasks != NULL;
    for (uint32_t i = 0; is_whole && i < n; i++) {
        json_t *task = json_pack("{s:o, s:o, s:o}", "psnr", number("%.3f", scores[i].psnr),
                                 "mean_psnr", number("%.3f", scores[i].mean_psnr), "coverage",
                                 number("%.4f", scores[i].coverage));
        is_whole = !json_object_set_new(tasks, scores[i].task, task);
    }
    if (!is_whole) {
        json_decref(tasks);
        return NULL;
    }
    return text_of(json_pack("{s:o, s:o, s:o}", "score", number("%.4f", score), "step", count(step),
                             "validation", tasks));
}

double training_metrics_score(const char *text)
{
    json_t *all = text ? json_loads(text, 0, NULL) : NULL;
    const double score = json_number_value(json_object_get(all, "score"));
    json_decref(all);
    return isfinite(score) ? score : 0;
}
