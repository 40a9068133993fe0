#include "cli/bench_train.h"

#include <stdio.h>

#include "cli/files.h"

static const char *const kinds[] = { [TRAIN_PRIOR] = "prior", [TRAIN_DAVI] = "davi" };
enum { KINDS = sizeof kinds / sizeof *kinds };

static double all_parts(const struct train_timing *t)
{
    double ms = 0;
    for (size_t i = 0; i < t->n_parts; i++)
        ms += t->parts[i].ms;
    return ms;
}

static json_t *timing_value(const struct train_timing *t, const struct train_bench_options *o)
{
    const double all = all_parts(t);
    json_t *shares = json_object();
    bool ok = shares != NULL;
    for (size_t i = 0; i < t->n_parts; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%s%s", t->parts[i].name,
                       t->parts[i].is_backward ? " backward" : "");
        ok = ok && !json_object_set_new(shares, name, json_of_number(t->parts[i].ms / all));
    }
    if (!ok) {
        json_decref(shares);
        return NULL;
    }
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:I, s:o}", "kind", kinds[o->kind], "batch",
                     (int)o->batch, "ms_per_image", json_of_number(t->ms / o->batch),
                     "min_ms_per_image", json_of_number(t->min_ms / o->batch), "images_per_second",
                     json_of_number(1000 * o->batch / t->ms), "peak_bytes", (json_int_t)t->bytes,
                     "shares", shares);
}

static void print_text(const struct train_timing *t, const struct train_bench_options *o)
{
    printf("%s, batch %u: %.2f ms an image (fastest %.2f), %.3f images/s, %.1f MiB\n",
           kinds[o->kind], o->batch, t->ms / o->batch, t->min_ms / o->batch,
           1000 * o->batch / t->ms, (double)t->bytes / 1048576);
    const double all = all_parts(t);
    for (size_t i = 0; i < t->n_parts; i++)
        printf("    %-14s %-9s %5.1f %%  %8.3f ms\n", t->parts[i].name,
               t->parts[i].is_backward ? "backward" : "", 100 * t->parts[i].ms / all,
               t->parts[i].ms);
}

static uint32_t side_of(const struct train_bench_options *o)
{
    return o->size ? o->size : o->arch->image_size;
}

/* Releases `results`. */
static enum status print_json(const struct engine_facts *f, const struct train_bench_options *o,
                              json_t *results, struct error *err)
{
    return json_print(json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:o}", "backend", f->backend,
                                "dtype", f->dtype, "isa", f->isa, "threads", f->threads, "height",
                                (int)side_of(o), "width", (int)side_of(o), "runs", (int)o->steps,
                                "results", results),
                      err);
}

enum status bench_training(const struct train_bench_options *o, const uint32_t *batches, size_t n,
                           bool is_json, struct error *err)
{
    struct train_timing t = { 0 };
    json_t *results = is_json ? json_array() : NULL;
    if (is_json && !results) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the results");
    for (size_t i = 0; i < KINDS * n; i++) {
        struct train_bench_options one = *o;
        one.kind = i % KINDS ? TRAIN_DAVI : TRAIN_PRIOR;
        one.batch = batches[i / KINDS];
        enum status s = train_bench(&t, &one, err);
        if (!s && is_json && json_array_append_new(results, timing_value(&t, &one)))
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory for the results");
        if (s) {
            json_decref(results);
            return s;
        }
        if (is_json) continue;
        if (i == 0)
            printf("%s, %s, %s, %d threads, %ux%u px, training, median of %u\n", t.facts.backend,
                   t.facts.dtype, t.facts.isa, t.facts.threads, side_of(o), side_of(o), o->steps);
        print_text(&t, &one);
    }
    return is_json ? print_json(&t.facts, o, results, err) : ST_OK;
}
