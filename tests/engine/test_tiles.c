/* Tiles: how they cover an image, and how they are blended whatever their order. No network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "engine/graph/pixels.h"
#include "tests/engine/restorations.h"

static void every_pixel_is_covered_and_weights_sum_to_one(void **state)
{
    (void)state;
    for (uint32_t length = 8; length <= 200; length += length < 40 ? 1 : 7)
        for (uint32_t overlap = 0; overlap < 32; overlap += 5)
            for (uint32_t shift = 0; shift < 12; shift += 11) {
                void *memory = malloc(tile_axis_bytes(length, 32, overlap, shift));
                struct tile_axis a;
                int sum[200] = { 0 };
                tile_axis_lay(&a, length, 32, overlap, shift, memory);
                for (uint32_t t = 0; t < a.count; t++)
                    for (uint32_t i = 0; i < 32; i++) {
                        uint32_t p = tile_origin(&a, t) + i;
                        if (p < length)
                            sum[p] += a.weight[t * 32 + i];
                        else
                            assert_int_equal(a.weight[t * 32 + i], 0);
                    }
                for (uint32_t p = 0; p < length; p++)
                    assert_int_equal(sum[p], BLEND_ONE);
                free(memory);
            }
}

static void reflection_repeats_as_often_as_needed(void **state)
{
    (void)state;
    static const uint32_t want[] = { 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0 };
    for (uint32_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(reflect(i, 4), want[i]);
    assert_int_equal(reflect(17, 1), 0);
}

static void a_tiled_identity_returns_its_input_exactly(void **state)
{
    (void)state;
    static const uint32_t overlaps[] = { 0, 7, 16, 31 };
    for (uint32_t side = 8; side <= 200; side += side < 36 ? 1 : 23)
        for (size_t o = 0; o < sizeof overlaps / sizeof *overlaps; o++)
            for (uint32_t channels = 1; channels <= 3; channels += 2) {
                struct image img = image(side, 208 - side, channels, o % 2 ? 16 : 8, side);
                struct restoration_setup s = setup(TASK_DENOISE, 32, overlaps[o]);
                struct restoration *r = NULL;
                struct image out = { 0 };
                s.img = &img;
                s.shift_x = (uint32_t)o;
                s.shift_y = 5;
                assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
                run_identity(r, 0);
                assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
                assert_int_equal(out.channels, channels);
                assert_int_equal(out.depth, img.depth);
                assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
                assert_true(restoration_facts(r)->residual_rms < 1e-7);
                restoration_free(r);
                image_done(&out);
                image_done(&img);
            }
}

/* With a margin every pixel of the image has neighbours in some tile, those beyond its edge mirrored. */
static void a_margin_is_mirrored_around_the_image_and_cut_off_again(void **state)
{
    (void)state;
    enum { TILE = 32, OVERLAP = 8, MARGIN = 12 };
    static const uint32_t sides[][2] = { { 8, 8 }, { 20, 9 }, { 32, 33 }, { 71, 100 } };
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        for (uint32_t channels = 1; channels <= 3; channels += 2) {
            struct image img = image(sides[i][0], sides[i][1], channels, 8, 1 + i), out = { 0 };
            struct restoration_setup s = setup(TASK_DENOISE, TILE, OVERLAP);
            struct restoration *r = NULL;
            float tile[TILE * TILE * 3];
            s.img = &img;
            s.margin = MARGIN;
            assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
            assert_int_equal(restoration_extract(r, 0, tile, NULL), ST_OK);
            for (uint32_t y = 0; y < TILE; y++)
                for (uint32_t x = 0; x < TILE; x++) {
                    const uint32_t from_x =
                        reflect(x < MARGIN ? MARGIN - x : x - MARGIN, sides[i][0]);
                    const uint32_t from_y =
                        reflect(y < MARGIN ? MARGIN - y : y - MARGIN, sides[i][1]);
                    const size_t at = ((size_t)from_y * img.width + from_x) * channels;
                    const double want = ((const uint8_t *)img.pixels)[at] / 127.5 - 1;
                    assert_true(fabs((double)tile[(y * TILE + x) * 3] - want) < 1e-6);
                }
            run_identity(r, 0);
            assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
            assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
            restoration_free(r);
            image_done(&out);
            image_done(&img);
        }
}

static void a_large_photograph_goes_through_its_tiles_unchanged(void **state)
{
    (void)state;
    struct image img = image(2000, 1500, 3, 8, 2), out = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 64, 32);
    struct restoration *r = NULL;
    s.img = &img;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_tile_jobs(r), 62 * 46);
    run_identity(r, 0);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
    restoration_free(r);
    image_done(&out);
    image_done(&img);
}

static void the_order_in_which_tiles_come_back_does_not_matter(void **state)
{
    (void)state;
    struct image img = image(90, 70, 3, 8, 3), one = { 0 }, other = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 16);
    float tile[32 * 32 * 3];
    s.img = &img;
    for (int backwards = 0; backwards < 2; backwards++) {
        struct restoration *r = NULL;
        assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
        const uint64_t rows = restoration_tile_jobs(r);
        assert_true(rows > 4);
        for (uint64_t i = 0; i < rows; i++) {
            uint64_t row = backwards ? rows - 1 - i : i;
            assert_false(restoration_is_done(r));
            fill_random(tile, sizeof tile / sizeof *tile, row);
            assert_int_equal(restoration_put(r, row, tile, NULL), ST_OK);
        }
        assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, backwards ? &other : &one, NULL),
                         ST_OK);
        restoration_free(r);
    }
    assert_memory_equal(one.pixels, other.pixels, image_bytes(&one));
    image_done(&one);
    image_done(&other);
    image_done(&img);
}

static void a_tile_that_is_not_finite_fails_its_restoration(void **state)
{
    (void)state;
    struct image img = image(32, 32, 3, 8, 3), out = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 16);
    struct restoration *r = NULL;
    float tile[32 * 32 * 3] = { 0 };
    tile[5] = NAN;
    s.img = &img;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_put(r, 0, tile, NULL), ST_INTERNAL);
    assert_true(restoration_is_done(r));
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_INTERNAL);
    assert_null(out.pixels);
    restoration_free(r);
    image_done(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pixel_is_covered_and_weights_sum_to_one),
        cmocka_unit_test(reflection_repeats_as_often_as_needed),
        cmocka_unit_test(a_tiled_identity_returns_its_input_exactly),
        cmocka_unit_test(a_margin_is_mirrored_around_the_image_and_cut_off_again),
        cmocka_unit_test(a_large_photograph_goes_through_its_tiles_unchanged),
        cmocka_unit_test(the_order_in_which_tiles_come_back_does_not_matter),
        cmocka_unit_test(a_tile_that_is_not_finite_fails_its_restoration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
