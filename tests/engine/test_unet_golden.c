/* Every unet_*.safetensors and levers_*.safetensors of the golden folder through a back end: output and activations of every block (engine/README.md
 * section 7). back_end.h says which, or it is the reference; $DAVID_TEST_DTYPE: F32, BF16 or F16; $DAVID_TEST_MIN_PARAMS,
 * $DAVID_TEST_MAX_PARAMS: smaller and larger networks are left out (and named). One line a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "tests/engine/back_end.h"
#include "tests/engine/golden.h"

struct network {
    struct golden file;
    struct unet_arch arch;
    uint64_t seed;
    struct golden_told told;
    uint32_t rows, stride, in_channels, channels; /* of x, of y */
    float *x, *y;                                 /* NHWC, [rows] */
};

/* v: [rows][px][c] */
static void compare_part(struct network *n, const char *name, const float *v, size_t px, size_t c)
{
    size_t count = n->rows * px * c;
    float *in_file_order = malloc(count * sizeof *v);
    assert_non_null(in_file_order);
    for (size_t i = 0; i < count; i++)
        in_file_order[i] = v[golden_nhwc(i, px, c)];
    golden_sampled(&n->file, name, in_file_order, count);
    free(in_file_order);
}

static void compare_output(struct network *n)
{
    size_t count = 0, size = n->arch.image_size, side = (size + n->stride - 1) / n->stride;
    float *want = golden_values(&n->file, "y", &count);
    assert_non_null(want);
    assert_int_equal(count, n->rows * n->channels * side * side);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        size_t plane = i / (side * side), y = i / side % side, x = i % side;
        size_t at = (plane * size + y * n->stride) * size + x * n->stride;
        double have = (double)n->y[golden_nhwc(at, size * size, n->channels)];
        difference += (have - (double)want[i]) * (have - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    golden_note(&n->file, "y", sqrt(difference / norm));
    free(want);
    compare_part(n, "y_full", n->y, size * size, n->channels);
}

static void open_network(struct network *n, const char *path)
{
    *n = (struct network){ 0 };
    golden_open(&n->file, path);
    n->arch = golden_arch(&n->file);
    n->seed = golden_seed(&n->file);
    n->stride = (uint32_t)strtoul(golden_text(&n->file, "stride"), NULL, 10);
    n->told = golden_told(&n->file);
    n->rows = n->told.rows;
    n->in_channels = arch_input_channels(&n->arch);

    size_t px = (size_t)n->arch.image_size * n->arch.image_size;
    size_t count = n->rows * px * n->in_channels;
    assert_true(count > 0);
    float *flat = malloc(count * sizeof *flat);
    n->x = malloc(count * sizeof *n->x);
    assert_non_null(flat);
    assert_non_null(n->x);
    hash_values("x", n->seed, flat, count);
    golden_to_nhwc(n->x, flat, count, px, n->in_channels);
    free(flat);
}

static void close_network(struct network *n)
{
    safetensors_close(n->file.file);
    golden_told_done(&n->told);
    free(n->x);
    free(n->y);
}

static uint32_t batch_rows(struct backend *b, uint32_t rows)
{
    return b->ops->device.batch_rows ? b->ops->device.batch_rows(b, rows)
                                     : b->ops->device.rows_per_batch(b);
}

/* Runs `rows` at once and compares every tap that the file has; only a pass's rows are kept, so the passes are put together. */
static void run(struct network *n, struct backend *b, const struct graph *graph, enum dtype dtype)
{
    struct error err = { 0 };
    struct param_source src = { hash_param_load, &n->seed };
    struct program_options o = { .dtype = dtype, .keep_taps = true };
    struct program *p = NULL;
    if (program_new(&p, b, graph, &src, &o, &err)) fail_msg("%s", err.detail);

    uint32_t per_batch = b->ops->device.rows_per_batch(b);
    size_t px = (size_t)n->arch.image_size * n->arch.image_size;
    n->channels = graph->nodes[graph->output].c;
    n->y = malloc(n->rows * px * n->channels * sizeof *n->y);
    float **taps = calloc(graph->n_nodes, sizeof *taps);
    assert_non_null(n->y);
    assert_non_null(taps);
    const size_t x_bytes = n->rows * px * n->in_channels * sizeof *n->x;
    const size_t y_bytes = n->rows * px * n->channels * sizeof *n->y;
    float *x = bytes_to_device(b, n->x, x_bytes), *y = bytes_to_device(b, n->y, y_bytes);
    for (uint32_t first = 0; first < n->rows; first += per_batch) {
        uint32_t rows = n->rows - first < per_batch ? n->rows - first : per_batch;
        const struct golden_told *told = &n->told;
        struct program_io io = { .x = x + first * px * n->in_channels,
                                 .y = y + first * px * n->channels,
                                 .t = told->t + first,
                                 .sigma = told->sigma ? told->sigma + first : NULL,
                                 .level = told->level ? told->level + first : NULL,
                                 .label = told->label ? told->label + first : NULL };
        if (program_run(p, &io, rows, &err)) fail_msg("%s", err.detail);
        for (uint32_t i = 0; i < graph->n_nodes; i++) {
            const struct node *node = &graph->nodes[i];
            if (!node->tap[0] || strcmp(node->tap, "out") == 0) continue;
            size_t row = (size_t)node->h * node->w * node->c, count = 0;
            if (!taps[i]) taps[i] = malloc((n->rows + per_batch) * row * sizeof **taps);
            assert_non_null(taps[i]);
            if (program_tap(p, node->tap, taps[i] + first * row, &count, &err))
                fail_msg("%s", err.detail);
            assert_int_equal(count, batch_rows(b, rows) * row);
        }
    }
    bytes_from_device(b, x, NULL, 0);
    bytes_from_device(b, y, n->y, y_bytes);
    compare_output(n);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const struct node *node = &graph->nodes[i];
        char name[8 + TAP_NAME_MAX];
        (void)snprintf(name, sizeof name, "act.%s", node->tap);
        if (taps[i]) compare_part(n, name, taps[i], (size_t)node->h * node->w, node->c);
        free(taps[i]);
    }
    free(taps);
    program_free(p);
}

/* The folded form with one set a row, against the unfolded output: relative L2. */
static double folded_error(const struct network *n, struct backend *b, const struct graph *graph,
                           enum dtype dtype)
{
    struct error err = { 0 };
    uint64_t seed = n->seed;
    struct param_source src = { hash_param_load, &seed };
    size_t count = (size_t)n->rows * n->arch.image_size * n->arch.image_size * n->channels;
    struct condition *conditions = calloc(n->rows, sizeof *conditions);
    uint32_t *condition = calloc(n->rows, sizeof *condition);
    float *y = malloc(count * sizeof *y);
    assert_non_null(conditions);
    assert_non_null(condition);
    assert_non_null(y);
    for (uint32_t i = 0; i < n->rows; i++) {
        conditions[i] = (struct condition){ .t = n->told.t[i],
                                            .label = n->told.label ? (int32_t)n->told.label[i] : -1,
                                            .sigma = n->told.sigma ? n->told.sigma[i] : 0,
                                            .level = n->told.level ? n->told.level[i] : 0 };
        condition[i] = i;
    }
    struct program_options o = { .dtype = dtype,
                                 .conditions = conditions,
                                 .n_conditions = n->rows };
    struct program *p = NULL;
    if (program_new(&p, b, graph, &src, &o, &err)) fail_msg("%s", err.detail);
    const size_t x_bytes = count / n->channels * n->in_channels * sizeof *n->x;
    struct program_io io = { .x = bytes_to_device(b, n->x, x_bytes),
                             .y = bytes_to_device(b, y, count * sizeof *y),
                             .condition = condition };
    if (program_run(p, &io, n->rows, &err)) fail_msg("%s", err.detail);
    bytes_from_device(b, (void *)(uintptr_t)io.x, NULL, 0);
    bytes_from_device(b, io.y, y, count * sizeof *y);
    program_free(p);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)y[i] - (double)n->y[i]) * ((double)y[i] - (double)n->y[i]);
        norm += (double)n->y[i] * (double)n->y[i];
    }
    free(conditions);
    free(condition);
    free(y);
    return sqrt(difference / norm);
}

static struct backend *chosen_backend(void)
{
    struct backend *b = NULL;
    struct error err = { 0 };
#ifdef DAVID_TEST_REFERENCE
    enum status s = reference_backend_open(&b, &err);
#else
    enum status s = test_backend_open(&b, 2, &(struct plugin_options){ .max_rows = 2 }, &err);
#endif
    if (s) fail_msg("%s", err.detail);
    return b;
}

static void outputs_and_activations_are_the_published_ones(void **state)
{
    (void)state;
    enum dtype dtype = DT_F32;
    assert_int_equal(dtype_parse(&dtype, golden_setting("DAVID_TEST_DTYPE", "F32"), NULL), ST_OK);
    double tolerance = dtype == DT_F32 ? 1e-4 : dtype == DT_BF16 ? 2e-2 : 5e-3;
    uint64_t most = strtoull(golden_setting("DAVID_TEST_MAX_PARAMS", "1000000000"), NULL, 10);
    uint64_t least = strtoull(golden_setting("DAVID_TEST_MIN_PARAMS", "0"), NULL, 10);
    struct backend *b = chosen_backend();
    if (!b->ops->device.has_dtype(b, dtype)) {
        (void)printf("%s has no %s here\n", b->ops->device.name, dtype_name(dtype));
        b->ops->device.close(b);
        skip();
    }
    glob_t found;
    golden_networks(&found);
    unsigned failed = 0, ran = 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct network n;
        struct graph *graph = NULL;
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        open_network(&n, found.gl_pathv[i]);
        assert_int_equal(unet_build(&graph, &n.arch, n.arch.image_size, n.arch.image_size, NULL),
                         ST_OK);
        if (graph_param_count(graph) > most || graph_param_count(graph) < least) {
            (void)printf("%-32s %s %s: left out, %llu parameters\n", name, b->ops->device.name,
                         dtype_name(dtype), (unsigned long long)graph_param_count(graph));
        } else {
            run(&n, b, graph, dtype);
            double folded = folded_error(&n, b, graph, dtype);
            double folded_tolerance = dtype == DT_F32 ? 1e-6 : tolerance;
            bool good = n.file.worst <= tolerance && folded <= folded_tolerance;
            (void)printf("%-32s %s %s: worst relative error %.2e (%s, of %u), tolerance %.0e; "
                         "folded %.1e from unfolded%s\n",
                         name, b->ops->device.name, dtype_name(dtype), n.file.worst,
                         n.file.worst_name, n.file.compared, tolerance, folded,
                         good ? "" : "  FAILED");
            failed += !good;
            ran++;
        }
        graph_free(graph);
        close_network(&n);
    }
    globfree(&found);
    b->ops->device.close(b);
    assert_true(ran > 0);
    assert_int_equal(failed, 0);
}

static void hash_values_are_the_published_ones(void **state)
{
    (void)state;
    char path[512];
    struct safetensors *st = NULL;
    (void)snprintf(path, sizeof path, "%s/hash.safetensors",
                   golden_setting("DAVID_GOLDEN", DAVID_GOLDEN_DEFAULT));
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
