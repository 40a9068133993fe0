/* The codec's allocations: never more than codec_probe reports, none for a refused file, and any of
 * them may fail. The program replaces malloc, so that the libraries' allocations count too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "images.h"
#include "proto/images/jpeg_rows.h"

static size_t held_bytes, peak_bytes, allocations, fail_at; /* fail_at 0: none fails */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

static void *count(void *p)
{
    if (p) held_bytes += malloc_usable_size(p);
    if (held_bytes > peak_bytes) peak_bytes = held_bytes;
    return p;
}

static int must_fail(void)
{
    return ++allocations == fail_at;
}

void *malloc(size_t size)
{
    return must_fail() ? NULL : count(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return must_fail() ? NULL : count(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (must_fail()) return NULL;
    size_t old = p ? malloc_usable_size(p) : 0;
    void *grown = __libc_realloc(p, size);
    if (grown) held_bytes -= old;
    return count(grown);
}

void free(void *p)
{
    if (p) held_bytes -= malloc_usable_size(p);
    __libc_free(p);
}

static void start_count(void)
{
    peak_bytes = held_bytes;
    allocations = 0;
}

enum { KINDS = 14, MAX_PIXELS = 1 << 24 };

static struct file_bytes kind(int i)
{
    static const struct png_kind pngs[] = {
        { 310, 230, PNG_COLOR_TYPE_RGB, 8, false, false, 0 },
        { 310, 230, PNG_COLOR_TYPE_RGB_ALPHA, 16, false, false, 6 },
        { 310, 230, PNG_COLOR_TYPE_PALETTE, 1, true, true, 8 },
        { 9000, 2, PNG_COLOR_TYPE_GRAY, 16, true, true, 3 },
        { 20000, 1, PNG_COLOR_TYPE_PALETTE, 8, false, false, 5 },
        { 1, 1, PNG_COLOR_TYPE_GRAY, 1, false, false, 0 },
    };
    if (i < 6) return png_make(&pngs[i]);
    static const struct jpeg_kind jpegs[] = {
        { .width = 310, .height = 230, .components = 3 },
        { .width = 310, .height = 230, .components = 3, .progressive = true },
        { .width = 310, .height = 230, .components = 3, .progressive = true, .orientation = 6 },
        { .width = 310, .height = 230, .components = 4, .adobe_marker = true },
        { .width = 310, .height = 230, .components = 4, .progressive = true, .orientation = 8 },
        { .width = 20000, .height = 1, .components = 3, .progressive = true },
        { .width = 1, .height = 20000, .components = 3, .orientation = 7 },
        { .width = 1, .height = 1, .components = 1 },
    };
    const struct jpeg_kind *k = &jpegs[i - 6];
    uint8_t *pixels = calloc((size_t)k->width * k->height, 4);
    struct file_bytes f = jpeg_make(k, pixels);
    free(pixels);
    return f;
}

static void decoding_never_holds_more_than_the_probe_said(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        struct file_bytes f = kind(i);
        struct image_header h = { 0 };
        struct image img = { 0 };
        assert_int_equal(codec_probe(&h, f.data, f.len, NULL), ST_OK);
        start_count();
        size_t before = held_bytes;
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
        size_t took = peak_bytes - before;
        if (took > h.decode_bytes) fail_msg("kind %d: %zu > %zu", i, took, h.decode_bytes);
        assert_true(h.decode_bytes < 4 * took + (2 << 20)); /* an upper bound, and not far above */
        image_done(&img);
        assert_int_equal(held_bytes, before);
        free(f.data);
    }
}

static void a_png_over_the_limit_costs_nothing(void **state)
{
    (void)state;
    struct png_kind k = { 1, 1, PNG_COLOR_TYPE_RGB, 8, false, false, 0 };
    struct file_bytes f = png_make(&k);
    memcpy(f.data + 16, "\0\0\xfa\xfa\0\0\xfa\xfa", 8); /* 64250 x 64250 */
    struct image img = { 0 };
    start_count();
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_TOO_MANY_PX);
    assert_int_equal(allocations, 0);
    free(f.data);
}

static void a_jpeg_over_the_limit_costs_the_same_whatever_its_size(void **state)
{
    (void)state;
    uint8_t pixels[64 * 3] = { 0 };
    struct jpeg_kind k = { .width = 8, .height = 8, .components = 3, .progressive = true };
    struct file_bytes f = jpeg_make(&k, pixels);
    uint8_t *frame = memmem(f.data, f.len, "\xff\xc2", 2);
    assert_non_null(frame);
    memcpy(frame + 5, "\xfa\xfa\xfa\xfa", 4);
    struct image img = { 0 };
    start_count();
    size_t before = held_bytes;
    assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_TOO_MANY_PX);
    assert_true(peak_bytes - before < 256 << 10);
    assert_int_equal(held_bytes, before);
    free(f.data);
}

/* Allocations for EXIF may fail without an error: the image then has orientation 1. */
static void any_allocation_may_fail_and_nothing_is_lost(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        struct file_bytes f = kind(i);
        size_t before = held_bytes;
        enum status s = ST_NO_MEMORY_NOW;
        for (size_t n = 1; s; n++) {
            struct image img = { 0 };
            struct error err = { 0 };
            assert_true(n < 3000);
            start_count();
            fail_at = n;
            s = codec_decode(&img, f.data, f.len, MAX_PIXELS, &err);
            bool did_fail = allocations >= n;
            fail_at = 0;
            if (s && s != ST_NO_MEMORY_NOW) fail_msg("kind %d, %zu: %s", i, n, err.detail);
            image_done(&img);
            assert_int_equal(held_bytes, before);
            if (did_fail && s == ST_OK) s = ST_NO_MEMORY_NOW; /* decoded without EXIF */
        }
        free(f.data);
    }
}

static void any_allocation_of_the_encoders_may_fail(void **state)
{
    (void)state;
    struct image img = noise_image(90, 70, 2, 16);
    for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
        struct encode_options opt = { (enum image_format)format, -1, 0 };
        size_t before = held_bytes;
        bool did_fail = true;
        for (size_t n = 1; did_fail; n++) {
            void *bytes = NULL;
            size_t len = 0;
            start_count();
            fail_at = n;
            enum status s = codec_encode(&bytes, &len, &img, &opt, NULL);
            did_fail = allocations >= n;
            fail_at = 0;
            assert_true(s == ST_OK || (s == ST_NO_MEMORY_NOW && !bytes && did_fail));
            free(bytes);
            assert_int_equal(held_bytes, before);
        }
    }
    image_done(&img);
}

static void get_noise(void *ctx, uint32_t y, uint8_t *row)
{
    const struct image *img = ctx;
    memcpy(row, (uint8_t *)img->pixels + (size_t)y * img->width * img->channels,
           (size_t)img->width * img->channels);
}

static void put_nowhere(void *ctx, uint32_t y, const uint8_t *row)
{
    (void)ctx;
    (void)y;
    (void)row;
}

/* For every height, and for noise at the finest quantisation. */
static void rows_through_jpeg_hold_no_more_than_they_say(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = { { 1, 1 }, { 300, 40 }, { 5000, 64 }, { 20, 3000 } };
    for (size_t i = 0; i < 4; i++)
        for (uint32_t channels = 1; channels <= 3; channels += 2)
            for (int quality = 1; quality <= 100; quality += 33) {
                struct image img = noise_image(sizes[i][0], sizes[i][1], channels, 8);
                const struct jpeg_rows j = { img.width, img.height,  channels, quality,
                                             get_noise, put_nowhere, &img };
                size_t before = held_bytes;
                start_count();
                assert_int_equal(jpeg_rows_run(&j, NULL), ST_OK);
                const size_t took = peak_bytes - before, said = jpeg_rows_bytes(j.width, channels);
                if (took > said)
                    fail_msg("%u x %u x %u, quality %d: %zu > %zu", j.width, j.height, channels,
                             quality, took, said);
                assert_true(said < 4 * took + (256 << 10));
                assert_int_equal(held_bytes, before);
                image_done(&img);
            }
}

static void any_allocation_of_rows_through_jpeg_may_fail(void **state)
{
    (void)state;
    struct image img = noise_image(900, 70, 3, 8);
    const struct jpeg_rows j = { 900, 70, 3, 100, get_noise, put_nowhere, &img };
    bool did_fail = true;
    for (size_t n = 1; did_fail; n++) {
        struct error err = { 0 };
        size_t before = held_bytes;
        start_count();
        fail_at = n;
        enum status s = jpeg_rows_run(&j, &err);
        did_fail = allocations >= n;
        fail_at = 0;
        /* libjpeg requests less where it does not get much */
        if (s && !(did_fail && s == ST_NO_MEMORY_NOW)) fail_msg("%zu: %s", n, err.detail);
        assert_int_equal(held_bytes, before);
    }
    image_done(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoding_never_holds_more_than_the_probe_said),
        cmocka_unit_test(a_png_over_the_limit_costs_nothing),
        cmocka_unit_test(a_jpeg_over_the_limit_costs_the_same_whatever_its_size),
        cmocka_unit_test(any_allocation_may_fail_and_nothing_is_lost),
        cmocka_unit_test(any_allocation_of_the_encoders_may_fail),
        cmocka_unit_test(rows_through_jpeg_hold_no_more_than_they_say),
        cmocka_unit_test(any_allocation_of_rows_through_jpeg_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
