/* Images on the device against the host's restoration, byte for byte: extracting tiles, blending
 * them, statistics over samples, rounding, operators. Only the residual is summed in another order:
 * within 1e-12. */
#include "tests/cuda/conformance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/restorations.h"

static struct observed on_device(const struct restoration *r)
{
    const struct image *img = r->s.img;
    return (struct observed){ .pixels = img ? img->pixels : r->s.y->y,
                              .w = r->shape.in.w,
                              .h = r->shape.in.h,
                              .channels = r->shape.in.c,
                              .depth = img ? img->depth : 32,
                              .y_channels = r->y_channels,
                              .scale = r->op->scale,
                              .observed_mask = r->observed_mask,
                              .seed = r->s.seed,
                              .sigma = (float)r->s.sigma };
}

/* ---- operators ---- */

static bool is_on_device(enum operator_kind op)
{
    return (GPU_OPERATORS >> operator_of(op)->on_device & 1) != 0;
}

struct operating {
    struct operator_args a;
    size_t scratch;
};

static void run_operator(void *ctx, const struct tensor *y)
{
    struct operating o = *(const struct operating *)ctx;
    o.a.y = y->data;
    o.a.scratch = o.scratch ? floats(o.scratch, 5, 1, 0) : NULL;
    EXPECT_LAUNCH(gpu_operator(&o.a, NULL));
    free(o.a.scratch);
}

static void operators_give_the_bytes_of_the_host(void **state)
{
    (void)state;
    static const struct extent sizes[] = {
        { 8, 8, 3 }, { 37, 21, 1 }, { 70, 75, 3 }, { 9, 130, 3 }, { 300, 11, 3 }
    };
    static const double levels[] = { 3, 1, 2, 4, 7.5 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int t = 0; t < TASK_COUNT; t++) {
            const enum operator_kind op = task_table[t].op;
            const struct operator_traits *traits = operator_of(op);
            if (!is_on_device(op)) continue;
            const struct extent x = sizes[i], m = operator_extent(op, x);
            const size_t n = (size_t)x.w * x.h * x.c;
            struct operating o = {
                { .op = traits->on_device, .w = x.w, .h = x.h, .c = x.c, .scale = traits->scale },
                traits->taps ? n : 0
            };
            uint8_t *observed_mask = memory((size_t)x.w * x.h);
            for (size_t p = 0; p < (size_t)x.w * x.h; p++)
                observed_mask[p] = noise(9, p) > 0;
            float *in = floats(n, 1, 1, 0), *taps = memory(BLUR_TAPS * sizeof *taps);
            float *scratch = memory(operator_scratch_floats(op, x) * sizeof *scratch);
            if (traits->taps) traits->taps(levels[i], taps);
            o.a.observed_mask = traits->needs_mask ? observed_mask : NULL;
            o.a.taps = taps;
            o.a.x = in;
            struct tensor y = tensor_make(DT_F32, 1, m.h, m.w, m.c, m.c, 2), want = tensor_copy(&y);
            const struct operation a = { op, levels[i], x, o.a.observed_mask };
            EXPECT_OK(operator_apply(&a, in, want.data, scratch, &err));
            in_every_order("operator", &y, run_operator, &o);
            expect_same("operator", y.data, want.data, tensor_bytes(&y));
            tensor_free(&y);
            tensor_free(&want);
            free(observed_mask);
            free(in);
            free(taps);
            free(scratch);
        }
}

/* ---- extracting ---- */

static void run_extract(void *ctx, const struct tensor *y)
{
    struct extract_args c = *(const struct extract_args *)ctx;
    c.y_in = y->data;
    EXPECT_LAUNCH(gpu_extract(&c, NULL));
}

static void rows_are_extracted_as_on_the_host(const struct restoration *r)
{
    struct extract_args c = { .m = on_device(r),
                              .out_w = r->shape.out.w,
                              .out_h = r->shape.out.h,
                              .margin = r->s.margin,
                              .tile = r->s.tile };
    for (uint64_t row = 0; row < restoration_tile_jobs(r); row++) {
        const struct tile_position at = restoration_tile_position(r, row);
        struct tensor y = tensor_make(DT_F32, 1, c.tile, c.tile, 3, 3, 1), want = tensor_copy(&y);
        c.x0 = at.x0;
        c.y0 = at.y0;
        EXPECT_OK(restoration_extract(r, row, want.data, &err));
        in_every_order("cut", &y, run_extract, &c);
        expect_same("cut", y.data, want.data, tensor_bytes(&y));
        tensor_free(&y);
        tensor_free(&want);
    }
}

static void tiles_are_extracted_as_on_the_host(void **state)
{
    (void)state;
    static const struct {
        uint32_t w, h;
    } sizes[] = { { 8, 9 }, { 45, 20 } };
    for (int task = 0; task < TASK_COUNT; task++)
        for (size_t i = 0; i < 2; i++)
            for (uint32_t channels = 1; channels <= 4; channels++)
                for (uint32_t depth = 8; depth <= 32; depth *= 2) {
                    if (depth == 32 && channels % 2 == 0)
                        continue; /* a measurement of floats has no alpha */
                    struct restoration_setup s = setup((enum task_id)task, 24, 6);
                    struct image img =
                        image(sizes[i].w, sizes[i].h, channels, depth == 16 ? 16 : 8, 3 + channels);
                    struct image mask = image(sizes[i].w, sizes[i].h, 1, 8, 77);
                    float *y = floats((size_t)sizes[i].w * sizes[i].h * channels, 4, 1, 0);
                    struct measurement m = { y, sizes[i].w, sizes[i].h, channels };
                    struct restoration *r = NULL;
                    s.seed = 0xfedcba9876543210u;
                    s.margin = channels == 3 ? 7 : 0;
                    s.img = depth == 32 ? NULL : &img;
                    s.y = depth == 32 ? &m : NULL;
                    s.mask = operator_of(s.task->op)->needs_mask ? &mask : NULL;
                    EXPECT_OK(restoration_make(&r, &s, &err));
                    rows_are_extracted_as_on_the_host(r);
                    restoration_free(r);
                    image_done(&img);
                    image_done(&mask);
                    free(y);
                }
}

/* ---- blending, accumulating, rounding ---- */

struct device {
    const struct restoration *r;
    size_t values;
    struct tensor acc, sum, sum2; /* int64 as pairs of F32: only the bytes are compared */
    uint32_t *bad;
    const float *tiles; /* [rows][tile][tile][3] */
    bool backwards;     /* tiles return in any order */
};

static int64_t *integers(const struct tensor *t)
{
    return t->data;
}

/* Pixels first .. end of a tile at `at` that lie in the image, n px long. */
struct part {
    uint32_t first, end;
};

static struct part part_of(const struct restoration *r, uint32_t at, uint32_t n)
{
    const uint32_t margin = r->s.margin, end = margin + n - at;
    return (struct part){ at < margin ? margin - at : 0, end < r->s.tile ? end : r->s.tile };
}

static void restore_on_device(const struct device *d)
{
    const struct restoration *r = d->r;
    const uint32_t tile = r->s.tile;
    const size_t tile_floats = (size_t)3 * tile * tile;
    memset(d->acc.data, 0, tensor_bytes(&d->acc));
    memset(d->sum.data, 0, tensor_bytes(&d->sum));
    memset(d->sum2.data, 0, tensor_bytes(&d->sum2));
    EXPECT_LAUNCH(
        gpu_find_bad(d->tiles, (uint32_t)restoration_tile_jobs(r), tile_floats, d->bad, NULL));
    for (uint32_t sample = 0; sample < r->s.samples; sample++) {
        for (uint64_t i = 0; i < r->n_tiles; i++) {
            const uint64_t t = d->backwards ? r->n_tiles - 1 - i : i, row = sample * r->n_tiles + t;
            const struct tile_position at = restoration_tile_position(r, row);
            const struct part x = part_of(r, at.x0, r->shape.out.w),
                              y = part_of(r, at.y0, r->shape.out.h);
            struct blend_args b = { .x0 = d->tiles + row * tile_floats +
                                          ((size_t)y.first * tile + x.first) * 3,
                                    .wx = r->tiles.x.weight + t % r->tiles.x.count * tile + x.first,
                                    .wy = r->tiles.y.weight + t / r->tiles.x.count * tile + y.first,
                                    .tile = tile,
                                    .w = x.end - x.first,
                                    .h = y.end - y.first,
                                    .at_x = at.x0 + x.first - r->s.margin,
                                    .at_y = at.y0 + y.first - r->s.margin,
                                    .out_w = r->shape.out.w,
                                    .out_c = r->shape.out.c,
                                    .acc = integers(&d->acc),
                                    .bad = d->bad + row };
            EXPECT_LAUNCH(gpu_blend(&b, NULL));
        }
        if (r->sum)
            EXPECT_LAUNCH(gpu_accumulate(integers(&d->acc), integers(&d->sum),
                                         r->sum2 ? integers(&d->sum2) : NULL, d->values, NULL));
    }
}

static struct finished finished_of(const struct device *d)
{
    const struct restoration *r = d->r;
    return (struct finished){ .acc = integers(&d->acc),
                              .sum = r->sum ? integers(&d->sum) : NULL,
                              .sum2 = r->sum2 ? integers(&d->sum2) : NULL,
                              .samples = r->s.samples,
                              .count = d->values };
}

static void expect_image(const struct device *d, struct restoration *r, enum output_kind kind)
{
    struct image img = { 0 };
    const struct finished f = finished_of(d);
    const uint32_t size = r->shape.depth / 8, colors = r->shape.out.c;
    char *got = memory(d->values * size), *want = memory(d->values * size);
    EXPECT_OK(restoration_image(r, kind, 0, &img, &err));
    const size_t px = (size_t)img.width * img.height;
    for (size_t p = 0; p < px; p++) /* the host sets alpha */
        memcpy(want + p * colors * size, (char *)img.pixels + p * img.channels * size,
               (size_t)colors * size);
    memset(got, 0xa5, d->values * size);
    EXPECT_LAUNCH(gpu_round(&f, r->shape.depth, got, NULL));
    expect_same("rounded image", got, want, d->values * size);
    image_done(&img);
    free(got);
    free(want);
}

static void expect_deviation(const struct device *d, struct restoration *r)
{
    const struct finished f = finished_of(d);
    double *largest = memory(sizeof *largest);
    uint8_t *pixels = memory(d->values);
    EXPECT_LAUNCH(gpu_largest_deviation(&f, largest, NULL));
    EXPECT_LAUNCH(gpu_deviation(&f, largest, pixels, NULL));
    assert_true(*largest == restoration_facts(r)->std_scale);
    struct image img = { 0 };
    EXPECT_OK(restoration_image(r, OUTPUT_STD, 0, &img, &err));
    expect_same("deviation", pixels, img.pixels, d->values);
    image_done(&img);
    free(pixels);
    free(largest);
}

static void expect_residual(const struct device *d, struct restoration *r)
{
    const struct extent x = r->shape.out, m = operator_extent(r->s.task->op, x);
    float *mean = memory(d->values * sizeof *mean), *scratch = memory(d->values * sizeof *scratch);
    float *ax = memory((size_t)m.w * m.h * m.c * sizeof *ax),
          *taps = memory(BLUR_TAPS * sizeof *taps);
    if (r->taps) memcpy(taps, r->taps, BLUR_TAPS * sizeof *taps);
    const struct finished f = finished_of(d);
    EXPECT_LAUNCH(gpu_mean(&f, mean, NULL));
    struct operator_args o = { .op = r->op->on_device,
                               .w = x.w,
                               .h = x.h,
                               .c = x.c,
                               .scale = r->op->scale,
                               .observed_mask = r->observed_mask,
                               .taps = taps,
                               .x = mean,
                               .y = ax,
                               .scratch = scratch };
    EXPECT_LAUNCH(gpu_operator(&o, NULL));
    struct residual_args residual = { .ax = ax, .m = on_device(r) };
    residual.scratch = memory(gpu_residual_scratch((size_t)m.w * m.h) * sizeof(double));
    residual.out = memory(2 * sizeof(double));
    memset(residual.out, 0, 2 * sizeof(double)); /* the op adds */
    EXPECT_LAUNCH(gpu_residual(&residual, NULL));
    double want = restoration_facts(r)->residual_rms, got = sqrt(residual.out[0] / residual.out[1]);
    if (!(fabs(got - want) <= 1e-12 * want)) fail_msg("residual %.17g, not %.17g", got, want);
    free(mean);
    free(scratch);
    free(ax);
    free(taps);
    free(residual.scratch);
    free(residual.out);
}

static void one_restoration(const struct restoration_setup *s)
{
    struct restoration *r = NULL;
    EXPECT_OK(restoration_make(&r, s, &err));
    const size_t tile_floats = (size_t)3 * s->tile * s->tile,
                 values = (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
    float *tiles = floats(restoration_tile_jobs(r) * tile_floats, 8, 1.2f,
                          /* Some values beyond the range of tanh. */
                          0);
    for (uint64_t row = 0; row < restoration_tile_jobs(r); row++)
        assert_int_equal(restoration_put(r, row, tiles + row * tile_floats, NULL), ST_OK);
    struct tensor room = tensor_make(DT_F32, 1, 1, (uint32_t)values, 2, 2, 1);
    struct device d = { .r = r, .values = values, .tiles = tiles };
    d.acc = tensor_copy(&room);
    d.sum = tensor_copy(&room);
    d.sum2 = tensor_copy(&room);
    d.bad = memory(restoration_tile_jobs(r) * sizeof *d.bad);
    for (int i = 0; i < ORDERS; i++) {
        emu_set_order(orders[i]);
        d.backwards = i % 2 == 1;
        restore_on_device(&d);
        if (!r->sum)
            expect_same("accumulator", d.acc.data, r->slots[0].acc, values * sizeof(int64_t));
        if (r->sum) expect_same("sum", d.sum.data, r->sum, values * sizeof(int64_t));
        if (r->sum2) expect_same("sum of squares", d.sum2.data, r->sum2, values * sizeof(int64_t));
        expect_image(&d, r, r->sum ? OUTPUT_MEAN : OUTPUT_IMAGE);
        if (r->sum2) expect_deviation(&d, r);
        if (is_on_device(r->s.task->op)) expect_residual(&d, r);
    }
    struct tensor *all[] = { &room, &d.acc, &d.sum, &d.sum2 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
    free(d.bad);
    free(tiles);
    restoration_free(r);
}

static void whole_restorations_have_the_bytes_of_the_host(void **state)
{
    (void)state;
    for (int task = 0; task < TASK_COUNT; task++)
        for (uint32_t channels = 1; channels <= 4; channels++)
            for (uint32_t samples = 1; samples <= 3; samples += 2) {
                struct restoration_setup s = setup((enum task_id)task, 32, 8);
                const struct operator_traits *traits = operator_of(s.task->op);
                struct image img = image(traits->scale > 1 ? 11 : 53, traits->scale > 1 ? 9 : 21,
                                         channels, samples == 3 ? 16 : 8, 5);
                struct image mask = image(img.width, img.height, 1, 8, 78);
                s.img = &img;
                s.mask = traits->needs_mask ? &mask : NULL;
                s.level = s.task->level > 0 && samples == 3 ? s.task->level_range[1] : 0;
                s.margin = channels == 2 ? 5 : 0;
                s.samples = samples;
                s.output = samples > 1 ? OUTPUT_ALL : OUTPUT_IMAGE;
                one_restoration(&s);
                image_done(&img);
                image_done(&mask);
            }
}

__extension__ typedef __int128 wide;

/* Sums of the largest size: 128-bit differences, their rounding to double, and zero. */
static void deviations_of_any_size_are_the_hosts(void **state)
{
    (void)state;
    static const uint32_t samples[] = { 2, 3, 1000, 65536 };
    enum { COUNT = 600 };
    int64_t *sum = memory(COUNT * sizeof *sum), *sum2 = memory(COUNT * sizeof *sum2);
    double *largest = memory(sizeof *largest);
    uint8_t *pixels = memory(COUNT);
    for (size_t k = 0; k < 4; k++) {
        const double n = samples[k];
        double want[COUNT], most = 0;
        for (size_t i = 0; i < COUNT;
             /* n values of one size v, the last of which differs by e. */
             i++) {
            int64_t v = (int64_t)(noise(1, i) * 8388608.0f) >> (i % 24),
                    e = (int64_t)(noise(2, i) * 8388608.0f) >> (i % 31);
            sum[i] = v * samples[k] + e;
            sum2[i] = v * v * (samples[k] - 1) + (v + e) * (v + e);
            wide spread = (wide)sum2[i] * samples[k] - (wide)sum[i] * sum[i];
            want[i] = sqrt((double)spread / (n * (n - 1))) / (1 << FOLD_BITS);
            most = fmax(most, want[i]);
            const struct finished one = {
                .sum = sum + i, .sum2 = sum2 + i, .samples = samples[k], .count = 1
            };
            EXPECT_LAUNCH(gpu_largest_deviation(&one, largest, NULL));
            if (*largest != want[i])
                fail_msg("%u samples, value %zu: %.17g, not %.17g", samples[k], i, *largest,
                         want[i]);
        }
        const struct finished all = {
            .sum = sum, .sum2 = sum2, .samples = samples[k], .count = COUNT
        };
        EXPECT_LAUNCH(gpu_largest_deviation(&all, largest, NULL));
        EXPECT_LAUNCH(gpu_deviation(&all, largest, pixels, NULL));
        assert_true(*largest == most);
        for (size_t i = 0; i < COUNT; i++)
            assert_int_equal(pixels[i], lrint(fmin(255, 255 * want[i] / most)));
    }
    /* samples that agree everywhere: black, not 0 / 0 */
    memset(sum, 0, COUNT * sizeof *sum);
    memset(sum2, 0, COUNT * sizeof *sum2);
    memset(pixels, 0xa5, COUNT);
    const struct finished none = { .sum = sum, .sum2 = sum2, .samples = 2, .count = COUNT };
    EXPECT_LAUNCH(gpu_largest_deviation(&none, largest, NULL));
    EXPECT_LAUNCH(gpu_deviation(&none, largest, pixels, NULL));
    assert_true(*largest == 0);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(pixels[i], 0);
    free(sum);
    free(sum2);
    free(pixels);
    free(largest);
}

static void a_row_that_is_not_finite_is_found_and_not_blended(void **state)
{
    (void)state;
    enum { TILE = 12, ROWS = 5, COUNT = TILE * TILE * 3 };
    static const float odd[ROWS] = { 0, NAN, INFINITY, 0, -INFINITY };
    float *x = floats((size_t)ROWS * COUNT, 1, 1, 0);
    uint32_t *bad = memory(ROWS * sizeof *bad);
    uint16_t *weight = memory(TILE * sizeof *weight);
    int64_t *acc = memory(COUNT * sizeof *acc);
    for (int i = 0; i < TILE; i++)
        weight[i] = BLEND_ONE;
    for (int place = 0; place < 2; place++)
        for (int i = 0; i < ORDERS; i++) {
            emu_set_order(orders[i]);
            for (size_t r = 0; r < ROWS; r++)
                if (odd[r] != 0) x[r * COUNT + (place ? COUNT - 1 : 0)] = odd[r];
            memset(bad, 0xff, ROWS * sizeof *bad);
            EXPECT_LAUNCH(gpu_find_bad(x, ROWS, COUNT, bad, NULL));
            for (size_t r = 0; r < ROWS; r++) {
                assert_int_equal(bad[r], odd[r] != 0);
                memset(acc, 0, COUNT * sizeof *acc);
                struct blend_args b = { .x0 = x + r * COUNT,
                                        .wx = weight,
                                        .wy = weight,
                                        .tile = TILE,
                                        .w = TILE,
                                        .h = TILE,
                                        .out_w = TILE,
                                        .out_c = 3,
                                        .acc = acc,
                                        .bad = bad + r };
                EXPECT_LAUNCH(gpu_blend(&b, NULL));
                int written = 0;
                for (size_t k = 0; k < COUNT; k++)
                    written += acc[k] != 0;
                assert_true(odd[r] != 0 ? written == 0 : written > COUNT / 2);
            }
        }
    free(x);
    free(bad);
    free(weight);
    free(acc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operators_give_the_bytes_of_the_host),
        cmocka_unit_test(tiles_are_extracted_as_on_the_host),
        cmocka_unit_test(whole_restorations_have_the_bytes_of_the_host),
        cmocka_unit_test(deviations_of_any_size_are_the_hosts),
        cmocka_unit_test(a_row_that_is_not_finite_is_found_and_not_blended),
    };
    return RUN_TESTS("images on the device", tests);
}
