#include "cli/bench_train.h"

#include <stdio.h>

static const char *const kinds[] = { [TRAIN_PRIOR] = "prior", [TRAIN_DAVI] = "davi" };
enum { KINDS = sizeof kinds / sizeof *kinds };

static void print_json(const struct train_timing *t, const struct train_bench_options *o)
{
    printf("{\"kind\":\"%s\",\"batch\":%u,\"ms_per_image\":%.6g,\"min_ms_per_image\":%.6g,"
           "\"images_per_second\":%.6g,\"peak_bytes\":%zu,\"shares\":{",
           kinds[o->kind], o->batch, t->ms / o->batch, t->min_ms / o->batch,
           1000 * o->batch / t->ms, t->bytes);
    double all = 0;
    for (size_t i = 0; i < t->n_parts; i++)
        all += t->parts[i].ms;
    for (size_t i = 0; i < t->n_parts; i++)
        printf("%s\"%s%s\":%.4f", i ? "," : "", t->parts[i].name,
               t->parts[i].is_backward ? " backward" : "", t->parts[i].ms / all);
    fputs("}}", stdout);
}

static void print_text(const struct train_timing *t, const struct train_bench_options *o)
{
    printf("%s, batch %u: %.2f ms an image (fastest %.2f), %.3f images/s, %.1f MiB\n",
           kinds[o->kind], o->batch, t->ms / o->batch, t->min_ms / o->batch,
           1000 * o->batch / t->ms, (double)t->bytes / 1048576);
    double all = 0;
    for (size_t i = 0; i < t->n_parts; i++)
        all += t->parts[i].ms;
    for (size_t i = 0; i < t->n_parts; i++)
        printf("    %-14s %-9s %5.1f %%  %8.3f ms\n", t->parts[i].name,
               t->parts[i].is_backward ? "backward" : "", 100 * t->parts[i].ms / all,
               t->parts[i].ms);
}

static void print_head(const struct engine_facts *f, uint32_t side, uint32_t runs, bool is_json)
{
    if (is_json)
        printf("{\"backend\":\"%s\",\"dtype\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"height\":%u,"
               "\"width\":%u,\"runs\":%u,\"results\":[",
               f->backend, f->dtype, f->isa, f->threads, side, side, runs);
    else
        printf("%s, %s, %s, %d threads, %ux%u px, training, median of %u\n", f->backend, f->dtype,
               f->isa, f->threads, side, side, runs);
}

enum status bench_training(const struct train_bench_options *o, const uint32_t *batches, size_t n,
                           bool is_json, struct error *err)
{
    for (size_t i = 0; i < KINDS * n; i++) {
        struct train_bench_options one = *o;
        struct train_timing t;
        one.kind = i % KINDS ? TRAIN_DAVI : TRAIN_PRIOR;
        one.batch = batches[i / KINDS];
        enum status s = train_bench(&t, &one, err);
        if (s) return s;
        if (i == 0)
            print_head(&t.facts, o->size ? o->size : o->arch->image_size, o->steps, is_json);
        if (is_json && i) putchar(',');
        (is_json ? print_json : print_text)(&t, &one);
    }
    if (is_json) puts("]}");
    return ST_OK;
}
