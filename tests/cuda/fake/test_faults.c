/* The plugin on the fake device under failures: every allocation in turn, and work in regular
 * steps. Also what serving must not do: allocate, record or plan again. Linked with the plugin's
 * own sources, so that the test can query the fake device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/cudnn_internal.h"
#include "engine/cuda/internal.h"
#include "engine/internal.h"
#include "tests/cuda/fake/fake.h"
#include "tests/engine/nano.h"

enum { ROWS = 4, SIDE = 8 };

static const struct unet_arch tiny = NANO_ARCH(SIDE);

struct loaded {
    struct engine *engine;
    struct model *model;
};

static enum status load_on(struct loaded *l, int device, struct error *err)
{
    const struct plugin_options po = { .device = device, .max_rows = ROWS };
    const struct engine_options o = { .backend = "cuda", .dtype = "bf16", .max_batch = ROWS };
    struct backend *b = NULL;
    *l = (struct loaded){ NULL, NULL };
    enum status s = cuda_backend_open(&b, &po, err);
    if (!s) s = engine_on(&l->engine, b, &o, err);
    if (!s) s = model_hash(&l->model, l->engine, &tiny, 1, err);
    return s ? s : model_warm(l->model, err);
}

static void unload(struct loaded *l)
{
    model_free(l->model);
    engine_close(l->engine);
}

static struct image image_of(uint64_t seed)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, SIDE, SIDE, 3, 8, NULL), ST_OK);
    for (size_t i = 0; i < image_bytes(&img); i++)
        ((uint8_t *)img.pixels)[i] = (uint8_t)((i * 37 + seed * 11) & 255);
    return img;
}

/* `n` rows of one image in one batch; `out`: where the device survives, sample 0. */
static enum status serve(struct loaded *l, size_t n, struct image *out, struct error *err)
{
    const struct restore_params p = { .task = "denoise",
                                      .h = -1,
                                      .samples = (uint32_t)n,
                                      .output = n > 1 ? OUTPUT_ALL : OUTPUT_IMAGE,
                                      .keep_samples = n > 1 };
    struct image img = image_of(3);
    struct restoration *r = NULL;
    struct tile_job rows[ROWS];
    if (restoration_new(&r, l->model, &p, &img, NULL, err)) fail_msg("%s", err->detail);
    assert_int_equal(restoration_tile_jobs(r), n);
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct tile_job){ .restoration = r, .index = i };
    enum status s = engine_run(l->engine, l->model, rows, n, err);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(rows[i].status, s); /* every row returns, and with the error */
    if (!s && out) assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, out, NULL), ST_OK);
    restoration_free(r);
    image_done(&img);
    return s;
}

static void expect_nothing_left(const char *when, uint64_t nth)
{
    const struct fake_counts c = fake_count();
    const struct {
        const char *what;
        uint64_t n;
    } all[] = { { "bytes", c.allocated_bytes }, { "descriptors", c.descriptors },
                { "streams", c.streams },       { "events", c.events },
                { "graphs", c.graphs },         { "pinned blocks", c.pinned } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].n)
            fail_msg("%s %llu: %llu %s are left", when, (unsigned long long)nth,
                     (unsigned long long)all[i].n, all[i].what);
}

static void each_allocation_that_fails_is_said_and_leaks_nothing(void **state)
{
    (void)state;
    unsigned refused = 0, smaller = 0;
    for (uint64_t nth = 1;; nth++) {
        struct loaded l;
        struct error err = { 0 };
        const uint64_t before = fake_count().allocations;
        fake_fail_allocation(nth);
        enum status s = load_on(&l, 0, &err);
        const uint64_t made = fake_count().allocations - before;
        fake_fail_allocation(0);
        const bool is_whole = !s && model_rows(l.model) == ROWS;
        if (s) {
            assert_int_equal(s, ST_NO_MEMORY_NOW);
            assert_non_null(strstr(err.detail, "out of memory"));
            refused++;
        } else if (!is_whole) {
            assert_int_equal(serve(&l, 3, NULL, &err), ST_OK);
            smaller++;
        }
        unload(&l);
        expect_nothing_left("allocation", nth);
        /* fail_allocation counts pinned memory, allocations does not: a few more are tried. */
        if (is_whole && nth > made + 16) break;
    }
    print_message("%u loads refused, %u with a smaller pass\n", refused, smaller);
    assert_true(refused > 10 && smaller > 10);
}

static void a_fault_at_any_work_ends_all_of_it(void **state)
{
    (void)state;
    enum { STEP = 41 };
    unsigned in_load = 0, in_serving = 0;
    struct loaded whole;
    struct image want = { 0 };
    struct error none = { 0 };
    assert_int_equal(load_on(&whole, 0, &none), ST_OK);
    assert_int_equal(serve(&whole, 1, &want, &none), ST_OK);
    unload(&whole);
    for (uint64_t items = 0;; items += STEP) {
        struct loaded l;
        struct error err = { 0 };
        fake_break_after(items);
        enum status s = load_on(&l, 0, &err);
        in_load += s != ST_OK;
        for (size_t n = 1; !s && n <= ROWS; n++) {
            struct image out = { 0 };
            s = serve(&l, n, &out, &err);
            if (!s) assert_memory_equal(out.pixels, want.pixels, image_bytes(&want));
            image_done(&out);
        }
        const bool has_held = s == ST_OK;
        if (!has_held) {
            assert_int_equal(s, ST_DEVICE_FAULT);
            assert_non_null(strstr(err.detail, "fake device 0"));
            assert_non_null(strstr(err.detail, "cudaErrorIllegalAddress"));
            in_serving += l.model != NULL;
        }
        if (!has_held && l.model) { /* permanent: no result is accepted */
            struct error later = { 0 };
            assert_int_equal(serve(&l, 2, NULL, &later), ST_DEVICE_FAULT);
            assert_int_equal(model_warm(l.model, &later), ST_DEVICE_FAULT);
        }
        unload(&l);
        fake_repair();
        expect_nothing_left("work", items);
        if (has_held) break;
    }
    image_done(&want);
    print_message("%u faults while loading, %u with a model\n", in_load, in_serving);
    assert_true(in_load > 5 && in_serving > 5);
}

static struct network *network_on(struct engine **e)
{
    const struct plugin_options po = { .max_rows = ROWS };
    const struct engine_options o = { .backend = "cuda", .dtype = "bf16", .max_batch = ROWS };
    struct backend *b = NULL;
    struct network *n = NULL;
    struct error err = { 0 };
    if (cuda_backend_open(&b, &po, &err) || engine_on(e, b, &o, &err) ||
        network_hash(&n, *e, &tiny, 1, SIDE, SIDE, false, false, &err))
        fail_msg("%s", err.detail);
    return n;
}

/* A forward pass returns a correct result or an error. */
static void no_fault_at_any_work_of_an_execution_is_taken_for_a_result(void **state)
{
    (void)state;
    enum { PX = SIDE * SIDE, VALUES = 2 * 3 * PX };
    float x[VALUES], y[2 * VALUES], want[2 * VALUES], t[2] = { 999, 17 };
    const struct network_input in = { .x = x, .t = t };
    unsigned faults = 0;
    hash_values("x", 1, x, VALUES);
    for (uint64_t items = 0;; items++) {
        struct engine *e = NULL;
        struct network *n = network_on(&e);
        struct error err = { 0 };
        for (int k = 0; k < 2; k++) /* loaded, recorded */
            assert_int_equal(network_forward(n, &in, 2, want, &err), ST_OK);
        fake_break_after(items);
        memset(y, 0, sizeof y);
        enum status s = network_forward(n, &in, 2, y, &err);
        if (s == ST_OK)
            assert_memory_equal(y, want, sizeof y);
        else
            assert_int_equal(s, ST_DEVICE_FAULT);
        faults += s != ST_OK;
        network_free(n);
        engine_close(e);
        fake_repair();
        expect_nothing_left("work", items);
        if (s == ST_OK) break;
    }
    print_message("%u faults\n", faults);
    assert_true(faults > 20);
}

/* The device continues as if nothing had happened: only cuDNN's status reports it, in the execution
 * that runs op by op and in the one that is recorded. */
static void no_run_that_cudnn_refuses_is_taken_for_a_result(void **state)
{
    (void)state;
    enum { PX = SIDE * SIDE, VALUES = 2 * 3 * PX };
    float x[VALUES], y[2 * VALUES], t[2] = { 999, 17 };
    const struct network_input in = { .x = x, .t = t };
    hash_values("x", 1, x, VALUES);
    for (int passes = 0; passes < 2; passes++)
        for (uint64_t nth = 1;; nth++) {
            struct engine *e = NULL;
            struct network *n = network_on(&e);
            struct error err = { 0 };
            for (int k = 0; k < passes; k++)
                assert_int_equal(network_forward(n, &in, 2, y, &err), ST_OK);
            const uint64_t before = fake_count().dnn_runs;
            fake_fail_dnn(nth);
            enum status s = network_forward(n, &in, 2, y, &err);
            fake_fail_dnn(0);
            const bool has_met = s != ST_OK;
            if (has_met) {
                assert_int_equal(s, ST_DEVICE_FAULT);
                assert_non_null(strstr(err.detail, "as was asked"));
                /* permanent: a card on which cuDNN fails is not used again */
                struct error later = { 0 };
                assert_int_equal(network_forward(n, &in, 2, y, &later), ST_DEVICE_FAULT);
            } else {
                assert_true(nth > 10);
                assert_int_equal(fake_count().dnn_runs - before, nth - 1);
            }
            network_free(n);
            engine_close(e);
            fake_repair();
            expect_nothing_left("run", nth);
            if (!has_met) break;
        }
}

static void no_fault_at_any_work_of_a_batch_is_taken_for_a_result(void **state)
{
    (void)state;
    struct image want = { 0 };
    unsigned faults = 0;
    for (uint64_t items = 0;; items++) {
        struct loaded l;
        struct image out = { 0 };
        struct error err = { 0 };
        if (load_on(&l, 0, &err)) fail_msg("%s", err.detail);
        if (items == 0) assert_int_equal(serve(&l, 2, &want, &err), ST_OK);
        fake_break_after(items);
        enum status s = serve(&l, 2, &out, &err);
        if (s == ST_OK)
            assert_memory_equal(out.pixels, want.pixels, image_bytes(&want));
        else
            assert_int_equal(s, ST_DEVICE_FAULT);
        faults += s != ST_OK;
        image_done(&out);
        unload(&l);
        fake_repair();
        expect_nothing_left("work", items);
        if (s == ST_OK) break;
    }
    image_done(&want);
    print_message("%u faults\n", faults);
    assert_true(faults > 20);
}

static void serving_allocates_records_and_plans_nothing(void **state)
{
    (void)state;
    enum { ROUNDS = 5 };
    struct loaded l;
    struct error err = { 0 };
    struct image first = { 0 };
    if (load_on(&l, 0, &err)) fail_msg("%s", err.detail);
    assert_int_equal(serve(&l, 1, &first, &err), ST_OK);
    const struct fake_counts was = fake_count();
    for (int k = 0; k < ROUNDS; k++)
        for (size_t n = 1; n <= ROWS; n++) {
            struct image out = { 0 };
            assert_int_equal(serve(&l, n, &out, &err), ST_OK);
            /* at any batch size */
            assert_memory_equal(out.pixels, first.pixels, image_bytes(&first));
            image_done(&out);
        }
    const struct fake_counts is = fake_count();
    assert_int_equal(is.allocations, was.allocations);
    assert_int_equal(is.allocated_bytes, was.allocated_bytes);
    assert_int_equal(is.pinned, was.pinned);
    assert_int_equal(is.dnn_plans, was.dnn_plans);
    assert_int_equal(is.descriptors, was.descriptors);
    assert_int_equal(is.recorded, was.recorded);
    assert_int_equal(is.events, was.events);
    assert_int_equal(is.replays - was.replays, ROUNDS * ROWS); /* an execution is one replay */
    image_done(&first);

    /* A second model of the same shapes uses the existing plans. */
    struct model *second = NULL;
    if (model_hash(&second, l.engine, &tiny, 2, &err)) fail_msg("%s", err.detail);
    assert_int_equal(fake_count().dnn_plans, was.dnn_plans);
    model_free(second);
    unload(&l);
    expect_nothing_left("serving", 0);
}

static void two_devices_serve_beside_each_other_with_the_same_bytes(void **state)
{
    (void)state;
    struct loaded l[2];
    struct image out[2] = { { 0 }, { 0 } };
    struct error err = { 0 };
    fake_set_devices(2);
    for (int i = 0; i < 2; i++) {
        if (load_on(&l[i], i, &err)) fail_msg("%s", err.detail);
        assert_int_equal(serve(&l[i], 1, &out[i], &err), ST_OK);
    }
    assert_memory_equal(out[0].pixels, out[1].pixels, image_bytes(&out[0]));
    for (int i = 0; i < 2; i++) {
        image_done(&out[i]);
        unload(&l[i]);
    }
    assert_int_equal(load_on(&l[0], 2, &err), ST_DEVICE_FAULT); /* a third one is not available */
    unload(&l[0]);
    fake_set_devices(1);
    expect_nothing_left("devices", 2);
}

static void an_older_cudnn_is_refused_with_its_version(void **state)
{
    (void)state;
    struct loaded l;
    struct error err = { 0 };
    fake_set_dnn_version(91299);
    assert_int_equal(load_on(&l, 0, &err), ST_UNSUPPORTED);
    assert_non_null(strstr(err.detail, "cuDNN 9.12 is too old: 9.13"));
    fake_set_dnn_version(CUDNN_LEAST);
    expect_nothing_left("an older cuDNN", 0);
}

/* A model that is not supported is no fault of the card. */
static void heads_that_no_kernel_takes_are_refused_at_the_load(void **state)
{
    (void)state;
    const struct plugin_options po = { .device = 0, .max_rows = ROWS };
    struct attention_desc d = { .h = 2, .w = 2, .heads = 1, .dtype = DT_F32 };
    struct attention_plan *p = NULL;
    struct backend *b = NULL;
    struct error err = { 0 };
    assert_int_equal(cuda_backend_open(&b, &po, &err), ST_OK);
    for (uint32_t ch = GPU_HEAD_CHANNELS_MAX; ch <= GPU_HEAD_CHANNELS_MAX + 1; ch++) {
        d.head_channels = ch;
        d.qkv_ld = (size_t)3 * ch;
        d.y_ld = ch;
        const enum status want = ch > GPU_HEAD_CHANNELS_MAX ? ST_UNSUPPORTED : ST_OK;
        assert_int_equal(b->ops->net.attention_plan(b, &d, &p, &err), want);
        if (!want) b->ops->net.attention_plan_free(b, p);
    }
    assert_non_null(strstr(err.detail, "257 channels"));
    b->ops->device.close(b);
    expect_nothing_left("wide heads", 0);
}

/* cuDNN out of memory is no fault: fewer rows may fit. */
static void statuses_of_cudnn_are_taken_for_what_they_mean(void **state)
{
    (void)state;
    static const struct {
        cudnnStatus_t from;
        enum status to;
    } cases[] = {
        { CUDNN_STATUS_SUCCESS, ST_OK },
        { CUDNN_STATUS_BAD_PARAM, ST_INTERNAL },
        { CUDNN_STATUS_NOT_SUPPORTED, ST_UNSUPPORTED },
        { CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, ST_NO_MEMORY_NOW },
        { CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, ST_NO_MEMORY_NOW },
        { CUDNN_STATUS_EXECUTION_FAILED, ST_DEVICE_FAULT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = { 0 };
        struct dnn_parts parts = { .err = &err };
        dnn_note(&parts, cases[i].from, "a plan");
        assert_int_equal(parts.status, cases[i].to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serving_allocates_records_and_plans_nothing),
        cmocka_unit_test(each_allocation_that_fails_is_said_and_leaks_nothing),
        cmocka_unit_test(a_fault_at_any_work_ends_all_of_it),
        cmocka_unit_test(no_fault_at_any_work_of_an_execution_is_taken_for_a_result),
        cmocka_unit_test(no_run_that_cudnn_refuses_is_taken_for_a_result),
        cmocka_unit_test(no_fault_at_any_work_of_a_batch_is_taken_for_a_result),
        cmocka_unit_test(two_devices_serve_beside_each_other_with_the_same_bytes),
        cmocka_unit_test(an_older_cudnn_is_refused_with_its_version),
        cmocka_unit_test(heads_that_no_kernel_takes_are_refused_at_the_load),
        cmocka_unit_test(statuses_of_cudnn_are_taken_for_what_they_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
