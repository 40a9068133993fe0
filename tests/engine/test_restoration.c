/* A restoration without a network: statistics over samples, output rules, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <math.h>

#include "tests/engine/restorations.h"

/* ---- every allocation is counted (the linker wraps malloc and free in this program) ---- */

static size_t held, peak;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static void *count_in(void *p)
{
    held += p ? malloc_usable_size(p) : 0;
    peak = held > peak ? held : peak;
    return p;
}

void *__wrap_malloc(size_t n)
{
    return count_in(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return count_in(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    held -= p ? malloc_usable_size(p) : 0;
    return count_in(__real_realloc(p, n));
}

void __wrap_free(void *p)
{
    held -= p ? malloc_usable_size(p) : 0;
    __real_free(p);
}

/* ---- statistics ---- */

static void mean_and_unbiased_deviation_are_those_of_the_samples(void **state)
{
    (void)state;
    struct image img = image(40, 40, 3, 8, 9), mean = { 0 }, deviation = { 0 }, third = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 8);
    struct restoration *r = NULL;
    for (size_t i = 0; i < image_bytes(&img); i++)
        ((uint8_t *)img.pixels)[i] %= 128; /* room to move up */
    s.img = &img;
    s.samples = 5;
    s.output = OUTPUT_ALL;
    s.keep_samples = true;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    run_identity(r, 2 / 127.5); /* sample k is the image, 2 k levels brighter */
    assert_int_equal(restoration_image(r, OUTPUT_MEAN, 0, &mean, NULL), ST_OK);
    assert_int_equal(restoration_image(r, OUTPUT_STD, 0, &deviation, NULL), ST_OK);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 3, &third, NULL), ST_OK);
    const double want = 2 / 127.5 * sqrt(2.5); /* of 0 1 2 3 4, unbiased */
    assert_true(fabs(restoration_facts(r)->std_scale - want) < 1e-6);
    assert_true(fabs(restoration_facts(r)->residual_rms - 4 / 127.5) < 1e-6);
    for (size_t i = 0; i < image_bytes(&img); i++) {
        int was = ((uint8_t *)img.pixels)[i];
        assert_int_equal(((uint8_t *)mean.pixels)[i], was + 4);
        assert_int_equal(((uint8_t *)third.pixels)[i], was + 6);
        assert_int_equal(((uint8_t *)deviation.pixels)[i], 255);
    }
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 5, &third, NULL), ST_BAD_PARAMETER);
    restoration_free(r);
    image_done(&img);
    image_done(&mean);
    image_done(&deviation);
    image_done(&third);
}

/* ---- output rules ---- */

static void gray_stays_gray_but_for_colorize_and_alpha_is_kept(void **state)
{
    (void)state;
    static const struct {
        enum task_id task;
        uint32_t channels, depth, want;
    } all[] = {
        { TASK_DENOISE, 1, 8, 1 },  { TASK_DENOISE, 2, 16, 2 },  { TASK_DENOISE, 3, 8, 3 },
        { TASK_DENOISE, 4, 8, 4 },  { TASK_DEBLUR, 4, 16, 4 },   { TASK_COLORIZE, 1, 8, 3 },
        { TASK_COLORIZE, 2, 8, 4 }, { TASK_COLORIZE, 3, 16, 3 }, { TASK_SR4, 4, 8, 4 },
        { TASK_SR4, 1, 8, 1 },      { TASK_INPAINT, 4, 8, 3 },   { TASK_INPAINT, 2, 16, 1 },
        { TASK_SR2, 4, 16, 4 },     { TASK_SR2, 2, 8, 2 },       { TASK_DEJPEG, 1, 8, 1 },
        { TASK_DEJPEG, 4, 16, 4 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct image img = image(20, 12, all[i].channels, all[i].depth, i);
        struct image out = restored(all[i].task, &img, NULL);
        const uint32_t grow = all[i].task == TASK_SR4 ? 4 : all[i].task == TASK_SR2 ? 2 : 1;
        assert_int_equal(out.width, 20 * grow);
        assert_int_equal(out.height, 12 * grow);
        assert_int_equal(out.channels, all[i].want);
        assert_int_equal(out.depth, all[i].depth);
        if (all[i].task == TASK_DENOISE || all[i].task == TASK_DEJPEG) /* identity, with alpha */
            assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
        image_done(&img);
        image_done(&out);
    }
}

static void alpha_is_resized_with_the_image(void **state)
{
    (void)state;
    struct image img = image(16, 16, 4, 8, 1);
    for (size_t p = 0; p < 256; p++)
        ((uint8_t *)img.pixels)[4 * p + 3] = p % 16 < 8 ? 0 : 200;
    struct image out = restored(TASK_SR4, &img, NULL);
    const uint8_t *row = (uint8_t *)out.pixels + (size_t)64 * 4 * 30;
    assert_int_equal(row[4 * 0 + 3], 0);
    assert_int_equal(row[4 * 63 + 3], 200);
    assert_int_equal(row[4 * 30 + 3], 25); /* an eighth of the way */
    assert_int_equal(row[4 * 31 + 3], 75);
    image_done(&out);
    out = restored(TASK_SR2, &img, NULL);
    row = (uint8_t *)out.pixels + (size_t)32 * 4 * 15;
    assert_int_equal(row[4 * 14 + 3], 0);
    assert_int_equal(row[4 * 15 + 3], 50); /* a quarter of the way */
    assert_int_equal(row[4 * 16 + 3], 150);
    assert_int_equal(row[4 * 31 + 3], 200);
    image_done(&img);
    image_done(&out);
}

static void only_the_hole_gets_noise(void **state)
{
    (void)state;
    struct image img = image(40, 24, 3, 8, 4), mask = { 0 };
    assert_int_equal(image_init(&mask, 40, 24, 1, 8, NULL), ST_OK);
    for (size_t y = 8; y < 16; y++)
        memset((uint8_t *)mask.pixels + y * 40 + 10, 255, 20);
    struct image out = restored(TASK_INPAINT, &img, &mask);
    double sum2 = 0;
    for (size_t p = 0; p < (size_t)40 * 24; p++)
        for (size_t c = 0; c < 3; c++) {
            int got = ((uint8_t *)out.pixels)[3 * p + c];
            if (((uint8_t *)mask.pixels)[p])
                sum2 += pow(got / 127.5 - 1, 2);
            else
                assert_int_equal(got, ((uint8_t *)img.pixels)[3 * p + c]);
        }
    double std = sqrt(sum2 / (20 * 8 * 3));
    assert_true(std > 0.04 && std < 0.06);
    image_done(&img);
    image_done(&mask);
    image_done(&out);
}

static void images_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    struct image good = image(16, 16, 3, 8, 1), tiny = image(1, 1, 3, 8, 1);
    struct image strip = image(20000, 1, 3, 8, 1), small_mask = image(8, 8, 1, 8, 1);
    const struct {
        enum task_id task;
        const struct image *img, *mask;
        enum status want;
    } all[] = { { TASK_DENOISE, &tiny, NULL, ST_TOO_FEW_PX },
                { TASK_SR4, &strip, NULL, ST_TOO_FEW_PX },
                { TASK_INPAINT, &good, NULL, ST_BAD_MASK },
                { TASK_INPAINT, &good, &small_mask, ST_BAD_MASK },
                { TASK_DENOISE, &good, &good, ST_BAD_MASK } };
    const size_t before = held;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct restoration_setup s = setup(all[i].task, 32, 8);
        struct restoration *r = NULL;
        struct error err = { 0 };
        s.img = all[i].img;
        s.mask = all[i].mask;
        assert_int_equal(restoration_make(&r, &s, &err), all[i].want);
        assert_true(err.detail[0] != 0);
        assert_null(r);
    }
    assert_int_equal(held, before);
    image_done(&good);
    image_done(&tiny);
    image_done(&strip);
    image_done(&small_mask);
}

/* ---- memory ---- */

static void memory_is_bounded_by_the_room_announced_and_all_given_back(void **state)
{
    (void)state;
    for (int kind = OUTPUT_IMAGE; kind <= OUTPUT_ALL; kind++)
        for (int t = 0; t < TASK_COUNT; t++) {
            struct image img = image(150, 90, 4, 8, 1), out = { 0 };
            struct restoration_setup s = setup((enum task_id)t, 32, 16);
            struct restoration_shape shape;
            struct restoration *r = NULL;
            s.img = &img;
            s.output = (enum output_kind)kind;
            s.samples = kind == OUTPUT_IMAGE ? 1 : 3;
            s.keep_samples = true;
            assert_int_equal(restoration_shape_of(&shape, s.task, 150, 90, 4, 8, NULL), ST_OK);
            const size_t before = held, room = restoration_block_bytes(&s, &shape);
            peak = held;
            assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
            const size_t made = held;
            assert_true(made - before >= room); /* counted, not guessed */
            run_identity(r, 0.01);
            assert_int_equal(held, made); /* all of it was taken at the start */
            restoration_facts(r);
            assert_int_equal(held, made);
            assert_int_equal(
                restoration_image(r, kind == OUTPUT_ALL ? OUTPUT_STD : s.output, 0, &out, NULL),
                ST_OK);
            assert_true(peak - before <= room + image_bytes(&out) + 64 * 1024);
            image_done(&out);
            restoration_free(r);
            assert_int_equal(held, before);
            image_done(&img);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mean_and_unbiased_deviation_are_those_of_the_samples),
        cmocka_unit_test(gray_stays_gray_but_for_colorize_and_alpha_is_kept),
        cmocka_unit_test(alpha_is_resized_with_the_image),
        cmocka_unit_test(only_the_hole_gets_noise),
        cmocka_unit_test(images_that_do_not_fit_are_refused),
        cmocka_unit_test(memory_is_bounded_by_the_room_announced_and_all_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
