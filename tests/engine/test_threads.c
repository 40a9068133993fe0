/* What engine.h allows several threads to do at once. Also built with ThreadSanitizer (label tsan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "tests/engine/nano.h"
#include "tests/engine/restorations.h"

enum { TEAM = 4, SAMPLES = 3, LOADS = 3, RUNS = 3 };

/* ---- rows of one restoration ---- */

struct put_back {
    struct restoration *r;
    atomic_uint_fast64_t next;
    bool one_fails;
};

/* A tile that depends on its row alone. */
static void *put_rows(void *ctx)
{
    struct put_back *p = ctx;
    const size_t n = (size_t)3 * p->r->s.tile * p->r->s.tile;
    float *tile = malloc(n * sizeof *tile);
    for (uint64_t row; (row = atomic_fetch_add(&p->next, 1)) < restoration_tile_jobs(p->r);) {
        (void)restoration_extract(p->r, row, tile, NULL);
        for (size_t i = 0; i < n; i++)
            tile[i] = tile[i] / 2 + (float)(row % 7) / 16;
        if (p->one_fails && row == 5)
            restoration_count_back(p->r, ST_DEVICE_FAULT);
        else
            (void)restoration_put(p->r, row, tile, NULL);
        (void)restoration_is_done(p->r);
    }
    free(tile);
    return NULL;
}

static struct restoration *put_back_by(int team, const struct image *img, bool one_fails)
{
    struct restoration_setup s = setup(TASK_DENOISE, 32, 8);
    struct restoration *r = NULL;
    pthread_t threads[TEAM];
    s.img = img;
    s.samples = SAMPLES;
    s.output = OUTPUT_ALL;
    s.keep_samples = true;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    struct put_back p = { .r = r, .one_fails = one_fails };
    for (int i = 0; i < team; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, put_rows, &p), 0);
    for (int i = 0; i < team; i++)
        (void)pthread_join(threads[i], NULL);
    assert_true(restoration_is_done(r));
    return r;
}

static void rows_come_back_from_any_thread_in_any_order(void **state)
{
    (void)state;
    static const enum output_kind kinds[] = { OUTPUT_IMAGE, OUTPUT_MEAN, OUTPUT_STD };
    struct image img = image(150, 120, 3, 8, 1);
    struct restoration *alone = put_back_by(1, &img, false);
    struct restoration *crowd = put_back_by(TEAM, &img, false);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct image want = { 0 }, got = { 0 };
        assert_int_equal(restoration_image(alone, kinds[k], 0, &want, NULL), ST_OK);
        assert_int_equal(restoration_image(crowd, kinds[k], 0, &got, NULL), ST_OK);
        assert_memory_equal(got.pixels, want.pixels, image_bytes(&want));
        image_done(&want);
        image_done(&got);
    }
    assert_true(restoration_facts(crowd)->residual_rms == restoration_facts(alone)->residual_rms);
    restoration_free(alone);
    restoration_free(crowd);
    image_done(&img);
}

static void a_lost_row_fails_its_restoration_whoever_loses_it(void **state)
{
    (void)state;
    struct image img = image(150, 120, 3, 8, 1), out = { 0 };
    struct restoration *r = put_back_by(TEAM, &img, true);
    assert_int_equal(restoration_image(r, OUTPUT_MEAN, 0, &out, NULL), ST_DEVICE_FAULT);
    assert_null(out.pixels);
    restoration_free(r);
    image_done(&img);
}

/* ---- loading beside running ---- */

static const struct unet_arch tiny = NANO_ARCH(32);

static struct engine *engine;
static atomic_bool is_wrong; /* cmocka's assertions belong to the main thread */

static void *load_models(void *ctx)
{
    (void)ctx;
    for (uint64_t i = 0; i < LOADS; i++) {
        struct model *m = NULL;
        if (model_hash(&m, engine, &tiny, 100 + i, NULL) || model_warm(m, NULL)) is_wrong = true;
        model_free(m);
    }
    return NULL;
}

static struct image run_model(struct model *m, const struct image *img)
{
    const struct restore_params params = {
        .task = "denoise", .seed = 7, .h = -1, .samples = 1, .output = OUTPUT_IMAGE
    };
    struct restoration *r = NULL;
    struct image out = { 0 };
    assert_int_equal(restoration_new(&r, m, &params, img, NULL, NULL), ST_OK);
    for (uint64_t i = 0; i < restoration_tile_jobs(r); i++) {
        struct tile_job row = { .restoration = r, .index = i };
        assert_int_equal(engine_run(engine, m, &row, 1, NULL), ST_OK);
        assert_int_equal(row.status, ST_OK);
    }
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    restoration_free(r);
    return out;
}

static void a_model_runs_the_same_while_others_come_and_go(void **state)
{
    (void)state;
    const struct engine_options o = { .backend = "cpu", .dtype = "f32", .threads = 1 };
    struct image img = image(40, 40, 3, 8, 3);
    struct model *m = NULL;
    pthread_t loader;
    assert_int_equal(engine_open(&engine, &o, NULL), ST_OK);
    assert_int_equal(model_hash(&m, engine, &tiny, 1, NULL), ST_OK);
    struct image want = run_model(m, &img);
    assert_int_equal(pthread_create(&loader, NULL, load_models, NULL), 0);
    for (int i = 0; i < RUNS; i++) {
        struct image got = run_model(m, &img);
        assert_memory_equal(got.pixels, want.pixels, image_bytes(&want));
        image_done(&got);
    }
    (void)pthread_join(loader, NULL);
    assert_false(is_wrong);
    image_done(&want);
    image_done(&img);
    model_free(m);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_from_any_thread_in_any_order),
        cmocka_unit_test(a_lost_row_fails_its_restoration_whoever_loses_it),
        cmocka_unit_test(a_model_runs_the_same_while_others_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
