/* dejpeg: a measurement is what proto's encoder makes of an image, and answers are compared so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "proto/images/codec.h"
#include "tests/engine/restorations.h"

enum { MAX_PIXELS = 1 << 20 };

static struct image through_codec(const struct image *img, int quality)
{
    const struct encode_options o = { .format = IMAGE_JPEG, .jpeg_quality = quality };
    struct image out = { 0 };
    void *bytes = NULL;
    size_t len = 0;
    assert_int_equal(codec_encode(&bytes, &len, img, &o, NULL), ST_OK);
    assert_int_equal(codec_decode(&out, bytes, len, MAX_PIXELS, NULL), ST_OK);
    free(bytes);
    return out;
}

/* Waves, so that a coarse JPEG is not far away. */
static struct image waves(uint32_t w, uint32_t h, uint32_t channels, uint32_t depth)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, w, h, channels, depth, NULL), ST_OK);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (uint32_t c = 0; c < channels; c++) {
                const double v = 0.5 + 0.2 * sin(0.3 * x + c) + 0.25 * cos(0.17 * y - 0.1 * x);
                const size_t i = ((size_t)y * w + x) * channels + c;
                if (depth == 16)
                    ((uint16_t *)img.pixels)[i] = (uint16_t)(65535 * v);
                else
                    ((uint8_t *)img.pixels)[i] = (uint8_t)(255 * v);
            }
    return img;
}

static void a_measurement_is_what_the_encoder_makes_of_the_image(void **state)
{
    (void)state;
    static const int qualities[] = { 10, 20, 45, 80 };
    for (uint32_t channels = 1; channels <= 4; channels++)
        for (uint32_t depth = 8; depth <= 16; depth += 8)
            for (size_t k = 0; k < sizeof qualities / sizeof *qualities; k++) {
                struct image img = waves(45, 39, channels, depth);
                struct image want = through_codec(&img, qualities[k]), got = { 0 };
                struct measurement y = { 0 };
                assert_int_equal(
                    measurement_make(&y, "dejpeg", -1, qualities[k], 3, &img, NULL, NULL), ST_OK);
                assert_int_equal(measurement_image(&y, &got, NULL), ST_OK);
                assert_int_equal(got.channels, want.channels);
                assert_int_equal(image_bytes(&got), image_bytes(&want));
                assert_memory_equal(got.pixels, want.pixels, image_bytes(&want));
                for (size_t i = 0; i < image_bytes(&want); i++) /* unrounded too */
                    assert_true(y.y[i] == (float)(((uint8_t *)want.pixels)[i] / 127.5 - 1));
                measurement_done(&y);
                image_done(&img);
                image_done(&want);
                image_done(&got);
            }
}

/* Restores `y` to exactly the image `answer`, whatever a network would say. */
static double residual_of(const struct image *y, const struct image *answer, double level)
{
    struct restoration_setup s = setup(TASK_DEJPEG, 32, 8), of_answer = setup(TASK_DENOISE, 32, 8);
    struct restoration *r = NULL, *a = NULL;
    float *tile = malloc((size_t)3 * 32 * 32 * sizeof *tile);
    s.img = y;
    s.level = level;
    of_answer.img = answer;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_make(&a, &of_answer, NULL), ST_OK);
    assert_int_equal(restoration_tile_jobs(r), restoration_tile_jobs(a));
    for (uint64_t row = 0; row < restoration_tile_jobs(r); row++) {
        assert_int_equal(restoration_extract(a, row, tile, NULL), ST_OK);
        assert_int_equal(restoration_put(r, row, tile, NULL), ST_OK);
    }
    const double rms = restoration_facts(r)->residual_rms;
    assert_true(restoration_facts(r)->level == level && restoration_facts(r)->sigma == 0);
    restoration_free(r);
    restoration_free(a);
    free(tile);
    return rms;
}

static void the_residual_compares_the_answer_s_jpeg_with_what_was_sent(void **state)
{
    (void)state;
    for (uint32_t channels = 1; channels <= 3; channels += 2) {
        struct image truth = waves(70, 50, channels, 8), y = through_codec(&truth, 20);
        struct image again = through_codec(&y, 20), finer = through_codec(&truth, 60);
        double sum = 0, sum_finer = 0;
        for (size_t i = 0; i < image_bytes(&y); i++) {
            const int at = ((uint8_t *)y.pixels)[i];
            sum += pow((((uint8_t *)again.pixels)[i] - at) / 127.5, 2);
            sum_finer += pow((((uint8_t *)finer.pixels)[i] - at) / 127.5, 2);
        }
        const double n = (double)image_bytes(&y);
        assert_true(sum_finer > 0);
        assert_true(residual_of(&y, &truth, 20) == 0); /* the truth explains all of it */
        assert_true(fabs(residual_of(&y, &y, 20) - sqrt(sum / n)) < 1e-9);
        assert_true(fabs(residual_of(&y, &truth, 60) - sqrt(sum_finer / n)) < 1e-9);
        image_done(&truth);
        image_done(&y);
        image_done(&again);
        image_done(&finer);
    }
}

/* libjpeg holds no more than this a side; the limit is named. */
static void a_image_too_large_for_a_jpeg_is_refused(void **state)
{
    (void)state;
    struct image img = image(65501, 8, 1, 8, 1);
    struct restoration_setup s = setup(TASK_DEJPEG, 32, 8);
    struct restoration *r = NULL;
    struct measurement y = { 0 };
    struct error err = { 0 };
    s.img = &img;
    assert_int_equal(restoration_make(&r, &s, &err), ST_TOO_MANY_PX);
    assert_non_null(strstr(err.detail, "65500"));
    assert_int_equal(measurement_make(&y, "dejpeg", -1, 0, 1, &img, NULL, NULL), ST_TOO_MANY_PX);
    image_done(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_measurement_is_what_the_encoder_makes_of_the_image),
        cmocka_unit_test(the_residual_compares_the_answer_s_jpeg_with_what_was_sent),
        cmocka_unit_test(a_image_too_large_for_a_jpeg_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
