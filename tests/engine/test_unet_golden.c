/* Every unet_*.safetensors of the golden folder through a back end: output and activations of every block (engine/README.md
 * section 7). $DAVID_TEST_BACKEND: reference or cpu; $DAVID_TEST_DTYPE: F32 or BF16; $DAVID_TEST_MAX_PARAMS: larger networks
 * are left out (and named). One line a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "proto/safetensors.h"

struct golden {
    struct safetensors *file;
    struct unet_arch arch;
    uint64_t seed;
    uint32_t rows, stride, channels; /* channels of y */
    float *t, *x, *y;                /* x, y: NHWC, [rows] */
    double worst;
    char worst_name[96];
    unsigned compared;
};

static void note(struct golden *g, const char *name, double relative)
{
    g->compared++;
    if (relative > g->worst || !isfinite(relative)) {
        g->worst = isfinite(relative) ? relative : 1e9;
        (void)snprintf(g->worst_name, sizeof g->worst_name, "%s", name);
    }
}

static float *values(const struct golden *g, const char *name, size_t *count)
{
    const struct st_tensor *t = safetensors_find(g->file, name);
    if (!t) return NULL;
    float *v = malloc((t->count + 1) * sizeof *v);
    assert_non_null(v);
    dtype_to_f32(v, t->data, t->dtype, t->count);
    *count = t->count;
    return v;
}

/* v: NHWC. `at` are flat NCHW indices. */
static size_t nhwc(size_t at, size_t h, size_t w, size_t c)
{
    size_t px = h * w, row = at / (c * px), channel = at / px % c;
    return (row * px + at % px) * c + channel;
}

static void compare_part(struct golden *g, const char *prefix, const char *name, const float *v,
                         size_t h, size_t w, size_t c)
{
    char key[96];
    size_t n = 0, n_at = 0, count = g->rows * h * w * c;
    (void)snprintf(key, sizeof key, "%s%s#l2", prefix, name);
    float *l2 = values(g, key, &n);
    assert_non_null(l2);
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)v[i] * (double)v[i];
    note(g, key, fabs(sqrt(sum) - (double)*l2) / (double)*l2);

    (void)snprintf(key, sizeof key, "%s%s#at", prefix, name);
    const struct st_tensor *at = safetensors_find(g->file, key);
    (void)snprintf(key, sizeof key, "%s%s#val", prefix, name);
    float *want = values(g, key, &n_at);
    assert_non_null(at);
    assert_non_null(want);
    assert_int_equal(at->dtype, DT_I64);
    assert_int_equal(at->count, n_at);
    double most = (double)*l2 / sqrt((double)count), difference = 0;
    for (size_t i = 0; i < n_at; i++) {
        uint64_t flat;
        memcpy(&flat, (const char *)at->data + i * sizeof flat, sizeof flat);
        assert_true(flat < count);
        most = fmax(most, fabs((double)want[i]));
        difference = fmax(difference, fabs((double)want[i] - (double)v[nhwc(flat, h, w, c)]));
    }
    note(g, key, difference / most);
    free(want);
    free(l2);
}

static void compare_output(struct golden *g)
{
    size_t n = 0, size = g->arch.image_size, side = (size + g->stride - 1) / g->stride;
    float *want = values(g, "y", &n);
    assert_non_null(want);
    assert_int_equal(n, g->rows * g->channels * side * side);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        size_t plane = i / (side * side), y = i / side % side, x = i % side;
        size_t at = (plane * size + y * g->stride) * size + x * g->stride;
        double have = (double)g->y[nhwc(at, size, size, g->channels)];
        difference += (have - (double)want[i]) * (have - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    note(g, "y", sqrt(difference / norm));
    free(want);
    compare_part(g, "", "y_full", g->y, size, size, g->channels);
}

static void open_golden(struct golden *g, const char *path)
{
    struct error err = { 0 };
    if (safetensors_open(&g->file, path, &err)) fail_msg("%s", err.detail);
    const char *config = safetensors_metadata(g->file, "david.config");
    const char *seed = safetensors_metadata(g->file, "seed");
    const char *stride = safetensors_metadata(g->file, "stride");
    assert_non_null(config);
    assert_non_null(seed);
    assert_non_null(stride);
    if (unet_arch_parse(&g->arch, config, &err)) fail_msg("%s", err.detail);
    g->seed = strtoull(seed, NULL, 10);
    g->stride = (uint32_t)strtoul(stride, NULL, 10);
    size_t rows = 0;
    g->t = values(g, "t", &rows);
    assert_non_null(g->t);
    g->rows = (uint32_t)rows;

    size_t px = (size_t)g->arch.image_size * g->arch.image_size;
    assert_true(rows * px > 0);
    float *flat = malloc(rows * px * 3 * sizeof *flat);
    g->x = malloc(rows * px * 3 * sizeof *g->x);
    assert_non_null(flat);
    assert_non_null(g->x);
    hash_values("x", g->seed, flat, rows * px * 3);
    for (size_t i = 0; i < rows * px * 3; i++)
        g->x[nhwc(i, g->arch.image_size, g->arch.image_size, 3)] = flat[i];
    free(flat);
}

static void close_golden(struct golden *g)
{
    safetensors_close(g->file);
    free(g->t);
    free(g->x);
    free(g->y);
}

/* Runs `rows` at once and compares every tap that the file has; only a pass's rows are kept, so the passes are put together. */
static void run(struct golden *g, struct backend *b, const struct graph *graph, enum dtype dtype)
{
    struct error err = { 0 };
    struct param_source src = { hash_param_load, &g->seed };
    struct program_options o = { .dtype = dtype, .keep_taps = true };
    struct program *p = NULL;
    if (program_new(&p, b, graph, &src, &o, &err)) fail_msg("%s", err.detail);

    uint32_t per_pass = b->ops->rows_per_pass(b);
    size_t px = (size_t)g->arch.image_size * g->arch.image_size;
    g->channels = graph->nodes[graph->output].c;
    g->y = malloc(g->rows * px * g->channels * sizeof *g->y);
    float **taps = calloc(graph->n_nodes, sizeof *taps);
    assert_non_null(g->y);
    assert_non_null(taps);
    for (uint32_t first = 0; first < g->rows; first += per_pass) {
        uint32_t n = g->rows - first < per_pass ? g->rows - first : per_pass;
        struct program_io io = { .x = g->x + first * px * 3,
                                 .y = g->y + first * px * g->channels,
                                 .t = g->t + first };
        if (program_run(p, &io, n, &err)) fail_msg("%s", err.detail);
        for (uint32_t i = 0; i < graph->n_nodes; i++) {
            const struct node *node = &graph->nodes[i];
            if (!node->tap[0] || strcmp(node->tap, "out") == 0) continue;
            size_t row = (size_t)node->h * node->w * node->c, count = 0;
            if (!taps[i]) taps[i] = malloc((g->rows + per_pass) * row * sizeof **taps);
            assert_non_null(taps[i]);
            if (program_tap(p, node->tap, taps[i] + first * row, &count, &err))
                fail_msg("%s", err.detail);
            assert_int_equal(count, per_pass * row);
        }
    }
    compare_output(g);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const struct node *node = &graph->nodes[i];
        if (taps[i]) compare_part(g, "act.", node->tap, taps[i], node->h, node->w, node->c);
        free(taps[i]);
    }
    free(taps);
    program_free(p);
}

/* The folded form with one set a row, against the unfolded output: relative L2. */
static double folded_error(const struct golden *g, struct backend *b, const struct graph *graph,
                           enum dtype dtype)
{
    struct error err = { 0 };
    uint64_t seed = g->seed;
    struct param_source src = { hash_param_load, &seed };
    size_t count = (size_t)g->rows * g->arch.image_size * g->arch.image_size * g->channels;
    struct condition *sets = calloc(g->rows, sizeof *sets);
    uint32_t *set = calloc(g->rows, sizeof *set);
    float *y = malloc(count * sizeof *y);
    assert_non_null(sets);
    assert_non_null(set);
    assert_non_null(y);
    for (uint32_t i = 0; i < g->rows; i++) {
        sets[i] = (struct condition){ g->t[i], -1 };
        set[i] = i;
    }
    struct program_options o = { .dtype = dtype, .sets = sets, .n_sets = g->rows };
    struct program *p = NULL;
    if (program_new(&p, b, graph, &src, &o, &err)) fail_msg("%s", err.detail);
    struct program_io io = { .x = g->x, .y = y, .set = set };
    if (program_run(p, &io, g->rows, &err)) fail_msg("%s", err.detail);
    program_free(p);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)y[i] - (double)g->y[i]) * ((double)y[i] - (double)g->y[i]);
        norm += (double)g->y[i] * (double)g->y[i];
    }
    free(sets);
    free(set);
    free(y);
    return sqrt(difference / norm);
}

static struct backend *chosen_backend(const char *name)
{
    struct backend *b = NULL;
    struct error err = { 0 };
    enum status s = ST_UNSUPPORTED;
#ifdef DAVID_TEST_CPU
    if (strcmp(name, "cpu") == 0) s = cpu_backend_open(&b, 2, &err);
#else
    if (strcmp(name, "reference") == 0) s = reference_backend_open(&b, &err);
#endif
    if (s) fail_msg("back end %s: %s", name, err.detail);
    return b;
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v && v[0] ? v : otherwise;
}

#ifdef DAVID_TEST_CPU
#define DEFAULT_BACKEND "cpu"
#else
#define DEFAULT_BACKEND "reference"
#endif

static void outputs_and_activations_are_the_published_ones(void **state)
{
    (void)state;
    enum dtype dtype = DT_F32;
    assert_int_equal(dtype_parse(&dtype, setting("DAVID_TEST_DTYPE", "F32"), NULL), ST_OK);
    double tolerance = dtype == DT_F32 ? 1e-4 : 2e-2;
    uint64_t most = strtoull(setting("DAVID_TEST_MAX_PARAMS", "1000000000"), NULL, 10);
    struct backend *b = chosen_backend(setting("DAVID_TEST_BACKEND", DEFAULT_BACKEND));
    if (!b->ops->has_dtype(b, dtype)) {
        (void)printf("%s has no %s here\n", b->ops->name, dtype_name(dtype));
        b->ops->close(b);
        skip();
    }
    char pattern[512];
    glob_t found;
    (void)snprintf(pattern, sizeof pattern, "%s/unet_*.safetensors",
                   setting("DAVID_GOLDEN", DAVID_GOLDEN_DEFAULT));
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    bool in_double = strcmp(b->ops->name, "reference") == 0;
    unsigned failed = 0, ran = 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct golden g = { 0 };
        struct graph *graph = NULL;
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        open_golden(&g, found.gl_pathv[i]);
        assert_int_equal(unet_build(&graph, &g.arch, g.arch.image_size, g.arch.image_size, NULL),
                         ST_OK);
        if (graph_param_count(graph) > most) {
            (void)printf("%-32s %s %s: left out, %llu parameters\n", name, b->ops->name,
                         dtype_name(dtype), (unsigned long long)graph_param_count(graph));
        } else {
            run(&g, b, graph, dtype);
            double folded = folded_error(&g, b, graph, dtype);
            double folded_tolerance = dtype == DT_F32 ? 1e-6 : tolerance;
            /* bias + e is one F32 rounding where the unfolded form has two, and the difference grows through the layers. */
            if (!in_double && dtype == DT_F32 && !g.arch.use_scale_shift_norm)
                folded_tolerance = 4e-6;
            bool good = g.worst <= tolerance && folded <= folded_tolerance;
            (void)printf("%-32s %s %s: worst relative error %.2e (%s, of %u), tolerance %.0e; "
                         "folded %.1e from unfolded%s\n",
                         name, b->ops->name, dtype_name(dtype), g.worst, g.worst_name, g.compared,
                         tolerance, folded, good ? "" : "  FAILED");
            failed += !good;
            ran++;
        }
        graph_free(graph);
        close_golden(&g);
    }
    globfree(&found);
    b->ops->close(b);
    assert_true(ran > 0);
    assert_int_equal(failed, 0);
}

static void hash_values_are_the_published_ones(void **state)
{
    (void)state;
    char path[512];
    struct safetensors *st = NULL;
    (void)snprintf(path, sizeof path, "%s/hash.safetensors",
                   setting("DAVID_GOLDEN", DAVID_GOLDEN_DEFAULT));
    assert_int_equal(safetensors_open(&st, path, NULL), ST_OK);
    const char *seed = safetensors_metadata(st, "seed");
    assert_non_null(seed);
    assert_true(safetensors_count(st) > 0);
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        float *v = malloc(t->count * sizeof *v);
        assert_non_null(v);
        hash_values(t->name, strtoull(seed, NULL, 10), v, t->count);
        assert_memory_equal(v, t->data, t->count * sizeof *v);
        free(v);
    }
    safetensors_close(st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_values_are_the_published_ones),
        cmocka_unit_test(outputs_and_activations_are_the_published_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
