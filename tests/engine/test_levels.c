/* Sigma and level of a request: what a model allows, what an image's file tells, what they do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/davi/conditions.h"
#include "engine/internal.h"
#include "proto/models/safetensors.h"
#include "tests/engine/metadata.h"
#include "tests/engine/restorations.h"

#define RANGES                                                                                     \
    "{\"deblur\":{\"sigma\":0.05,\"sigma_range\":[0.02,0.2],\"h\":0.1,\"label\":null,"             \
    "\"level\":3,\"level_range\":[1,4]},"                                                          \
    "\"dejpeg\":{\"sigma\":0,\"h\":0.1,\"level\":20,\"level_range\":[10,80]},"                     \
    "\"sr2\":{\"sigma\":0.05,\"h\":0.1}}"
#define SINGLE                                                                                     \
    "{\"deblur\":{\"sigma\":0.05,\"h\":0.1},\"dejpeg\":{\"sigma\":0,\"h\":0.1,\"level\":30}}"

/* The shipped network under other tasks. */
static enum status load(struct model **out, struct engine *e, const char *tasks, struct error *err)
{
    char folder[] = "/tmp/david-test-XXXXXX", path[64];
    struct safetensors *st = NULL;
    struct st_tensor *t = NULL;
    struct st_meta meta[MODEL_METADATA_MAX];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    assert_int_equal(safetensors_open(&st, DAVID_SOURCE_DIR "/models/default.safetensors", NULL),
                     ST_OK);
    const size_t n = safetensors_count(st), n_meta = metadata_of(meta, st);
    t = calloc(n, sizeof *t);
    for (size_t i = 0; i < n; i++)
        t[i] = *safetensors_at(st, i);
    for (size_t i = 0; i < n_meta; i++)
        if (strcmp(meta[i].key, "david.tasks") == 0) meta[i].value = tasks;
    assert_int_equal(safetensors_write(path, t, n, meta, n_meta, NULL, NULL, NULL), ST_OK);
    enum status s = model_load(out, e, path, err);
    free(t);
    safetensors_close(st);
    unlink(path);
    rmdir(folder);
    return s;
}

static struct engine *engine(void)
{
    struct engine *e = NULL;
    const struct engine_options o = { .backend = "cpu", .dtype = "f32", .threads = 2 };
    assert_int_equal(engine_open(&e, &o, NULL), ST_OK);
    return e;
}

static struct model *model_of(struct engine *e, const char *tasks)
{
    struct model *m = NULL;
    struct error err = { 0 };
    if (load(&m, e, tasks, &err)) fail_msg("%s", err.detail);
    return m;
}

static void what_a_model_was_not_trained_for_is_refused_with_its_range(void **state)
{
    (void)state;
    struct engine *e = engine();
    struct model *ranges = model_of(e, RANGES), *single = model_of(e, SINGLE);
    struct image img = image(16, 16, 3, 8, 1);
    const struct {
        struct model *m;
        const char *task;
        double sigma, level;
        const char *says; /* NULL: it is taken */
    } all[] = {
        { ranges, "deblur", 0, 0, NULL },
        { ranges, "deblur", 0.02, 1, NULL },
        { ranges, "deblur", 0.2, 4, NULL },
        { ranges, "deblur", 0.19, 2.5, NULL },
        { ranges, "deblur", 0, 4.5, "level = 4.5 is not in 1..4" },
        { ranges, "deblur", 0, 0.5, "level = 0.5 is not in 1..4" },
        { ranges, "deblur", 0.3, 0, "sigma = 0.3 is not in 0.02..0.2" },
        { ranges, "deblur", 0.01, 0, "sigma = 0.01 is not in 0.02..0.2" },
        { ranges, "deblur", NAN, 0, "sigma = nan" },
        { ranges, "deblur", 0, NAN, "level = nan" },
        { ranges, "dejpeg", 0, 81, "level = 81 is not in 10..80" },
        { ranges, "dejpeg", 0.1, 0, "sigma = 0.1: the model's task dejpeg was trained for 0" },
        { ranges, "sr2", 0, 3, "task sr2 has no level" },
        { ranges, "sr2", 0.06, 0, "sigma = 0.06: the model's task sr2 was trained for 0.05" },
        { single, "deblur", 0.05, 3, NULL },
        { single, "deblur", 0, 2, "level = 2: the model's task deblur was trained for 3 alone" },
        { single, "dejpeg", 0, 30, NULL },
        { single, "dejpeg", 0, 20, "trained for 30 alone" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct restore_params p = {
            .task = all[i].task, .h = -1, .sigma = all[i].sigma, .level = all[i].level, .samples = 1
        };
        struct restoration *r = NULL;
        struct error err = { 0 }, early = { 0 };
        const enum status want = all[i].says ? ST_BAD_PARAMETER : ST_OK;
        assert_int_equal(restore_params_check(&p, all[i].m, &early), want);
        assert_int_equal(restoration_new(&r, all[i].m, &p, &img, NULL, &err), want);
        assert_string_equal(early.detail, err.detail);
        if (all[i].says && !strstr(err.detail, all[i].says))
            fail_msg("\"%s\" lacks \"%s\"", err.detail, all[i].says);
        const size_t peak = restoration_peak_bytes(all[i].m, &p, 16, 16, 3, 8, false);
        assert_int_equal(peak == SIZE_MAX, want != ST_OK);
        restoration_free(r);
    }
    image_done(&img);
    model_free(ranges);
    model_free(single);
    engine_close(e);
}

/* The level of the file comes after that of the request and before the model's own. */
static void a_jpeg_tells_its_level_within_the_range(void **state)
{
    (void)state;
    struct engine *e = engine();
    struct model *ranges = model_of(e, RANGES), *single = model_of(e, SINGLE);
    const struct {
        struct model *m;
        const char *task;
        uint32_t file;
        double asked, want;
    } all[] = {
        { ranges, "dejpeg", 0, 0, 20 },   { ranges, "dejpeg", 35, 0, 35 },
        { ranges, "dejpeg", 95, 0, 80 },  { ranges, "dejpeg", 3, 0, 10 },
        { ranges, "dejpeg", 35, 50, 50 }, { ranges, "deblur", 35, 0, 3 },
        { ranges, "sr2", 35, 0, 0 },      { single, "dejpeg", 95, 0, 30 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct restore_params p = {
            .task = all[i].task, .h = -1, .level = all[i].asked, .samples = 1
        };
        struct image img = image(16, 16, 3, 8, 1);
        struct restoration *r = NULL;
        img.jpeg_quality = all[i].file;
        assert_int_equal(restoration_new(&r, all[i].m, &p, &img, NULL, NULL), ST_OK);
        assert_true(r->s.level == all[i].want);
        restoration_free(r);
        image_done(&img);
    }
    model_free(ranges);
    model_free(single);
    engine_close(e);
}

static void run(struct engine *e, struct model *m, struct restoration *r)
{
    for (uint64_t i = 0; i < restoration_tile_jobs(r); i++) {
        struct tile_job row = { .restoration = r, .index = i };
        assert_int_equal(engine_run(e, m, &row, 1, NULL), ST_OK);
        assert_int_equal(row.status, ST_OK);
    }
}

/* RMS of A x - y, x the image that came back, whose rounding moves it by 1/255 at most. */
static double residual_by_hand(const struct image *x, const struct image *y, double level)
{
    const struct extent size = { x->width, x->height, 3 };
    const size_t n = (size_t)size.w * size.h * 3;
    const struct operation a = { OPERATOR_BLUR, level, size, NULL };
    float *scratch = malloc(operator_scratch_floats(a.op, size) * sizeof *scratch);
    float *from = malloc(n * sizeof *from), *to = malloc(n * sizeof *to);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        from[i] = (float)(((uint8_t *)x->pixels)[i] / 127.5 - 1);
    assert_int_equal(operator_apply(&a, from, to, scratch, NULL), ST_OK);
    for (size_t i = 0; i < n; i++)
        sum += pow((double)to[i] - (((uint8_t *)y->pixels)[i] / 127.5 - 1), 2);
    free(scratch);
    free(from);
    free(to);
    return sqrt(sum / (double)n);
}

static void the_level_asked_for_is_the_operator_of_the_residual(void **state)
{
    (void)state;
    static const double levels[] = { 1, 2, 4 };
    struct engine *e = engine();
    struct model *m = model_of(e, RANGES);
    struct image y = image(40, 48, 3, 8, 2), x = { 0 };
    double before = 0;
    for (size_t i = 0; i < 3; i++) {
        const struct restore_params p = {
            .task = "deblur", .h = -1, .sigma = 0.11, .level = levels[i], .samples = 1
        };
        struct restoration *r = NULL;
        assert_int_equal(restoration_new(&r, m, &p, &y, NULL, NULL), ST_OK);
        run(e, m, r);
        const struct restoration_result *f = restoration_facts(r);
        assert_true(f->level == levels[i] && f->sigma == 0.11);
        assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &x, NULL), ST_OK);
        const double by_hand = residual_by_hand(&x, &y, levels[i]);
        if (!(fabs(f->residual_rms - by_hand) < 1e-4))
            fail_msg("level %g: %g, not %g", levels[i], f->residual_rms, by_hand);
        assert_true(fabs(f->residual_rms - before) > 1e-3); /* each blur is another */
        before = f->residual_rms;
        image_done(&x);
        restoration_free(r);
    }
    image_done(&y);
    model_free(m);
    engine_close(e);
}

static void a_file_s_levels_are_filled_in_and_checked(void **state)
{
    (void)state;
    static const struct {
        const char *tasks, *says;
    } bad[] = {
        { "{\"denoise\":{\"sigma\":0.2,\"h\":0.1,\"level\":3}}", "denoise has no level" },
        { "{\"deblur\":{\"sigma\":0.05,\"h\":0.1,\"level\":9}}", "level = 9 is not in 0.5..7.5" },
        { "{\"deblur\":{\"sigma\":0.05,\"h\":0.1,\"level\":3,\"level_range\":[0.1,4]}}",
          "level = 0.1" },
        { "{\"dejpeg\":{\"sigma\":0,\"h\":0.1,\"level\":0.5}}", "level = 0.5 is not in 1..100" },
        { "{\"dejpeg\":{\"sigma\":0,\"h\":0.1,\"level\":0,\"level_range\":[0,80]}}",
          "level = 0 is not in 1..100" },
    };
    struct engine *e = engine();
    struct model *m = model_of(e, SINGLE);
    const struct model_task *deblur = model_find_task(m, "deblur"),
                            *dejpeg = model_find_task(m, "dejpeg");
    assert_true(deblur->level == 3 && deblur->level_range[0] == 3 && deblur->level_range[1] == 3);
    assert_true(dejpeg->level == 30 && dejpeg->level_range[1] == 30);
    model_free(m);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = { 0 };
        m = NULL;
        assert_int_equal(load(&m, e, bad[i].tasks, &err), ST_BAD_FILE);
        assert_null(m);
        if (!strstr(err.detail, bad[i].says))
            fail_msg("\"%s\" lacks \"%s\"", err.detail, bad[i].says);
    }
    engine_close(e);
}

/* Of a network that is told both, every request gets the condition of the grid that is nearest. */
static void conditions_are_a_grid_over_both_ranges(void **state)
{
    (void)state;
    struct model_info info = {
        .arch = { .sigma_cond = true, .level_cond = true },
        .n_tasks = 3,
        .tasks = { { "deblur", 0.05, 0.1, -1, { 0.02, 0.2 }, 3, { 1, 4 } },
                   { "dejpeg", 0, 0.1, -1, { 0, 0 }, 20, { 10, 80 } },
                   { "denoise", 0.2, 0.1, -1, { 0.02, 0.4 }, 0, { 0, 0 } } },
    };
    struct conditions c = { 0 };
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    for (uint32_t t = 0; t < 3; t++)
        for (int i = 0; i <= 40; i++) {
            const struct model_task *task = &info.tasks[t];
            const double f = i / 40.0;
            const double sigma =
                task->sigma_range[0] + f * (task->sigma_range[1] - task->sigma_range[0]);
            const double level =
                task->level_range[1] - f * (task->level_range[1] - task->level_range[0]);
            const uint32_t k = conditions_find(&c, &info, t, sigma, level);
            assert_true(k < c.n);
            assert_true(fabs((double)c.all[k].sigma - 1000 * sigma) <= 0.055 * 1000 * sigma + 1e-3);
            const double gain = task_find(task->name)->level_gain;
            const double step = (task->level_range[1] - task->level_range[0]) / LEVEL_STEPS;
            assert_true(fabs((double)c.all[k].level - gain * level) <= 0.501 * gain * step);
        }
    conditions_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_model_was_not_trained_for_is_refused_with_its_range),
        cmocka_unit_test(a_jpeg_tells_its_level_within_the_range),
        cmocka_unit_test(the_level_asked_for_is_the_operator_of_the_residual),
        cmocka_unit_test(a_file_s_levels_are_filled_in_and_checked),
        cmocka_unit_test(conditions_are_a_grid_over_both_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
