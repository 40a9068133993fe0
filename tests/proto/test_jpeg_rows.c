/* Images through JPEG and back row by row, and the quality of a file, against the codec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "images.h"
#include "proto/images/jpeg_rows.h"

enum { MAX_PIXELS = 1 << 22 };

struct pair {
    const struct image *from;
    struct image *to;
    uint32_t asked, given; /* rows */
};

static size_t row_bytes(const struct image *img)
{
    return (size_t)img->width * img->channels;
}

static void get(void *ctx, uint32_t y, uint8_t *row)
{
    struct pair *p = ctx;
    assert_int_equal(y, p->asked++);
    memcpy(row, (uint8_t *)p->from->pixels + y * row_bytes(p->from), row_bytes(p->from));
}

static void put(void *ctx, uint32_t y, const uint8_t *row)
{
    struct pair *p = ctx;
    assert_int_equal(y, p->given++);
    memcpy((uint8_t *)p->to->pixels + y * row_bytes(p->to), row, row_bytes(p->to));
}

static void through_files(struct image *out, const struct image *img, int quality)
{
    const struct encode_options o = { .format = IMAGE_JPEG, .jpeg_quality = quality };
    void *bytes = NULL;
    size_t len = 0;
    assert_int_equal(codec_encode(&bytes, &len, img, &o, NULL), ST_OK);
    assert_int_equal(codec_decode(out, bytes, len, MAX_PIXELS, NULL), ST_OK);
    free(bytes);
}

/* A mixture of noise and gradients, so that blocks of every length are coded. */
static struct image some_image(uint32_t w, uint32_t h, uint32_t channels)
{
    struct image img = noise_image(w, h, channels, 8);
    uint8_t *p = img.pixels;
    for (uint32_t y = 0; y < h; y++)
        for (size_t i = 0; i < (size_t)w * channels; i++) {
            uint8_t *v = &p[(size_t)y * w * channels + i];
            *v = (uint8_t)((3 * y + 5 * (i / channels) + (*v >> (y * 8 / h))) & 255);
        }
    return img;
}

static void rows_come_back_as_from_a_file(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = { { 1, 1 },   { 8, 8 },   { 16, 16 }, { 17, 33 },
                                         { 64, 64 }, { 250, 7 }, { 31, 500 } };
    static const int qualities[] = { 1, 10, 20, 50, 80, 89, 90, 100 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t channels = 1; channels <= 3; channels += 2)
            for (size_t k = 0; k < sizeof qualities / sizeof *qualities; k++) {
                struct image img = some_image(sizes[i][0], sizes[i][1], channels);
                struct image want = { 0 }, got = { 0 };
                through_files(&want, &img, qualities[k]);
                assert_int_equal(image_init(&got, img.width, img.height, channels, 8, NULL), ST_OK);
                struct pair p = { .from = &img, .to = &got };
                const struct jpeg_rows j = { .width = img.width,
                                             .height = img.height,
                                             .channels = channels,
                                             .quality = qualities[k],
                                             .get = get,
                                             .put = put,
                                             .ctx = &p };
                assert_int_equal(jpeg_rows_run(&j, NULL), ST_OK);
                assert_int_equal(p.asked, img.height);
                assert_int_equal(p.given, img.height);
                if (memcmp(got.pixels, want.pixels, image_bytes(&got)) != 0)
                    fail_msg("%u x %u x %u at quality %d", img.width, img.height, channels,
                             qualities[k]);
                image_done(&img);
                image_done(&want);
                image_done(&got);
            }
}

static void a_decoded_jpeg_tells_its_quality(void **state)
{
    (void)state;
    for (uint32_t channels = 1; channels <= 3; channels += 2)
        for (int quality = 1; quality <= 100; quality++) {
            struct image img = some_image(20, 12, channels), out = { 0 };
            through_files(&out, &img, quality);
            assert_int_equal(out.jpeg_quality, quality);
            image_done(&img);
            image_done(&out);
        }
}

/* Progressive, oriented, in inks; and a table with an entry that is not libjpeg's. A PNG has no
 * quality. */
static void the_nearest_quality_is_told_of_any_file(void **state)
{
    (void)state;
    static const struct jpeg_kind kinds[] = {
        { .width = 24, .height = 16, .components = 3, .progressive = true, .orientation = 6 },
        { .width = 24, .height = 16, .components = 4, .adobe_marker = true },
        { .width = 24, .height = 16, .components = 1 },
    };
    uint8_t pixels[24 * 16 * 4] = { 0 };
    struct image img = { 0 };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct file_bytes f = jpeg_make(&kinds[i], pixels);
        uint8_t *table = memmem(f.data, f.len, "\xff\xdb", 2);
        assert_non_null(table);
        table[5 + 20] += 1; /* marker, length, number: then 64 entries */
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
        assert_int_equal(img.jpeg_quality, 95);
        image_done(&img);
        free(f.data);
    }
    const struct png_kind png = { 4, 4, 2, 8, false, false, 0 };
    struct file_bytes f = png_make(&png);
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
    assert_int_equal(img.jpeg_quality, 0);
    image_done(&img);
    free(f.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_as_from_a_file),
        cmocka_unit_test(a_decoded_jpeg_tells_its_quality),
        cmocka_unit_test(the_nearest_quality_is_told_of_any_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
