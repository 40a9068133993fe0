/* Speed of david's networks on a card; one JSON object a line.
 *
 *   gpu_bench peak    [--side 8192] [--copy-mib 1024]
 *   gpu_bench network [--arch ffhq256] [--batch 1,8,32] [--dtype bf16] [--runs 20] [--repeats 20]
 *
 * peak: a matrix product of side^3 as a 1x1 convolution, and a copy. network: the folded network as
 * it is served. `network`: its recorded batch executions one after the other (alone_ms: one
 * execution and a wait). `op`, `ops`: each op repeatedly, so that its images may come from the
 * cache. `restore`: 8-bit images to 8-bit images, a batch of them through engine_run. The back end:
 * tests/engine/back_end.h. Hash weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "engine/davi/restoration.h"
#include "engine/nets/unet.h"
#include "tests/engine/back_end.h"
#include "tests/gpu/batches.h"
#include "tests/gpu/ledger.h"

enum { MAX_BATCHES = 8, MAX_BATCH = 256, MAX_RUNS = 1000, GROUP = 10 };

struct options {
    const char *arch, *dtype;
    uint32_t batch[MAX_BATCHES], batches, runs, repeats, side, copy_mib;
};

static double now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return (v[(n - 1) / 2] + v[n / 2]) / 2;
}

/* NAN where the back end does not report it. */
static double memory_used(struct backend *b)
{
    struct device_gauges g = { .memory_used_bytes = NAN };
    return b->ops->device.gauges && b->ops->device.gauges(b, &g) ? g.memory_used_bytes : NAN;
}

static void print_number(const char *name, double v)
{
    if (isfinite(v))
        printf(",\"%s\":%.6g", name, v);
    else
        printf(",\"%s\":null", name);
}

static const char *name_of(const struct options *o)
{
    return o->arch[0] == '{' ? "own" : o->arch;
}

static uint32_t largest_batch(const struct options *o)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < o->batches; i++)
        if (o->batch[i] > most) most = o->batch[i];
    return most;
}

static struct engine *open_engine(const struct options *o, struct error *err)
{
    const struct engine_options eo = { .dtype = o->dtype, .max_batch = largest_batch(o) };
    return test_engine_open(&eo, err);
}

/* ---- networks ---- */

struct net {
    struct graph *g;
    struct program *p;
    void *x, *y;
    double load_ms;
};

static void net_done(struct net *n, struct backend *b)
{
    program_free(n->p);
    graph_free(n->g);
    b->ops->device.free(b, n->x);
    b->ops->device.free(b, n->y);
    *n = (struct net){ 0 };
}

static enum status fill_noise(struct backend *b, float *dst, uint32_t side, uint32_t channels,
                              uint32_t n, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < n; i++)
        s = b->ops->net.normals(
            b,
            &(struct normals_args){ .seed = i,
                                    .w = side,
                                    .h = side,
                                    .channels = channels,
                                    .dst = dst + (size_t)i * side * side * channels },
            err);
    return s;
}

static enum status net_make(struct net *n, struct engine *e, const struct options *o,
                            struct error *err)
{
    struct backend *b = e->backend;
    struct unet_arch arch;
    uint64_t seed = 1;
    enum status s = unet_arch_parse(&arch, o->arch, err);
    if (s) return s;
    const struct condition condition = { .t = SCHEDULE_LAST, .label = arch.class_cond ? 0 : -1 };
    const struct param_source src = { hash_param_load, &seed };
    const struct program_options po = {
        .dtype = e->dtype, .conditions = &condition, .n_conditions = 1, .output_channels = 3
    };
    const double from = now_ms();
    s = unet_build(&n->g, &arch, arch.image_size, arch.image_size, err);
    if (!s) s = program_new(&n->p, b, n->g, &src, &po, err);
    if (s) return s;
    const uint32_t side = arch.image_size, most = largest_batch(o);
    const uint32_t rows = program_rows(n->p) > most ? program_rows(n->p) : most;
    const uint32_t channels = arch_input_channels(&arch);
    const size_t floats = (size_t)rows * side * side;
    n->load_ms = now_ms() - from;
    s = b->ops->device.alloc(b, floats * channels * sizeof(float), &n->x, err);
    if (!s) s = b->ops->device.alloc(b, floats * 3 * sizeof(float), &n->y, err);
    return s ? s : fill_noise(b, n->x, side, channels, rows, err);
}

static enum status run_executions(struct net *n, struct backend *b, uint32_t batch, uint32_t count,
                                  double *ms, struct error *err)
{
    const struct program_io io = { .x = n->x, .y = n->y };
    enum status s = ST_OK;
    const double from = now_ms();
    for (uint32_t i = 0; !s && i < count; i++)
        s = program_run(n->p, &io, batch, err);
    if (!s && b->ops->device.finish) s = b->ops->device.finish(b, err);
    *ms = (now_ms() - from) / count;
    return s;
}

static enum status time_executions(const struct options *o, struct net *n, struct backend *b,
                                   uint32_t batch, struct error *err)
{
    double each[MAX_RUNS], alone[MAX_RUNS], ms;
    enum status s = run_executions(n, b, batch, 4, &ms, err); /* loads, records, replays */
    for (uint32_t r = 0; !s && r < o->runs; r++)
        s = run_executions(n, b, batch, 1, &alone[r], err);
    for (uint32_t r = 0; !s && r < o->runs; r++)
        s = run_executions(n, b, batch, GROUP, &each[r], err);
    if (s) return s;
    ms = median(each, o->runs);
    printf(
        "{\"what\":\"network\",\"backend\":\"%s\",\"card\":\"%s\",\"arch\":\"%s\",\"dtype\":\"%s\","
        "\"batch\":%u,\"ms\":%.5g,\"fastest_ms\":%.5g,\"slowest_ms\":%.5g,\"alone_ms\":%.5g,"
        "\"images_per_second\":%.5g,\"program_bytes\":%zu,\"load_ms\":%.5g",
        b->ops->device.name, b->ops->device.isa(b), name_of(o), o->dtype, batch, ms, each[0],
        each[o->runs - 1], median(alone, o->runs), 1000 * batch / ms, program_bytes(n->p),
        n->load_ms);
    print_number("memory_used_bytes", memory_used(b));
    puts("}");
    return ST_OK;
}

static enum status time_ops(const struct options *o, struct net *n, struct backend *b,
                            struct ledger *l, uint32_t batch, struct error *err)
{
    double ms, convolutions = 0, all = 0;
    ledger_turn(l, true);
    enum status s = run_executions(n, b, batch, 1, &ms, err);
    for (uint32_t i = 0; !s && i < l->count; i++) {
        struct entry e;
        uint32_t count;
        all += l->entries[i].ns;
        if (l->entries[i].op == OP_CONV) convolutions += l->entries[i].ns;
        if (!ledger_sum(l, i, &e, &count)) continue;
        printf("{\"what\":\"op\",\"arch\":\"%s\",\"batch\":%u,\"op\":\"%s\",\"which\":\"%s\","
               "\"count\":%u,\"us\":%.5g,\"gflop\":%.5g,\"mb\":%.5g,\"tflops\":%.4g,"
               "\"tbytes\":%.4g}\n",
               name_of(o), batch, op_name(e.op), e.what, count, e.ns / 1e3, e.flop / 1e9,
               e.bytes / 1e6, e.flop / e.ns / 1e3, e.bytes / e.ns / 1e3);
    }
    if (!s)
        printf("{\"what\":\"ops\",\"arch\":\"%s\",\"batch\":%u,\"count\":%u,\"all_ms\":%.5g,"
               "\"convolutions_ms\":%.5g}\n",
               name_of(o), batch, l->count, all / 1e6, convolutions / 1e6);
    ledger_turn(l, false);
    return s;
}

/* ---- peak rates of the card ---- */

/* side pixels, side channels in and out: a matrix product of side^3. */
static enum status time_product(struct backend *b, const struct options *o, double *ms,
                                struct error *err)
{
    const size_t side = o->side, count = side * side, h = side % 128 ? 1 : side / 128;
    const struct conv_desc d = { .h = (uint32_t)h,
                                 .w = (uint32_t)(side / h),
                                 .ic = o->side,
                                 .oc = o->side,
                                 .kernel = 1,
                                 .stride = 1,
                                 .conditions = 1,
                                 .dtype = DT_BF16,
                                 .x_ld = side,
                                 .y_ld = side,
                                 .rows = 1 };
    struct conv_plan *p = NULL;
    struct tensor x = { NULL, DT_BF16, 1, d.h, d.w, d.ic, side }, y = x;
    float *weight = malloc(count * sizeof *weight);
    uint16_t *values = malloc(count * sizeof *values);
    double runs[GROUP];
    enum status s = weight && values ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory");
    if (!s) hash_values("product", 1, weight, count);
    if (!s) dtype_from_f32(values, DT_BF16, weight, count);
    if (!s) s = b->ops->device.alloc(b, count * 2, &x.data, err);
    if (!s) s = b->ops->device.alloc(b, count * 2, &y.data, err);
    if (!s && b->ops->device.copy_in) s = b->ops->device.copy_in(b, x.data, values, count * 2, err);
    if (!s) s = b->ops->net.conv_plan(b, &d, weight, NULL, &p, err);
    for (int i = 0; !s && i <= GROUP; i++) {
        const double from = now_ms();
        for (int k = 0; !s && k < GROUP; k++)
            s = b->ops->net.conv(b, p, &x, NULL, &y, NULL, err);
        if (!s && b->ops->device.finish) s = b->ops->device.finish(b, err);
        if (i > 0) runs[i - 1] = (now_ms() - from) / GROUP;
    }
    if (!s) *ms = median(runs, GROUP);
    if (p) b->ops->net.conv_plan_free(b, p);
    b->ops->device.free(b, x.data);
    b->ops->device.free(b, y.data);
    free(weight);
    free(values);
    return s;
}

/* F32 to BF16: 6 bytes per number, each number once. */
static enum status time_copy(struct backend *b, const struct options *o, double *ms,
                             struct error *err)
{
    enum { WIDTH = 1024, CHANNELS = 256 };
    const uint32_t h = o->copy_mib; /* a line is 1 MiB in F32 */
    struct tensor x = { NULL, DT_F32, 1, h, WIDTH, CHANNELS, CHANNELS };
    struct tensor y = { NULL, DT_BF16, 1, h, WIDTH, CHANNELS, CHANNELS };
    double runs[GROUP];
    enum status s = b->ops->device.alloc(b, (size_t)h << 20, &x.data, err);
    if (!s) s = b->ops->device.alloc(b, (size_t)h << 19, &y.data, err);
    const struct normals_args noise = {
        .w = WIDTH, .h = h, .channels = CHANNELS, .dst = (float *)x.data
    };
    if (!s) s = b->ops->net.normals(b, &noise, err);
    for (int i = 0; !s && i <= GROUP; i++) {
        const double from = now_ms();
        for (int k = 0; !s && k < GROUP; k++)
            s = b->ops->net.cast(b, &x, &y, err);
        if (!s && b->ops->device.finish) s = b->ops->device.finish(b, err);
        if (i > 0) runs[i - 1] = (now_ms() - from) / GROUP;
    }
    if (!s) *ms = median(runs, GROUP);
    b->ops->device.free(b, x.data);
    b->ops->device.free(b, y.data);
    return s;
}

static enum status bench_peak(const struct options *o, struct error *err)
{
    struct engine *e = open_engine(o, err);
    double product = 0, copy = 0;
    if (!e) return err->status;
    struct backend *b = e->backend;
    enum status s = time_product(b, o, &product, err);
    if (!s) s = time_copy(b, o, &copy, err);
    if (!s)
        printf("{\"what\":\"peak\",\"card\":\"%s\",\"side\":%u,\"product_ms\":%.5g,\"tflops\":%.5g,"
               "\"copy_mib\":%u,\"copy_ms\":%.5g,\"tbytes\":%.5g}\n",
               b->ops->device.isa(b), o->side, product, 2 * pow(o->side, 3) / product / 1e9,
               o->copy_mib, copy, 1.5 * o->copy_mib * 1048576 / copy / 1e9);
    engine_close(e);
    return s;
}

/* ---- restorations ---- */

static enum status restore_once(struct engine *e, struct model *m, const struct image *img,
                                uint32_t batch, double *ms, double *engine_ms, struct error *err)
{
    struct restoration *r[MAX_BATCH] = { NULL };
    struct tile_job rows[MAX_BATCH];
    const struct restore_params p = { .task = "denoise", .h = -1, .samples = 1 };
    enum status s = ST_OK;
    const double from = now_ms();
    for (uint32_t i = 0; !s && i < batch; i++) {
        s = restoration_new(&r[i], m, &p, img, NULL, err);
        rows[i] = (struct tile_job){ .restoration = r[i] };
    }
    const double mid = now_ms();
    if (!s) s = engine_run(e, m, rows, batch, err);
    *engine_ms = now_ms() - mid;
    for (uint32_t i = 0; !s && i < batch; i++) {
        struct image out = { 0 };
        s = restoration_image(r[i], OUTPUT_IMAGE, 0, &out, err);
        image_done(&out);
    }
    *ms = now_ms() - from;
    for (uint32_t i = 0; i < batch; i++)
        restoration_free(r[i]);
    return s;
}

static enum status time_restorations(const struct options *o, struct engine *e, struct model *m,
                                     uint32_t batch, struct error *err)
{
    struct image img = { 0 };
    const uint32_t side = model_describe(m)->arch.image_size;
    double all[MAX_RUNS], inside[MAX_RUNS], ms, engine_ms;
    enum status s = image_init(&img, side, side, 3, 8, err);
    for (size_t i = 0; !s && i < (size_t)3 * side * side; i++)
        ((uint8_t *)img.pixels)[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int i = 0; !s && i < 3; i++)
        s = restore_once(e, m, &img, batch, &ms, &engine_ms, err);
    for (uint32_t i = 0; !s && i < o->runs; i++)
        s = restore_once(e, m, &img, batch, &all[i], &inside[i], err);
    if (!s)
        printf("{\"what\":\"restore\",\"arch\":\"%s\",\"dtype\":\"%s\",\"batch\":%u,\"ms\":%.5g,"
               "\"engine_ms\":%.5g}\n",
               name_of(o), o->dtype, batch, median(all, o->runs), median(inside, o->runs));
    image_done(&img);
    return s;
}

/* One load of the plans is used by all three. */
static enum status bench_network(const struct options *o, struct error *err)
{
    static struct ledger ledger;
    struct unet_arch arch;
    struct net n = { 0 };
    struct model *m = NULL;
    enum status s = unet_arch_parse(&arch, o->arch, err);
    if (s) return s;
    struct engine *e = open_engine(o, err);
    if (!e) return err->status;
    struct backend *b = e->backend;
    ledger_watch(&ledger, b, o->repeats);
    s = net_make(&n, e, o, err);
    for (uint32_t i = 0; !s && i < o->batches; i++) {
        s = time_executions(o, &n, b, o->batch[i], err);
        if (!s) s = time_ops(o, &n, b, &ledger, o->batch[i], err);
        (void)fflush(stdout);
    }
    if (!s) s = model_hash(&m, e, &arch, 1, err);
    if (!s) s = model_warm(m, err);
    for (uint32_t i = 0; !s && i < o->batches; i++)
        s = time_restorations(o, e, m, o->batch[i], err);
    model_free(m);
    net_done(&n, b);
    ledger_unwatch(&ledger);
    engine_close(e);
    return s;
}

/* ---- command line ---- */

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){ .arch = "ffhq256",
                           .dtype = "bf16",
                           .batch = { 1, 8, 32 },
                           .batches = 3,
                           .runs = 20,
                           .repeats = 20,
                           .side = 8192,
                           .copy_mib = 1024 };
    const struct {
        const char *name;
        uint32_t *to, most;
    } counts[] = { { "--runs", &o->runs, MAX_RUNS },
                   { "--repeats", &o->repeats, MAX_RUNS },
                   { "--side", &o->side, 32768 },
                   { "--copy-mib", &o->copy_mib, 8192 } };
    for (int i = 2; i + 1 < argc; i += 2) {
        char *end = argv[i + 1];
        size_t k = 0;
        while (k < sizeof counts / sizeof *counts && strcmp(argv[i], counts[k].name) != 0)
            k++;
        if (k < sizeof counts / sizeof *counts) {
            unsigned long n = strtoul(end, NULL, 10);
            if (n < 1 || n > counts[k].most) return false;
            *counts[k].to = (uint32_t)n;
        } else if (strcmp(argv[i], "--arch") == 0) {
            o->arch = end;
        } else if (strcmp(argv[i], "--dtype") == 0) {
            o->dtype = end;
        } else if (strcmp(argv[i], "--batch") == 0) {
            if (!parse_batches(end, o->batch, MAX_BATCHES, MAX_BATCH, &o->batches)) return false;
        } else {
            return false;
        }
    }
    return argc >= 2 && argc % 2 == 0 && o->batches > 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        enum status (*run)(const struct options *o, struct error *err);
    } whats[] = { { "peak", bench_peak }, { "network", bench_network } };
    struct options o;
    struct error err = { 0 };
    if (parse(&o, argc, argv))
        for (size_t i = 0; i < sizeof whats / sizeof *whats; i++) {
            if (strcmp(argv[1], whats[i].name) != 0) continue;
            enum status s = whats[i].run(&o, &err);
            if (s) fprintf(stderr, "%s: %s\n", argv[1], err.detail);
            return s ? 1 : 0;
        }
    fprintf(stderr, "gpu_bench peak|network [--arch A] [--batch 1,8,32] [--dtype D] "
                    "[--runs N] [--repeats N] [--side N] [--copy-mib N]\n");
    return 2;
}
