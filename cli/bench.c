/* david bench: times a network with hash weights (times do not depend on the values). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/bench_train.h"
#include "cli/commands.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "proto/models/safetensors.h"

static const char about[] =
    "Times the folded network, as restorations run it, with hash weights: the median of the runs\n"
    "after one that warms up. flop_per_image counts convolutions and linear layers, 2 per\n"
    "multiply-add; peak_bytes: weights, arena and batch; shares: part of the time in each op.\n"
    "--train: a prior's step and a whole iteration of DAVI instead, with their backward passes "
    "and\n"
    "updates; a batch is a micro-batch, peak_bytes: networks, moments and activations.";

enum { MOST_BATCHES = 16, MOST_RUNS = 1000, MOST_OPS = 32, LARGEST_BATCH = 4096 };

struct bench {
    struct network *net;
    uint32_t h, w, runs;
    bool is_json;
    struct progress progress; /* of all runs of all batch sizes */
    uint64_t done;
};

struct timing {
    double ms, min_ms; /* of a batch: median and minimum */
    size_t n_ops;
    const char *ops[MOST_OPS];
    uint64_t op_ns[MOST_OPS];
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum status time_batch(struct timing *out, struct bench *b, uint32_t batch,
                              struct error *err)
{
    const size_t px = (size_t)b->h * b->w, n = batch * px * network_input_channels(b->net),
                 m = batch * px * network_channels(b->net);
    float *x = malloc(n * sizeof *x), *y = malloc(m * sizeof *y), *t = calloc(batch, sizeof *t);
    double *ms = calloc(b->runs, sizeof *ms);
    enum status s = ST_OK;
    if (!x || !y || !t || !ms) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch of %u", batch);
        goto done;
    }
    for (size_t i = 0; i < n; i++)
        x[i] = (float)sin((double)i);
    for (uint32_t i = 0; i < batch; i++)
        t[i] = 999;
    const struct network_input in = { .x = x, .t = t };
    s = network_forward(b->net, &in, batch, y, err);
    network_op_times(b->net, out->ops, out->op_ns, MOST_OPS);
    for (uint32_t r = 0; !s && r < b->runs; r++) {
        const uint64_t start = clock_ns();
        s = network_forward(b->net, &in, batch, y, err);
        ms[r] = (double)(clock_ns() - start) / 1e6;
        progress_show(&b->progress, ++b->done);
    }
    if (s) goto done;
    out->n_ops = network_op_times(b->net, out->ops, out->op_ns, MOST_OPS);
    qsort(ms, b->runs, sizeof *ms, by_value);
    out->ms = (ms[(b->runs - 1) / 2] + ms[b->runs / 2]) / 2;
    out->min_ms = ms[0];
done:
    free(x);
    free(y);
    free(t);
    free(ms);
    return s;
}

/* The rates of a batch size. */
struct rates {
    double ms_per_image, min_ms_per_image, images_per_second, gflop_per_second;
    uint64_t flop_per_image;
    size_t peak_bytes;
    double shares[MOST_OPS]; /* part of the time in each op */
};

static struct rates rates_of(const struct timing *t, const struct bench *b, uint32_t batch)
{
    const uint32_t channels = network_input_channels(b->net) + network_channels(b->net);
    struct rates r = { .ms_per_image = t->ms / batch,
                       .min_ms_per_image = t->min_ms / batch,
                       .flop_per_image = network_flop(b->net) };
    r.images_per_second = 1000 / r.ms_per_image;
    r.gflop_per_second = (double)r.flop_per_image / r.ms_per_image / 1e6;
    r.peak_bytes = network_bytes(b->net) + batch * (size_t)b->h * b->w * channels * sizeof(float);
    uint64_t total = 0;
    for (size_t i = 0; i < t->n_ops; i++)
        total += t->op_ns[i];
    for (size_t i = 0; i < t->n_ops; i++)
        r.shares[i] = total ? (double)t->op_ns[i] / (double)total : 0;
    return r;
}

static json_t *timing_value(const struct timing *t, const struct bench *b, uint32_t batch)
{
    const struct rates r = rates_of(t, b, batch);
    json_t *shares = json_object();
    bool ok = shares != NULL;
    for (size_t i = 0; i < t->n_ops; i++)
        ok = ok && !json_object_set_new(shares, t->ops[i], json_of_number(r.shares[i]));
    if (!ok) {
        json_decref(shares);
        return NULL;
    }
    return json_pack(
        "{s:i, s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "batch", (int)batch, "ms_per_image",
        json_of_number(r.ms_per_image), "min_ms_per_image", json_of_number(r.min_ms_per_image),
        "images_per_second", json_of_number(r.images_per_second), "gflop_per_second",
        json_of_number(r.gflop_per_second), "flop_per_image", (json_int_t)r.flop_per_image,
        "peak_bytes", (json_int_t)r.peak_bytes, "shares", shares);
}

static void print_timing(const struct timing *t, const struct bench *b, uint32_t batch)
{
    const struct rates r = rates_of(t, b, batch);
    printf("batch %u: %.2f ms an image (fastest %.2f), %.3f images/s, %.1f GFLOP/s, %.1f MiB\n",
           batch, r.ms_per_image, r.min_ms_per_image, r.images_per_second, r.gflop_per_second,
           (double)r.peak_bytes / 1048576);
    for (size_t i = 0; i < t->n_ops; i++)
        printf("    %-12s %5.1f %%\n", t->ops[i], 100 * r.shares[i]);
}

static enum status print_json(const struct timing *t, const struct bench *b,
                              const struct engine_facts *f, const uint32_t *batches, size_t n,
                              struct error *err)
{
    struct rusage usage = { 0 };
    getrusage(RUSAGE_SELF, &usage);
    json_t *results = json_array();
    for (size_t i = 0; results && i < n; i++)
        if (json_array_append_new(results, timing_value(&t[i], b, batches[i]))) {
            json_decref(results);
            results = NULL;
        }
    return json_print(json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:o}", "backend",
                                f->backend, "dtype", f->dtype, "isa", f->isa, "threads", f->threads,
                                "height", (int)b->h, "width", (int)b->w, "runs", (int)b->runs,
                                "rss_peak_bytes", (json_int_t)usage.ru_maxrss * 1024, "results",
                                results),
                      err);
}

static enum status choose_arch(struct unet_arch *out, const char *arch, const char *model,
                               struct error *err)
{
    char path[PATH_MAX];
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    if (!model) {
        struct error why = { 0 };
        if (unet_arch_parse(out, arch ? arch : "ffhq256", &why) == ST_OK) return ST_OK;
        return error_set(err, ST_BAD_PARAMETER, "--arch: %s", why.detail);
    }
    enum status s = model_path(path, model, err);
    if (!s) s = safetensors_open(&st, path, err);
    if (!s) s = model_info_read(&info, st, err);
    if (!s) *out = info.arch;
    model_info_done(&info);
    safetensors_close(st);
    return s;
}

static enum status run(struct bench *b, struct engine *e, const uint32_t *batches, size_t n,
                       struct error *err)
{
    const struct engine_facts *f = engine_describe(e);
    struct timing t[MOST_BATCHES] = { { 0 } };
    enum status s = ST_OK;
    progress_begin(&b->progress, "runs", n * b->runs);
    for (size_t i = 0; !s && i < n; i++)
        s = time_batch(&t[i], b, batches[i], err);
    progress_end(&b->progress);
    if (s) return s;
    if (b->is_json) return print_json(t, b, f, batches, n, err);
    printf("%s, %s, %s, %d threads, %ux%u px, median of %u\n", f->backend, f->dtype, f->isa,
           f->threads, b->h, b->w, b->runs);
    for (size_t i = 0; i < n; i++)
        print_timing(&t[i], b, batches[i]);
    return ST_OK;
}

int cmd_bench(int argc, char **argv)
{
    struct engine_options o = { 0 };
    const char *model = NULL, *arch = NULL, *batch = "1";
    uint32_t threads = 0, sides[2] = { 0, 0 };
    bool train = false;
    struct bench b = { .runs = 5 };
    const struct option_row rows[] = {
        { "arch", OPTION_TEXT, &arch, "A", "ffhq256, imagenet256 or JSON (ffhq256)", 0, 0, NULL },
        { "model", OPTION_TEXT, &model, "FILE|NAME", "the architecture of this model instead", 0, 0,
          NULL },
        { "size", OPTION_SIDES, sides, "HxW", "of the image in px (image_size)", 1, 8192, NULL },
        { "batch", OPTION_TEXT, &batch, "LIST", "batch sizes with commas (1)", 0, 0, NULL },
        { "runs", OPTION_COUNT, &b.runs, "N", "timed runs of each (5)", 1, MOST_RUNS, NULL },
        { "train", OPTION_FLAG, &train, NULL, "the steps of training", 0, 0, NULL },
        ENGINE_ROWS(o, threads),
        { "json", OPTION_FLAG, &b.is_json, NULL, "one JSON object", 0, 0, NULL },
    };
    const struct command c = { "bench", "", about, rows, sizeof rows / sizeof *rows, 0, 0 };
    options_parse(&c, argc, argv);
    if (arch && model) usage_error(c.name, "--arch and --model exclude each other");
    uint32_t batches[MOST_BATCHES];
    size_t n = parse_counts(c.name, "batch", batch, LARGEST_BATCH, batches, MOST_BATCHES);

    struct error err = { 0 };
    struct unet_arch net;
    struct engine *engine = NULL;
    o.threads = (int)threads;
    enum status s = choose_arch(&net, arch, model, &err);
    if (!s && train) {
        if (sides[0] != sides[1]) usage_error(c.name, "--train: images are square");
        const struct train_bench_options t = { .engine = o,
                                               .arch = &net,
                                               .size = sides[0],
                                               .steps = b.runs,
                                               .discriminator_width = 64,
                                               .now_ns = clock_ns };
        s = bench_training(&t, batches, n, b.is_json, &err);
        return s ? report_error(c.name, &err) : finish_stdout(c.name);
    }
    if (!s) s = engine_open(&engine, &o, &err);
    if (!s) {
        b.h = sides[0] ? sides[0] : net.image_size;
        b.w = sides[1] ? sides[1] : net.image_size;
        s = network_hash(&b.net, engine, &net, 0, b.h, b.w, true, true, &err);
    }
    if (!s) s = run(&b, engine, batches, n, &err);
    network_free(b.net);
    engine_close(engine);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
