/* EXIF orientation: all eight values, in both formats, for every path by which rows reach the
 * image. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "images.h"

enum { BLOCK = 24, WIDTH = 3 * BLOCK, HEIGHT = 2 * BLOCK, MAX_PIXELS = 1 << 20 };

/* The stored image is "abc" above "def". The table gives its displayed rows, from the text of the
 * EXIF standard. */
static const struct {
    unsigned orientation;
    const char *shown;
} views[] = {
    { 1, "abc/def" },  { 2, "cba/fed" },  { 3, "fed/cba" },  { 4, "def/abc" },
    { 5, "ad/be/cf" }, { 6, "da/eb/fc" }, { 7, "fc/eb/da" }, { 8, "cf/be/ad" },
};

static void assert_shows(const struct image *img, const char *shown)
{
    uint32_t columns = (uint32_t)strcspn(shown, "/");
    assert_true(img->width == columns * BLOCK);
    assert_true(img->height == 6 / columns * BLOCK);
    for (uint32_t row = 0; row < 6 / columns; row++) {
        for (uint32_t column = 0; column < columns; column++) {
            uint32_t x = column * BLOCK + BLOCK / 2, y = row * BLOCK + BLOCK / 2;
            uint8_t got = ((uint8_t *)img->pixels)[((size_t)y * img->width + x) * img->channels];
            int want = (shown[row * (columns + 1) + column] - 'a') * 40 + 10;
            assert_in_range(got + 3, want, want + 6);
        }
    }
}

static void jpeg_is_turned_as_its_exif_says(void **state)
{
    (void)state;
    static uint8_t pixels[WIDTH * HEIGHT * 3];
    for (int i = 0; i < 8 * 4; i++) {
        int components = i & 8 ? 3 : 1;
        for (size_t p = 0; p < sizeof pixels / 3; p++) {
            size_t letter = p % WIDTH / BLOCK + p / WIDTH / BLOCK * 3;
            memset(pixels + p * (size_t)components, (int)letter * 40 + 10, (size_t)components);
        }
        struct jpeg_kind k = { .width = WIDTH,
                               .height = HEIGHT,
                               .components = components,
                               .progressive = i & 16,
                               .orientation = views[i % 8].orientation };
        struct file_bytes f = jpeg_make(&k, pixels);
        struct image img = { 0 };
        struct image_header h;
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
        assert_shows(&img, views[i % 8].shown);
        assert_int_equal(codec_probe(&h, f.data, f.len, NULL), ST_OK);
        assert_true(h.width == img.width && h.height == img.height);
        image_done(&img);
        free(f.data);
    }
}

/* The displayed position of the stored pixel (x, y) of a w x h image. */
static void shown_at(unsigned o, uint32_t w, uint32_t h, uint32_t *x, uint32_t *y)
{
    uint32_t from_right = w - 1 - *x, from_below = h - 1 - *y, column = *x, row = *y;
    const uint32_t at[9][2] = { { 0, 0 },
                                { column, row },
                                { from_right, row },
                                { from_right, from_below },
                                { column, from_below },
                                { row, column },
                                { from_below, column },
                                { from_below, from_right },
                                { row, from_right } };
    *x = at[o][0];
    *y = at[o][1];
}

static void every_pixel_of_a_png_is_turned_as_its_exif_says(void **state)
{
    (void)state;
    static const int colours[] = { PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                   PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA };
    for (unsigned i = 0; i < 8 * 4 * 2 * 2; i++) {
        struct png_kind k = { 37, 21, colours[i / 8 % 4], i & 32 ? 16 : 8, i & 64, false, 0 };
        struct file_bytes stored = png_make(&k);
        k.orientation = i % 8 + 1;
        struct file_bytes turned = png_make(&k);
        struct image a = { 0 }, b = { 0 };
        assert_int_equal(codec_decode(&a, stored.data, stored.len, MAX_PIXELS, NULL), ST_OK);
        assert_int_equal(codec_decode(&b, turned.data, turned.len, MAX_PIXELS, NULL), ST_OK);
        assert_int_equal(b.width, k.orientation >= 5 ? 21 : 37);
        size_t px = a.channels * (a.depth / 8);
        for (uint32_t y = 0; y < a.height; y++) {
            for (uint32_t x = 0; x < a.width; x++) {
                uint32_t tx = x, ty = y;
                shown_at(k.orientation, a.width, a.height, &tx, &ty);
                assert_memory_equal((uint8_t *)b.pixels + ((size_t)ty * b.width + tx) * px,
                                    (uint8_t *)a.pixels + ((size_t)y * a.width + x) * px, px);
            }
        }
        image_done(&a);
        image_done(&b);
        free(stored.data);
        free(turned.data);
    }
}

static void a_broken_exif_block_leaves_the_image_as_stored(void **state)
{
    (void)state;
    struct png_kind k = { 5, 3, PNG_COLOR_TYPE_RGB, 8, false, false, 0 };
    for (unsigned change = 0; change < 26 * 3 + 3; change++) {
        static const uint8_t values[] = { 0, 0x7f, 0xff };
        uint8_t block[26];
        size_t len = sizeof block;
        exif_make(block, 1, change & 1);
        if (change < 26 * 3)
            block[change / 3] = values[change % 3];
        else
            len = change - 26 * 3; /* 0, 1, 2 bytes */
        struct file_bytes f = png_insert(png_make(&k), "eXIf", block, len);
        struct image img = { 0 };
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
        assert_true(img.width == 5 && img.height == 3);
        image_done(&img);
        free(f.data);
    }
}

static void orientation_outside_one_to_eight_means_as_stored(void **state)
{
    (void)state;
    struct png_kind k = { 5, 3, PNG_COLOR_TYPE_RGB, 8, false, false, 9 };
    struct file_bytes f = png_make(&k);
    struct image img = { 0 };
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
    assert_true(img.width == 5 && img.height == 3);
    image_done(&img);
    free(f.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jpeg_is_turned_as_its_exif_says),
        cmocka_unit_test(every_pixel_of_a_png_is_turned_as_its_exif_says),
        cmocka_unit_test(a_broken_exif_block_leaves_the_image_as_stored),
        cmocka_unit_test(orientation_outside_one_to_eight_means_as_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
