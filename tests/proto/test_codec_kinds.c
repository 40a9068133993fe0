/* Every kind of file that other programs write: PNG's colour types and depths, JPEG's processes and
 * ink spaces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "images.h"

enum { MAX_PIXELS = 1 << 20 };

/* Sample c of pixel (x, y) in the codec's output. */
static uint32_t want_png(const struct png_kind *k, uint32_t x, uint32_t y, uint32_t c)
{
    uint32_t max = (1u << k->bits) - 1;
    uint32_t opaque = k->bits == 16 ? 65535 : 255;
    if (k->colour == PNG_COLOR_TYPE_PALETTE) {
        uint32_t i = sample_of(x, y, k->bits);
        uint32_t entry[4] = { i * 3 & 255, i * 5 & 255, 255 - i, i == 1 ? 77 : 255 };
        return entry[c];
    }
    uint32_t n = k->colour == PNG_COLOR_TYPE_GRAY         ? 1
                 : k->colour == PNG_COLOR_TYPE_GRAY_ALPHA ? 2
                 : k->colour == PNG_COLOR_TYPE_RGB        ? 3
                                                          : 4;
    if (c == n) { /* alpha from tRNS: only the key colour is transparent */
        bool is_key = true;
        for (uint32_t j = 0; j < n; j++)
            is_key &= sample_of(x * n + j, y, k->bits) == 1;
        return is_key ? 0 : opaque;
    }
    uint32_t v = sample_of(x * n + c, y, k->bits);
    return k->bits < 8 ? v * 255 / max : v;
}

static void check_png(const struct png_kind *k, uint32_t channels)
{
    struct file_bytes f = png_make(k);
    struct image img = { 0 };
    struct image_header h;
    struct error err = { 0 };
    if (codec_decode(&img, f.data, f.len, MAX_PIXELS, &err)) fail_msg("%s", err.detail);
    assert_int_equal(codec_probe(&h, f.data, f.len, NULL), ST_OK);
    assert_true(h.channels == channels && h.depth == (k->bits == 16 ? 16u : 8u));
    assert_true(img.channels == h.channels && img.depth == h.depth);
    for (uint32_t y = 0; y < k->height; y++) {
        for (uint32_t x = 0; x < k->width; x++) {
            for (uint32_t c = 0; c < channels; c++) {
                size_t i = ((size_t)y * k->width + x) * channels + c;
                uint32_t got =
                    img.depth == 16 ? ((uint16_t *)img.pixels)[i] : ((uint8_t *)img.pixels)[i];
                if (got != want_png(k, x, y, c)) {
                    fail_msg(
                        "colour %d, %d bits, interlaced %d, tRNS %d: (%u, %u) %u is %u, not %u",
                        k->colour, k->bits, k->interlaced, k->has_trns, x, y, c, got,
                        want_png(k, x, y, c));
                }
            }
        }
    }
    image_done(&img);
    free(f.data);
}

static void every_png_colour_type_depth_interlacing_and_transparency_decodes(void **state)
{
    (void)state;
    static const struct {
        int colour;
        uint32_t channels, trns_channels; /* 0: tRNS not allowed */
        int bits[6];
    } types[] = { { PNG_COLOR_TYPE_GRAY, 1, 2, { 1, 2, 4, 8, 16 } },
                  { PNG_COLOR_TYPE_RGB, 3, 4, { 8, 16 } },
                  { PNG_COLOR_TYPE_PALETTE, 3, 4, { 1, 2, 4, 8 } },
                  { PNG_COLOR_TYPE_GRAY_ALPHA, 2, 0, { 8, 16 } },
                  { PNG_COLOR_TYPE_RGB_ALPHA, 4, 0, { 8, 16 } } };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (int b = 0; types[t].bits[b]; b++) {
            for (int interlaced = 0; interlaced < 2; interlaced++) {
                struct png_kind k = { 61,    43, types[t].colour, types[t].bits[b], interlaced,
                                      false, 0 };
                check_png(&k, types[t].channels);
                k.has_trns = true;
                if (types[t].trns_channels) check_png(&k, types[t].trns_channels);
            }
        }
    }
}

static void text_and_profile_chunks_are_never_inflated(void **state)
{
    (void)state;
    struct png_kind k = { 4, 4, PNG_COLOR_TYPE_RGB, 8, false, false, 0 };
    struct file_bytes f = png_make(&k);
    uint8_t body[4096] = "note"; /* key, method 0, then bytes that need not inflate */
    f = png_insert(f, "zTXt", body, sizeof body);
    f = png_insert(f, "iCCP", body, sizeof body);
    struct image img = { 0 };
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
    image_done(&img);
    free(f.data);
}

static void a_png_with_two_sources_of_alpha_or_a_short_key_is_refused(void **state)
{
    (void)state;
    static const int colours[] = { PNG_COLOR_TYPE_RGB_ALPHA, PNG_COLOR_TYPE_RGB };
    for (int i = 0; i < 2; i++) {
        struct png_kind k = { 4, 4, colours[i], 8, false, false, 0 };
        struct file_bytes f = png_insert(png_make(&k), "tRNS", "\0\1\0", i ? 3 : 2);
        struct image img = { 0 };
        struct error err = { 0 };
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, &err), ST_CORRUPT_IMAGE);
        assert_non_null(strstr(err.detail, "tRNS"));
        free(f.data);
    }
}

static void fill(uint8_t *pixels, size_t n, const uint8_t *pixel, int components)
{
    for (size_t i = 0; i < n * (size_t)components; i++)
        pixels[i] = pixel[i % (size_t)components];
}

static void assert_flat(const struct file_bytes *f, uint32_t channels, const uint8_t *want)
{
    struct image img = { 0 };
    struct error err = { 0 };
    if (codec_decode(&img, f->data, f->len, MAX_PIXELS, &err)) fail_msg("%s", err.detail);
    assert_int_equal(img.channels, channels);
    for (size_t i = 0; i < image_bytes(&img); i++) {
        assert_in_range(((uint8_t *)img.pixels)[i] + 3u, want[i % channels],
                        want[i % channels] + 6u);
    }
    image_done(&img);
}

static void every_jpeg_process_and_colour_space_decodes(void **state)
{
    (void)state;
    static const uint8_t gray[1] = { 90 }, rgb[3] = { 200, 40, 120 };
    static uint8_t pixels[50 * 41 * 4];
    for (int progressive = 0; progressive < 2; progressive++) {
        struct jpeg_kind k = { .width = 50, .height = 41, .progressive = progressive };
        k.components = 1;
        fill(pixels, 50 * 41, gray, 1);
        struct file_bytes f = jpeg_make(&k, pixels);
        assert_flat(&f, 1, gray);
        free(f.data);
        k.components = 3;
        fill(pixels, 50 * 41, rgb, 3);
        for (int space = 0; space < 2; space++) {
            k.file_space = space ? JCS_RGB : JCS_YCbCr;
            k.adobe_marker = space; /* the marker's transform is 0 */
            f = jpeg_make(&k, pixels);
            assert_flat(&f, 3, rgb);
            free(f.data);
        }
    }
}

static void cmyk_and_ycck_become_rgb_with_adobes_inversion(void **state)
{
    (void)state;
    static const uint8_t ink[4] = { 30, 200, 90, 60 };
    static uint8_t pixels[50 * 41 * 4];
    uint8_t want[3];
    for (int c = 0; c < 3; c++)
        want[c] = (uint8_t)((255 - ink[c]) * (255 - ink[3]) / 255);
    static const struct {
        int space;
        bool adobe;
    } kinds[] = { { JCS_CMYK, false }, { JCS_CMYK, true }, { JCS_YCCK, true } };
    for (int i = 0; i < 12; i++) {
        struct jpeg_kind k = { .width = 50,
                               .height = 41,
                               .components = 4,
                               .file_space = kinds[i % 3].space,
                               .adobe_marker = kinds[i % 3].adobe,
                               .progressive = i / 3 % 2,
                               .orientation = i / 6 ? 6 : 0 };
        uint8_t stored[4];
        for (int c = 0; c < 4; c++)
            stored[c] = k.adobe_marker ? (uint8_t)(255 - ink[c]) : ink[c];
        fill(pixels, 50 * 41, stored, 4);
        struct file_bytes f = jpeg_make(&k, pixels);
        assert_flat(&f, 3, want);
        free(f.data);
    }
}

static void a_jpeg_of_lawful_but_too_many_scans_is_refused(void **state)
{
    (void)state;
    static uint8_t pixels[32 * 32 * 3];
    struct jpeg_kind k = { .width = 32, .height = 32, .components = 3 };
    struct image img = { 0 };
    struct error err = { 0 };
    k.single_coefficient_scans = 30;
    struct file_bytes f = jpeg_make(&k, pixels);
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, &err), ST_OK);
    image_done(&img);
    free(f.data);
    k.single_coefficient_scans = 63;
    f = jpeg_make(&k, pixels);
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, &err), ST_CORRUPT_IMAGE);
    assert_non_null(strstr(err.detail, "100 scans"));
    free(f.data);
}

static void jpeg_pixel_limit_holds_before_the_image_is_read(void **state)
{
    (void)state;
    static uint8_t pixels[32 * 32 * 3];
    struct jpeg_kind k = { .width = 32, .height = 32, .components = 3 };
    struct file_bytes f = jpeg_make(&k, pixels);
    struct image img = { 0 };
    struct error err = { 0 };
    assert_int_equal(codec_decode(&img, f.data, f.len - 3, 1023, &err), ST_TOO_MANY_PX);
    assert_non_null(strstr(err.detail, "32 x 32"));
    free(f.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_png_colour_type_depth_interlacing_and_transparency_decodes),
        cmocka_unit_test(text_and_profile_chunks_are_never_inflated),
        cmocka_unit_test(a_png_with_two_sources_of_alpha_or_a_short_key_is_refused),
        cmocka_unit_test(every_jpeg_process_and_colour_space_decodes),
        cmocka_unit_test(cmyk_and_ycck_become_rgb_with_adobes_inversion),
        cmocka_unit_test(a_jpeg_of_lawful_but_too_many_scans_is_refused),
        cmocka_unit_test(jpeg_pixel_limit_holds_before_the_image_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
