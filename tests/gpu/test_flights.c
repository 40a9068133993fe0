/* The engine on a fake device while it serves: after the warm-up nothing is allocated or recorded any more, whatever the size of a batch; two
 * batches in flight give what each gives alone; passes of one size (deterministic) give the same bytes from start to start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/cuda/inside.h"
#include "engine/davi/restoration.h"
#include "engine/inside.h"
#include "tests/cuda/fake/fake.h"

enum { MAX_BATCH = 6, SIDE = 32, BYTES = 3 * SIDE * SIDE };

static const struct unet_arch nano = { .image_size = SIDE,
                                       .num_channels = 32,
                                       .num_res_blocks = 1,
                                       .levels = 1,
                                       .channel_mult = { 1 },
                                       .num_heads = 1,
                                       .num_head_channels = -1,
                                       .learn_sigma = true,
                                       .use_scale_shift_norm = true,
                                       .resblock_updown = true };

struct serving {
    struct engine *e;
    struct model *m;
};

static struct serving serving_of(bool one_size)
{
    struct serving s = { NULL, NULL };
    struct backend *b = NULL;
    struct error err = { 0 };
    const struct plugin_options po = { .max_rows = MAX_BATCH, .one_size = one_size };
    const struct engine_options eo = { .dtype = "bf16", .max_batch = MAX_BATCH, .threads = 1 };
    if (cuda_backend_open(&b, &po, &err) || engine_on(&s.e, b, &eo, &err) ||
        model_hash(&s.m, s.e, &nano, 7, &err) || model_warm(s.m, &err))
        fail_msg("%s", err.detail);
    return s;
}

static void serving_done(struct serving *s)
{
    model_free(s->m);
    engine_close(s->e);
}

/* n pictures under restoration, the first is number `first` of all. */
struct batch {
    struct image img[MAX_BATCH];
    struct row rows[MAX_BATCH];
    uint32_t n;
    struct flight flight;
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
    if (engine_begin(s->e, s->m, a->rows, a->n, &a->flight, &err)) fail_msg("%s", err.detail);
}

/* What comes back, picture after picture. out: [n][BYTES] */
static void batch_end(struct batch *a, const struct serving *s, uint8_t *out)
{
    struct error err = { 0 };
    if (engine_end(s->e, &a->flight, &err)) fail_msg("%s", err.detail);
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

/* Pictures 0 .. 20 in batches of these sizes, two in flight. out: [21][BYTES] */
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

enum { PICTURES = 21 };

static void batches_in_flight_give_what_each_gives_alone(void **state)
{
    static uint8_t together[PICTURES * BYTES], alone[BYTES];
    struct serving s = serving_of(false);
    (void)state;
    assert_int_equal(engine_describe(s.e)->in_flight, 2);
    restore_all(&s, together);
    for (uint32_t i = 0; i < PICTURES; i++) {
        restore_alone(&s, i, alone);
        assert_memory_equal(alone, together + (size_t)i * BYTES, BYTES);
    }
    serving_done(&s);
}

/* Work is done as late as can be and device memory may be touched only then: a lane used too early would read another batch's rows. */
static void serving_allocates_and_records_nothing(void **state)
{
    static uint8_t out[PICTURES * BYTES];
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
    assert_int_equal(after.replays - before.replays, 6); /* one a batch: nothing ran op by op */
    serving_done(&s);
}

/* Nothing is timed then, so that the engines are the same ones. */
static void one_size_gives_the_same_bytes_from_start_to_start(void **state)
{
    static uint8_t once[PICTURES * BYTES], again[PICTURES * BYTES], alone[BYTES];
    struct serving s = serving_of(true);
    (void)state;
    assert_int_equal(s.e->backend->ops->pass_rows(s.e->backend, 1), MAX_BATCH);
    restore_all(&s, once);
    restore_alone(&s, 20, alone);
    assert_memory_equal(alone, once + (size_t)20 * BYTES, BYTES);
    serving_done(&s);
    s = serving_of(true);
    restore_all(&s, again);
    assert_memory_equal(once, again, sizeof once);
    serving_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_in_flight_give_what_each_gives_alone),
        cmocka_unit_test(serving_allocates_and_records_nothing),
        cmocka_unit_test(one_size_gives_the_same_bytes_from_start_to_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
