/* The engine on a fake device while it serves. After the warm-up nothing is allocated or recorded,
 * at any batch size. Two batches in flight give the same bytes as each alone, also on two devices.
 * Batch executions of one size (deterministic) give the same bytes from start to start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/cuda/internal.h"
#include "engine/davi/restoration.h"
#include "engine/internal.h"
#include "tests/cuda/fake/fake.h"
#include "tests/engine/nano.h"

enum { MAX_BATCH = 6, SIDE = 32, BYTES = 3 * SIDE * SIDE };

static const struct unet_arch nano = NANO_ARCH(SIDE);

struct serving {
    struct engine *e;
    struct model *m;
};

static struct serving serving_on(int device, uint32_t engines, uint32_t batch, bool one_size)
{
    struct serving s = { NULL, NULL };
    struct backend *b = NULL;
    struct error err = { 0 };
    const struct plugin_options po = { .device = device, .max_rows = batch, .one_size = one_size };
    const struct engine_options eo = {
        .dtype = "bf16", .max_batch = batch, .threads = 1, .engines = engines
    };
    if (cuda_backend_open(&b, &po, &err) || engine_on(&s.e, b, &eo, &err) ||
        model_hash(&s.m, s.e, &nano, 7, &err) || model_warm(s.m, &err))
        fail_msg("%s", err.detail);
    return s;
}

static struct serving serving_of(bool one_size)
{
    return serving_on(0, 1, MAX_BATCH, one_size);
}

static void serving_done(struct serving *s)
{
    model_free(s->m);
    engine_close(s->e);
}

/* n images under restoration; the first has number `first`. */
struct batch {
    struct image img[MAX_BATCH];
    struct tile_job rows[MAX_BATCH];
    uint32_t n;
    struct in_flight_batch in_flight;
};

static void batch_make(struct batch *a, const struct serving *s, uint32_t first, uint32_t n)
{
    struct error err = { 0 };
    *a = (struct batch){ .n = n };
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t which = first + i;
        const struct restore_params p = { .task = "denoise", .h = -1, .samples = 1, .seed = which };
        if (image_init(&a->img[i], SIDE, SIDE, 3, 8, &err)) fail_msg("%s", err.detail);
        for (size_t k = 0; k < BYTES; k++)
            ((uint8_t *)a->img[i].pixels)[k] = (uint8_t)((k + 1) * (2 * which + 1) * 40503u >> 7);
        if (restoration_new(&a->rows[i].restoration, s->m, &p, &a->img[i], NULL, &err))
            fail_msg("%s", err.detail);
    }
}

static void batch_begin(struct batch *a, const struct serving *s)
{
    struct error err = { 0 };
    if (engine_begin(s->e, s->m, a->rows, a->n, &a->in_flight, &err)) fail_msg("%s", err.detail);
}

/* The restored images in order. out: [n][BYTES] */
static void batch_end(struct batch *a, const struct serving *s, uint8_t *out)
{
    struct error err = { 0 };
    if (engine_end(s->e, &a->in_flight, &err)) fail_msg("%s", err.detail);
    for (uint32_t i = 0; i < a->n; i++) {
        struct image got = { 0 };
        assert_int_equal(a->rows[i].status, ST_OK);
        if (restoration_image(a->rows[i].restoration, OUTPUT_IMAGE, 0, &got, &err))
            fail_msg("%s", err.detail);
        memcpy(out + (size_t)i * BYTES, got.pixels, BYTES);
        image_done(&got);
        restoration_free(a->rows[i].restoration);
        image_done(&a->img[i]);
    }
}

static void restore_alone(const struct serving *s, uint32_t which, uint8_t *out)
{
    struct batch a;
    batch_make(&a, s, which, 1);
    batch_begin(&a, s);
    batch_end(&a, s, out);
}

/* Restores images 0 .. 20 in batches of these sizes, two in flight. out: [21][BYTES] */
static void restore_all(const struct serving *s, uint8_t *out)
{
    static const uint32_t sizes[] = { 1, 2, 3, 4, 5, 6 };
    enum { BATCHES = sizeof sizes / sizeof *sizes };
    struct batch all[BATCHES];
    uint32_t first[BATCHES + 1] = { 0 };
    for (size_t i = 0; i < BATCHES; i++)
        first[i + 1] = first[i] + sizes[i];
    for (size_t i = 0; i <= BATCHES; i++) {
        if (i < BATCHES) {
            batch_make(&all[i], s, first[i], sizes[i]);
            batch_begin(&all[i], s);
        }
        if (i > 0) batch_end(&all[i - 1], s, out + (size_t)first[i - 1] * BYTES);
    }
}

enum { IMAGES = 21 };

/* Tested with copies that run as early as events allow, and as late as possible: a stream slot that
 * is used too early reads another batch's rows in one of the two. */
static void batches_in_flight_give_what_each_gives_alone(void **state)
{
    static uint8_t together[IMAGES * BYTES], alone[BYTES];
    struct serving s = serving_of(false);
    (void)state;
    assert_int_equal(engine_describe(s.e)->in_flight, 2);
    for (int copies_first = 0; copies_first < 2; copies_first++) {
        fake_set_copies_first(copies_first);
        restore_all(&s, together);
        for (uint32_t i = 0; i < IMAGES; i++) {
            restore_alone(&s, i, alone);
            assert_memory_equal(alone, together + (size_t)i * BYTES, BYTES);
        }
    }
    fake_set_copies_first(false);
    serving_done(&s);
}

static void serving_allocates_and_records_nothing(void **state)
{
    static uint8_t out[IMAGES * BYTES];
    struct serving s = serving_of(false);
    (void)state;
    const struct cuda_backend *c = cuda_of(s.e->backend);
    const uint64_t allocations = c->gpu.allocations;
    const struct fake_counts before = fake_count();
    restore_all(&s, out);
    const struct fake_counts after = fake_count();
    assert_int_equal(c->gpu.allocations, allocations);
    assert_int_equal(after.allocations, before.allocations);
    assert_int_equal(after.pinned, before.pinned);
    assert_int_equal(after.recorded, before.recorded);
    assert_int_equal(after.graphs, before.graphs);
    assert_int_equal(after.dnn_plans, before.dnn_plans);
    /* one per batch: no op ran outside a recorded graph */
    assert_int_equal(after.replays - before.replays, 6);
    serving_done(&s);
}

/* Nothing is timed in this mode, so the engines are the same. */
static void one_size_gives_the_same_bytes_from_start_to_start(void **state)
{
    static uint8_t once[IMAGES * BYTES], again[IMAGES * BYTES], alone[BYTES];
    struct serving s = serving_of(true);
    (void)state;
    assert_int_equal(s.e->backend->ops->device.batch_rows(s.e->backend, 1), MAX_BATCH);
    restore_all(&s, once);
    restore_alone(&s, 20, alone);
    assert_memory_equal(alone, once + (size_t)20 * BYTES, BYTES);
    serving_done(&s);
    s = serving_of(true);
    restore_all(&s, again);
    assert_memory_equal(once, again, sizeof once);
    serving_done(&s);
}

/* A restoration's rows on two devices of different speed: two batches stay in flight until all
 * others are back. */
static void a_slow_device_holds_no_row_up(void **state)
{
    enum { LARGE = 48, SAMPLES = 12, SMALL = 2 };
    static uint8_t alone[3 * LARGE * LARGE];
    struct serving s[2];
    struct error err = { 0 };
    struct image img = { 0 }, got = { 0 };
    const struct restore_params p = {
        .task = "denoise", .h = -1, .samples = SAMPLES, .output = OUTPUT_MEAN
    };
    (void)state;
    fake_set_devices(2);
    for (int i = 0; i < 2; i++)
        s[i] = serving_on(i, 2, SMALL, false);
    assert_int_equal(image_init(&img, LARGE, LARGE, 3, 8, &err), ST_OK);
    for (size_t k = 0; k < sizeof alone; k++)
        ((uint8_t *)img.pixels)[k] = (uint8_t)(k * 40503u >> 7);
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        struct restoration *r = NULL;
        struct tile_job held[2][SMALL], rows[SMALL];
        struct in_flight_batch slow[2];
        uint32_t out = 0;
        assert_int_equal(restoration_new(&r, s[0].m, &p, &img, NULL, &err), ST_OK);
        const uint64_t total = restoration_tile_jobs(r);
        assert_true(total > SAMPLES);
        for (uint64_t at = 0, n; at < total; at += n) {
            const bool is_held = is_apart && out < 2 && at >= out * total / 2;
            struct tile_job *to = is_held ? held[out] : rows;
            n = is_held ? 1 : total - at < SMALL ? total - at : SMALL;
            for (uint64_t i = 0; i < n; i++)
                to[i] = (struct tile_job){ .restoration = r, .index = at + i };
            if (is_held) {
                assert_int_equal(engine_begin(s[1].e, s[1].m, to, n, &slow[out++], &err), ST_OK);
                continue;
            }
            assert_int_equal(engine_run(s[0].e, s[0].m, rows, n, &err), ST_OK);
            for (uint64_t i = 0; i < n; i++)
                assert_int_equal(rows[i].status, ST_OK);
        }
        for (uint32_t i = 0; i < out; i++)
            assert_int_equal(engine_end(s[1].e, &slow[i], &err), ST_OK);
        assert_true(restoration_is_done(r));
        assert_int_equal(restoration_image(r, OUTPUT_MEAN, 0, &got, &err), ST_OK);
        if (is_apart)
            assert_memory_equal(alone, got.pixels, sizeof alone);
        else
            memcpy(alone, got.pixels, sizeof alone);
        image_done(&got);
        restoration_free(r);
    }
    image_done(&img);
    for (int i = 0; i < 2; i++)
        serving_done(&s[i]);
    fake_set_devices(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_in_flight_give_what_each_gives_alone),
        cmocka_unit_test(serving_allocates_and_records_nothing),
        cmocka_unit_test(a_slow_device_holds_no_row_up),
        cmocka_unit_test(one_size_gives_the_same_bytes_from_start_to_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
