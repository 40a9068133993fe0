/* Restorations that live on a fake device against the same ones worked on by the host, byte for byte: every task, depth and output, in batches of any
 * size and two of them in flight; what does not fit, is not whole, is dropped, or is not finite. The network is the same device's for both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/internal.h"
#include "engine/davi/restoration.h"
#include "engine/internal.h"
#include "tests/cuda/fake/fake.h"
#include "tests/engine/nano.h"

enum { MAX_BATCH = 5, SIDE = 16, MOST = 8 };

static const struct unet_arch nano = NANO_ARCH(SIDE);

struct serving {
    struct engine *e;
    struct model *m;
};

static struct serving serving_of(uint32_t engines)
{
    struct serving s = { NULL, NULL };
    struct backend *b = NULL;
    struct error err = { 0 };
    const struct plugin_options po = { .max_rows = MAX_BATCH };
    const struct engine_options eo = {
        .dtype = "bf16", .max_batch = MAX_BATCH, .threads = 1, .engines = engines
    };
    if (cuda_backend_open(&b, &po, &err) || engine_on(&s.e, b, &eo, &err) ||
        model_hash(&s.m, s.e, &nano, 7, &err) || model_warm(s.m, &err))
        fail_msg("%s", err.detail);
    assert_non_null(s.e->image_pool);
    return s;
}

static void serving_done(struct serving *s)
{
    assert_int_equal(s->e->image_pool->device_free.n, 0); /* whoever lived there has left */
    assert_int_equal(s->e->image_pool->host_free.n, 0);
    model_free(s->m);
    engine_close(s->e);
}

/* Something to restore. */
struct job {
    struct restore_params p;
    struct image img, mask;
    struct measurement y; /* in place of img where it has data */
};

static uint32_t noise(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static struct image image(uint32_t w, uint32_t h, uint32_t channels, uint32_t depth, uint64_t seed)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, w, h, channels, depth, NULL), ST_OK);
    for (size_t i = 0; i < image_bytes(&img); i++)
        ((uint8_t *)img.pixels)[i] = (uint8_t)(noise(&seed) >> 7);
    return img;
}

static void job_done(struct job *j)
{
    image_done(&j->img);
    image_done(&j->mask);
    measurement_done(&j->y);
}

static struct restoration *begin(const struct serving *s, const struct job *j)
{
    struct restoration *r = NULL;
    struct error err = { 0 };
    const struct image *mask = j->mask.pixels ? &j->mask : NULL;
    if (j->y.y ? restoration_of_measurement(&r, s->m, &j->p, &j->y, mask, &err)
               : restoration_new(&r, s->m, &j->p, &j->img, mask, &err))
        fail_msg("%s", err.detail);
    return r;
}

/* Rows of n restorations in turn, as a queue deals them, in batches of `size`, two in flight. */
static void run_all(const struct serving *s, struct restoration *const *r, size_t n, size_t size)
{
    struct tile_job rows[2][MAX_BATCH];
    struct in_flight_batch in_flight[2];
    struct error err = { 0 };
    uint64_t next[MOST] = { 0 };
    bool is_out[2] = { false, false };
    size_t at = 0, turn = 0;
    for (;; turn ^= 1) {
        size_t k = 0;
        for (size_t idle = 0; k < size && idle < n; at = (at + 1) % n) {
            idle = next[at] < restoration_tile_jobs(r[at]) ? 0 : idle + 1;
            if (idle == 0)
                rows[turn][k++] = (struct tile_job){ .restoration = r[at], .index = next[at]++ };
        }
        if (k > 0 && engine_begin(s->e, s->m, rows[turn], k, &in_flight[turn], &err))
            fail_msg("%s", err.detail);
        if (is_out[turn ^ 1] && engine_end(s->e, &in_flight[turn ^ 1], &err))
            fail_msg("%s", err.detail);
        is_out[turn ^ 1] = false;
        is_out[turn] = k > 0;
        if (k == 0) break;
    }
}

static void expect_same_image(struct restoration *a, struct restoration *b, enum output_kind kind,
                              uint32_t sample)
{
    struct image one = { 0 }, other = { 0 };
    struct error err = { 0 };
    const enum status s = restoration_image(a, kind, sample, &one, NULL);
    assert_int_equal(restoration_image(b, kind, sample, &other, &err), s);
    if (s) return;
    assert_int_equal(one.channels, other.channels);
    assert_int_equal(one.depth, other.depth);
    assert_int_equal(image_bytes(&one), image_bytes(&other));
    assert_memory_equal(one.pixels, other.pixels, image_bytes(&one));
    image_done(&one);
    image_done(&other);
}

static void expect_same(struct restoration *host, struct restoration *placement)
{
    assert_true(restoration_is_done(host) && restoration_is_done(placement));
    assert_false(restoration_is_on_device(host));
    assert_true(restoration_is_on_device(placement));
    const struct restoration_result a = *restoration_facts(host), b = *restoration_facts(placement);
    assert_int_equal(a.width, b.width);
    assert_int_equal(a.height, b.height);
    assert_true(a.h == b.h && a.sigma == b.sigma && a.std_scale == b.std_scale);
    if (!(fabs(a.residual_rms - b.residual_rms) <= 1e-12 * a.residual_rms))
        fail_msg("residual %.17g, not %.17g", b.residual_rms, a.residual_rms);
    assert_true(a.residual_rms > 0);
    for (uint32_t i = 0; i <= host->s.samples; i++) /* one more than there is */
        expect_same_image(host, placement, OUTPUT_IMAGE, i);
    expect_same_image(host, placement, OUTPUT_MEAN, 0);
    expect_same_image(host, placement, OUTPUT_STD, 0);
}

/* n jobs on the host, then in the image_pool. */
static void compare(const struct serving *s, const struct job *jobs, size_t n, size_t size)
{
    struct restoration *host[MOST], *placement[MOST];
    struct image_pool *pool = s->e->image_pool;
    for (size_t i = 0; i < n; i++) {
        host[i] = begin(s, &jobs[i]);
        placement[i] = begin(s, &jobs[i]);
    }
    s->e->image_pool = NULL;
    run_all(s, host, n, size);
    s->e->image_pool = pool;
    run_all(s, placement, n, size);
    for (size_t i = 0; i < n; i++) {
        expect_same(host[i], placement[i]);
        restoration_free(host[i]);
        restoration_free(placement[i]);
    }
}

static bool has_device(const struct serving *s, const struct task_desc *t)
{
    return (s->e->backend->ops->images->operators >> operator_of(t->op)->on_device & 1) != 0;
}

/* `which` of 48: task, channels, depth (or floats), samples and output. */
static struct job job_of(const struct serving *s, uint32_t which)
{
    uint32_t tasks[TASK_COUNT], n = 0;
    for (uint32_t t = 0; t < TASK_COUNT; t++)
        if (has_device(s, &task_table[t])) tasks[n++] = t;
    static const struct {
        uint32_t samples;
        enum output_kind output;
        bool keep;
    } wants[] = { { 1, OUTPUT_IMAGE, false },
                  { 2, OUTPUT_MEAN, false },
                  { 3, OUTPUT_STD, false },
                  { 2, OUTPUT_ALL, true },
                  { 3, OUTPUT_ALL, false } };
    const uint32_t task = tasks[which % n], channels = 1 + which / n % 4,
                   depth = which % 3 == 0 ? 16 : 8;
    const uint32_t scale = operator_of(task_table[task].op)->scale;
    const bool is_small = scale > 1;
    const uint32_t w = is_small ? 8 + which % 3 : 17 + which % 20,
                   h = is_small ? 9 : 13 + which % 9;
    struct job j = { .p = { .task = task_table[task].name,
                            .seed = which * 0x9e3779b97f4a7c15u,
                            .h = -1,
                            .samples = wants[which % 5].samples,
                            .output = wants[which % 5].output,
                            .keep_samples = wants[which % 5].keep } };
    const bool has_mask =
        operator_of(task_table[task].op)->needs_mask && (channels % 2 || which % 2);
    j.img = image(w, h, channels, depth, which + 1);
    if (has_mask) j.mask = image(w, h, 1, 8, which + 100);
    if (which % 7 == 0 && channels % 2) { /* from floats, nothing rounded */
        struct error err = { 0 };
        struct image sharp = image(scale * w, scale * h, channels, 8, which);
        if (measurement_make(&j.y, j.p.task, -1, 0, which, &sharp, has_mask ? &j.mask : NULL, &err))
            fail_msg("%s", err.detail);
        image_done(&sharp);
    }
    return j;
}

static void every_kind_of_restoration_has_the_bytes_of_the_host(void **state)
{
    enum { KINDS = 48 };
    struct serving s = serving_of(1);
    unsigned floats = 0, masked = 0;
    (void)state;
    for (uint32_t which = 0; which < KINDS; which++) {
        struct job j = job_of(&s, which);
        floats += j.y.y != NULL;
        masked += j.mask.pixels != NULL;
        compare(&s, &j, 1, 1 + which % MAX_BATCH);
        job_done(&j);
    }
    assert_true(floats > 2 && masked > 2);
    serving_done(&s);
}

/* Tiles that cover the image and pixels mirrored around it. */
static void a_margin_has_the_bytes_of_the_host(void **state)
{
    enum { KINDS = 9, MARGIN = 5 };
    struct serving s = serving_of(1);
    (void)state;
    s.m->info.tile_margin = MARGIN;
    for (uint32_t which = 0; which < KINDS; which++) {
        struct job j = job_of(&s, 5 * which + 3);
        compare(&s, &j, 1, 1 + which % MAX_BATCH);
        job_done(&j);
    }
    serving_done(&s);
}

/* A task whose operator the device lacks: its images stay on the host. */
static void what_the_device_lacks_the_host_restores(void **state)
{
    struct serving s = serving_of(1);
    unsigned lacking = 0;
    (void)state;
    for (uint32_t t = 0; t < TASK_COUNT; t++) {
        if (has_device(&s, &task_table[t])) continue;
        struct job j = { .p = { .task = task_table[t].name, .h = -1, .samples = 1, .seed = t } };
        j.img = image(40, 33, 3, 8, t);
        struct restoration *r[2] = { begin(&s, &j), begin(&s, &j) };
        run_all(&s, r, 2, 3);
        for (int i = 0; i < 2; i++)
            assert_true(restoration_is_done(r[i]) && !restoration_is_on_device(r[i]));
        assert_true(restoration_facts(r[0])->residual_rms > 0);
        expect_same_image(r[0], r[1], OUTPUT_IMAGE, 0);
        restoration_free(r[0]);
        restoration_free(r[1]);
        job_done(&j);
        lacking++;
    }
    assert_true(lacking > 0 && lacking < TASK_COUNT);
    serving_done(&s);
}

/* Neighbours in a batch, rows of one that straddle batches, and copies as early or as late as events let them be. */
static void many_in_flight_have_the_bytes_of_each(void **state)
{
    struct serving s = serving_of(1);
    struct job jobs[MOST];
    (void)state;
    for (uint32_t i = 0; i < MOST; i++)
        jobs[i] = job_of(&s, 3 * i + 1);
    for (int copies_first = 0; copies_first < 2; copies_first++) {
        fake_set_copies_first(copies_first);
        for (size_t size = 1; size <= MAX_BATCH; size += 2)
            compare(&s, jobs, MOST, size);
    }
    fake_set_copies_first(false);
    for (uint32_t i = 0; i < MOST; i++)
        job_done(&jobs[i]);
    serving_done(&s);
}

/* Those that live there and those that found no room share batches. */
static void who_finds_no_room_is_restored_by_the_host(void **state)
{
    struct serving s = serving_of(1);
    struct image_pool *pool = s.e->image_pool;
    const size_t room[2] = { pool->device_free.bytes, pool->host_free.bytes };
    struct job jobs[MOST];
    (void)state;
    for (uint32_t i = 0; i < MOST; i++)
        jobs[i] = job_of(&s, 5 * i + 2);
    for (int which = 0; which < 2; which++) {
        struct restoration *r[MOST], *host[MOST];
        unsigned placements = 0;
        for (size_t i = 0; i < MOST; i++) {
            r[i] = begin(&s, &jobs[i]);
            host[i] = begin(&s, &jobs[i]);
        }
        *(which ? &pool->host_free.bytes : &pool->device_free.bytes) = which ? 8000 : 128 * 1024;
        run_all(&s, r, MOST, MAX_BATCH);
        pool->device_free.bytes = room[0];
        pool->host_free.bytes = room[1];
        s.e->image_pool = NULL;
        run_all(&s, host, MOST, MAX_BATCH);
        s.e->image_pool = pool;
        for (size_t i = 0; i < MOST; i++) {
            placements += restoration_is_on_device(r[i]);
            expect_same_image(host[i], r[i], OUTPUT_MEAN, 0);
            restoration_free(r[i]);
            restoration_free(host[i]);
        }
        assert_true(placements > 0 && placements < MOST);
    }
    for (uint32_t i = 0; i < MOST; i++)
        job_done(&jobs[i]);
    serving_done(&s);
}

/* Of several engines only one may have the rows: all of them are in one batch. */
static void with_several_engines_only_the_whole_ones_stay(void **state)
{
    struct serving s = serving_of(2);
    struct error err = { 0 };
    struct job small = { .p = { .task = "denoise", .h = -1, .samples = 1 },
                         .img = image(SIDE, SIDE, 3, 8, 1) },
               large = { .p = { .task = "denoise", .h = -1, .samples = 1 },
                         .img = image(2 * SIDE, 2 * SIDE, 3, 8, 2) };
    struct restoration *a = begin(&s, &small), *b = begin(&s, &large);
    struct tile_job rows[MAX_BATCH];
    (void)state;
    const uint64_t n = restoration_tile_jobs(b);
    assert_int_equal(restoration_tile_jobs(a), 1);
    assert_true(n > MAX_BATCH);
    for (uint64_t at = 0; at < n; at += 3) {
        size_t k = 0;
        if (at == 3) rows[k++] = (struct tile_job){ .restoration = a };
        for (uint64_t i = at; i < n && i < at + 3; i++)
            rows[k++] = (struct tile_job){ .restoration = b, .index = i };
        if (engine_run(s.e, s.m, rows, k, &err)) fail_msg("%s", err.detail);
    }
    assert_true(restoration_is_done(a) && restoration_is_on_device(a));
    assert_true(restoration_is_done(b) && !restoration_is_on_device(b));
    restoration_free(a);
    restoration_free(b);
    job_done(&small);
    job_done(&large);
    serving_done(&s);
}

/* A row that is not finite fails alone; its neighbours are whole. */
static void a_row_that_is_not_finite_fails_alone(void **state)
{
    struct serving s = serving_of(1);
    struct error err = { 0 };
    struct job good = job_of(&s, 1), bad = { .p = { .task = "denoise", .h = -1, .samples = 1 } };
    (void)state;
    good.p = bad.p;
    image_done(&good.img);
    good.img = image(SIDE, SIDE, 3, 8, 9);
    bad.y = (struct measurement){ calloc((size_t)3 * SIDE * SIDE, sizeof(float)), SIDE, SIDE, 3 };
    assert_non_null(bad.y.y);
    bad.y.y[5 * SIDE] = NAN;
    struct restoration *r[3] = { begin(&s, &good), begin(&s, &bad), begin(&s, &good) };
    struct tile_job rows[3];
    for (int i = 0; i < 3; i++)
        rows[i] = (struct tile_job){ .restoration = r[i] };
    if (engine_run(s.e, s.m, rows, 3, &err)) fail_msg("%s", err.detail);
    assert_int_equal(rows[0].status, ST_OK);
    assert_int_equal(rows[1].status, ST_INTERNAL);
    assert_int_equal(rows[2].status, ST_OK);
    struct image out = { 0 };
    assert_true(restoration_is_on_device(r[1]) && restoration_is_done(r[1]));
    assert_int_equal(restoration_image(r[1], OUTPUT_IMAGE, 0, &out, NULL), ST_INTERNAL);
    assert_true(isnan(restoration_facts(r[1])->residual_rms));
    expect_same_image(r[0], r[2], OUTPUT_IMAGE, 0);
    for (int i = 0; i < 3; i++)
        restoration_free(r[i]);
    job_done(&good);
    job_done(&bad);
    serving_done(&s);
}

/* The second sample's tile before the first's: that restoration fails, its neighbour in the batch does not. */
static void rows_out_of_order_fail_their_restoration_alone(void **state)
{
    struct serving s = serving_of(1);
    struct error err = { 0 };
    struct job two = { .p = { .task = "denoise", .h = -1, .samples = 2, .output = OUTPUT_MEAN },
                       .img = image(SIDE, SIDE, 3, 8, 2) },
               one = { .p = { .task = "denoise", .h = -1, .samples = 1 },
                       .img = image(SIDE, SIDE, 3, 8, 3) };
    struct restoration *a = begin(&s, &two), *b = begin(&s, &one);
    struct tile_job rows[3] = { { .restoration = a, .index = 1 },
                                { .restoration = b },
                                { .restoration = a } };
    struct image out = { 0 };
    (void)state;
    if (engine_run(s.e, s.m, rows, 3, &err)) fail_msg("%s", err.detail);
    assert_true(restoration_is_done(a) && restoration_is_done(b));
    assert_int_equal(restoration_image(a, OUTPUT_MEAN, 0, &out, NULL), ST_INTERNAL);
    assert_int_equal(restoration_image(b, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    image_done(&out);
    restoration_free(a);
    restoration_free(b);
    job_done(&two);
    job_done(&one);
    serving_done(&s);
}

/* Rows that never come: the room is free again, and who takes it next has its own bytes. */
static void a_restoration_that_is_dropped_leaves(void **state)
{
    struct serving s = serving_of(1);
    struct error err = { 0 };
    struct job large = { .p = { .task = "denoise", .h = -1, .samples = 2, .output = OUTPUT_ALL },
                         .img = image(2 * SIDE, 2 * SIDE, 3, 8, 2) };
    struct job next = job_of(&s, 7);
    (void)state;
    struct restoration *r = begin(&s, &large);
    struct tile_job rows[2] = { { .restoration = r }, { .restoration = r, .index = 1 } };
    if (engine_run(s.e, s.m, rows, 2, &err)) fail_msg("%s", err.detail);
    assert_false(restoration_is_done(r));
    assert_int_equal(s.e->image_pool->device_free.n, 1);
    restoration_free(r);
    compare(&s, &next, 1, 2);
    job_done(&large);
    job_done(&next);
    serving_done(&s);
}

/* An image goes over once and comes back once, however many rows it has; the rows themselves stay. */
static void what_travels_is_the_image_not_the_rows(void **state)
{
    struct serving s = serving_of(1);
    struct job j = { .p = { .task = "denoise", .h = -1, .samples = 3, .output = OUTPUT_MEAN },
                     .img = image(2 * SIDE, 2 * SIDE, 3, 8, 2) };
    struct restoration *r = begin(&s, &j);
    const uint64_t before = fake_count().copies;
    (void)state;
    run_all(&s, &r, 1, MAX_BATCH);
    const uint64_t batches = (restoration_tile_jobs(r) + MAX_BATCH - 1) / MAX_BATCH,
                   copies = fake_count().copies - before;
    /* image, tables, result; and for every batch its sets and its flags */
    assert_int_equal(copies, 3 + 2 * batches);
    restoration_free(r);
    job_done(&j);
    serving_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_restoration_has_the_bytes_of_the_host),
        cmocka_unit_test(a_margin_has_the_bytes_of_the_host),
        cmocka_unit_test(what_the_device_lacks_the_host_restores),
        cmocka_unit_test(many_in_flight_have_the_bytes_of_each),
        cmocka_unit_test(who_finds_no_room_is_restored_by_the_host),
        cmocka_unit_test(with_several_engines_only_the_whole_ones_stay),
        cmocka_unit_test(a_row_that_is_not_finite_fails_alone),
        cmocka_unit_test(rows_out_of_order_fail_their_restoration_alone),
        cmocka_unit_test(a_restoration_that_is_dropped_leaves),
        cmocka_unit_test(what_travels_is_the_image_not_the_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
