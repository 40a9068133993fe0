/* Files that the codec refuses, and round trips of files that it writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "images.h"

enum { MAX_PIXELS = 1 << 24 };

#define SIGNATURE                "\x89PNG\r\n\x1a\n"
#define IHDR(w, h, bits, colour) SIGNATURE "\0\0\0\x0dIHDR" w h bits colour "\0\0\0CRC."
#define DATA                     "\0\0\0\1IDATxCRC."
#define B(text)                  sizeof(text) - 1, text

static const struct {
    const char *name;
    size_t len;
    const char *bytes;
    enum status want;
    const char *detail; /* the message must contain it */
} bad[] = {
    { "empty file", B(""), ST_UNKNOWN_FORMAT, "empty" },
    { "one byte", B("\x89"), ST_UNKNOWN_FORMAT, "PNG or JPEG" },
    { "text", B("hello, world"), ST_UNKNOWN_FORMAT, "PNG or JPEG" },
    { "GIF", B("GIF89a\1\0\1\0"), ST_UNKNOWN_FORMAT, "GIF" },
    { "WebP", B("RIFF\x24\0\0\0WEBPVP8 "), ST_UNKNOWN_FORMAT, "WebP" },
    { "HEIC",
      B("\0\0\0\x18"
        "ftypheic\0\0\0\0mif1heic"),
      ST_UNKNOWN_FORMAT, "HEIC" },
    { "HEIF",
      B("\0\0\0\x18"
        "ftypmif1\0\0\0\0"),
      ST_UNKNOWN_FORMAT, "HEIC" },
    { "AVIF",
      B("\0\0\0\x1c"
        "ftypavif\0\0\0\0"),
      ST_UNKNOWN_FORMAT, "AVIF" },
    { "BMP", B("BM\x46\0\0\0\0\0"), ST_UNKNOWN_FORMAT, "BMP" },
    { "TIFF, little endian", B("II*\0\x08\0\0\0"), ST_UNKNOWN_FORMAT, "TIFF" },
    { "TIFF, big endian", B("MM\0*\0\0\0\x08"), ST_UNKNOWN_FORMAT, "TIFF" },
    { "SVG", B("<svg xmlns='http://www.w3.org/2000/svg'/>"), ST_UNKNOWN_FORMAT, "SVG" },
    { "SVG behind a declaration", B("\xef\xbb\xbf <?xml version='1.0'?>\n<svg/>"),
      ST_UNKNOWN_FORMAT, "SVG" },
    { "JPEG XL", B("\xff\x0a\0\0"), ST_UNKNOWN_FORMAT, "JPEG XL" },
    { "PNG: signature only", B(SIGNATURE), ST_CORRUPT_IMAGE, "header" },
    { "PNG: no image data", B(IHDR("\0\0\0\1", "\0\0\0\1", "\x08", "\2")), ST_CORRUPT_IMAGE,
      "before its image data" },
    { "PNG: no width", B(IHDR("\0\0\0\0", "\0\0\0\1", "\x08", "\2") DATA), ST_CORRUPT_IMAGE,
      "0 x 1" },
    { "PNG: width of 2^32 - 1", B(IHDR("\xff\xff\xff\xff", "\0\0\0\1", "\x08", "\2") DATA),
      ST_CORRUPT_IMAGE, "4294967295" },
    { "PNG: 3 bits", B(IHDR("\0\0\0\1", "\0\0\0\1", "\3", "\0") DATA), ST_CORRUPT_IMAGE, "3 bits" },
    { "PNG: RGB of 4 bits", B(IHDR("\0\0\0\1", "\0\0\0\1", "\4", "\2") DATA), ST_CORRUPT_IMAGE,
      "colour type 2" },
    { "PNG: colour type 5", B(IHDR("\0\0\0\1", "\0\0\0\1", "\x08", "\5") DATA), ST_CORRUPT_IMAGE,
      "colour type 5" },
    { "PNG: 64250 x 64250", B(IHDR("\0\0\xfa\xfa", "\0\0\xfa\xfa", "\x08", "\2") DATA),
      ST_TOO_MANY_PX, "max_pixels = 16777216" },
    { "PNG: the largest sides", B(IHDR("\x7f\xff\xff\xff", "\x7f\xff\xff\xff", "\x10", "\6") DATA),
      ST_TOO_MANY_PX, "max_pixels" },
    { "PNG: 4000 x 4000 in 50 bytes", B(IHDR("\0\0\x0f\xa0", "\0\0\x0f\xa0", "\x08", "\2") DATA),
      ST_CORRUPT_IMAGE, "cannot hold" },
    { "JPEG: signature only", B("\xff\xd8\xff"), ST_CORRUPT_IMAGE, "JPEG" },
    { "JPEG: no frame", B("\xff\xd8\xff\xd9"), ST_CORRUPT_IMAGE, "JPEG" },
    { "JPEG: segment longer than the file",
      B("\xff\xd8\xff\xe1\xff\xff"
        "Exif"),
      ST_CORRUPT_IMAGE, "JPEG" },
};

static const struct image untouched = { 7, 7, 7, 7, NULL, 7 };

static void assert_refused(const void *bytes, size_t len, const char *name)
{
    struct image img;
    memcpy(&img, &untouched, sizeof img); /* padding too */
    struct error err = { 0 };
    enum status s = codec_decode(&img, bytes, len, MAX_PIXELS, &err);
    if (s == ST_OK) fail_msg("%s: decoded", name);
    assert_int_equal(err.status, s);
    assert_true(err.detail[0] != 0);
    assert_memory_equal(&img, &untouched, sizeof img);
}

static void bad_files_get_their_status_and_a_telling_detail(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct image img;
        memcpy(&img, &untouched, sizeof img); /* padding too */
        struct error err = { 0 };
        enum status s = codec_decode(&img, bad[i].bytes, bad[i].len, MAX_PIXELS, &err);
        if (s != bad[i].want || !strstr(err.detail, bad[i].detail)) {
            fail_msg("%s: %s, \"%s\"", bad[i].name, status_name(s), err.detail);
        }
        assert_memory_equal(&img, &untouched, sizeof img);
        assert_int_equal(codec_decode(&img, bad[i].bytes, bad[i].len, MAX_PIXELS, NULL), s);
    }
}

static struct file_bytes sample_file(int which)
{
    static const struct png_kind rgb = { 19, 13, PNG_COLOR_TYPE_RGB, 8, false, false, 0 };
    static const struct png_kind palette = { 19, 13, PNG_COLOR_TYPE_PALETTE, 4, true, true, 6 };
    struct jpeg_kind jpeg = { .width = 37, .height = 29, .components = 3, .orientation = 6 };
    if (which == 0) return png_make(&rgb);
    if (which == 1) return png_make(&palette);
    struct image img = noise_image(37, 29, 3, 8);
    jpeg.progressive = which == 3;
    struct file_bytes f = jpeg_make(&jpeg, img.pixels);
    image_done(&img);
    return f;
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    for (int which = 0; which < 4; which++) {
        struct file_bytes f = sample_file(which);
        struct image img = { 0 };
        assert_int_equal(codec_decode(&img, f.data, f.len, MAX_PIXELS, NULL), ST_OK);
        image_done(&img);
        for (size_t len = 0; len < f.len; len++) {
            uint8_t *cut = malloc(len + 1); /* exact, so that a sanitizer detects a read past it */
            memcpy(cut, f.data, len);
            assert_refused(cut, len, "cut");
            free(cut);
        }
        free(f.data);
    }
}

/* Signature, lengths, types, contents and CRCs: every byte of a PNG is protected. */
static void a_png_with_any_byte_changed_is_refused(void **state)
{
    (void)state;
    for (int which = 0; which < 2; which++) {
        struct file_bytes f = sample_file(which);
        for (size_t i = 0; i < f.len; i++) {
            f.data[i] ^= 0x10;
            assert_refused(f.data, f.len, "changed");
            f.data[i] ^= 0x10;
        }
        free(f.data);
    }
}

static void png_gives_back_every_kind_of_image(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = { { 1, 1 }, { 5, 3 }, { 1, 40 }, { 20000, 1 }, { 65, 33 } };
    static const int levels[] = { -1, 0, 1, 9 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (uint32_t kind = 0; kind < 32; kind++) {
            uint32_t channels = kind % 4 + 1, depth = kind & 4 ? 16 : 8;
            struct encode_options opt = { .format = IMAGE_PNG, .png_level = levels[kind / 8] };
            struct image img = noise_image(sizes[i][0], sizes[i][1], channels, depth);
            struct image again = { 0 };
            struct image_header h;
            void *bytes = NULL;
            size_t len = 0;
            assert_int_equal(codec_encode(&bytes, &len, &img, &opt, NULL), ST_OK);
            assert_int_equal(codec_probe(&h, bytes, len, NULL), ST_OK);
            assert_int_equal(codec_decode(&again, bytes, len, MAX_PIXELS, NULL), ST_OK);
            assert_true(h.width == img.width && h.height == img.height && h.depth == depth);
            assert_true(again.channels == channels && again.depth == depth);
            assert_memory_equal(again.pixels, img.pixels, image_bytes(&img));
            free(bytes);
            image_done(&img);
            image_done(&again);
        }
    }
}

static void assert_survives_the_fast_writer(const struct image *img, size_t max_len)
{
    struct encode_options opt = { .format = IMAGE_PNG, .png_level = -1 };
    struct image again = { 0 };
    void *bytes = NULL;
    size_t len = 0;
    assert_int_equal(codec_encode(&bytes, &len, img, &opt, NULL), ST_OK);
    assert_true(len <= max_len);
    assert_int_equal(codec_decode(&again, bytes, len, MAX_PIXELS, NULL), ST_OK);
    assert_memory_equal(again.pixels, img->pixels, image_bytes(img));
    image_done(&again);
    free(bytes);
}

/* Runs of every length, before and after the borders of blocks. */
static void the_fast_writer_keeps_runs_of_any_length(void **state)
{
    (void)state;
    struct image img = { 0 };
    assert_int_equal(image_init(&img, 800, 700, 1, 8, NULL), ST_OK);
    uint8_t *p = img.pixels, *end = p + image_bytes(&img);
    assert_survives_the_fast_writer(&img, 16000); /* black: runs only */
    for (unsigned run = 1, colour = 0; p < end; run = run % 620 + 1, colour ^= 200) {
        for (unsigned i = 0; i < run && p < end; i++)
            *p++ = (uint8_t)colour;
    }
    assert_survives_the_fast_writer(&img, 60000);
    image_done(&img);
}

static void the_fast_writer_spends_little_on_what_cannot_be_compressed(void **state)
{
    (void)state;
    for (uint32_t channels = 1; channels <= 4; channels++) {
        struct image img = noise_image(333, 222, channels, channels & 1 ? 8 : 16);
        assert_survives_the_fast_writer(&img, image_bytes(&img) * 102 / 100 + 300);
        image_done(&img);
    }
}

/* Each residual is half as frequent as the previous one, down to one in 65536: such a code needs 17
 * bits, deflate has 15. */
static void the_fast_writer_never_needs_longer_codes_than_deflate_has(void **state)
{
    (void)state;
    enum { WIDTH = 65535 };
    struct image img = { 0 };
    assert_int_equal(image_init(&img, WIDTH, 1, 1, 8, NULL), ST_OK);
    uint8_t left = 0, *p = img.pixels;
    for (uint32_t i = 0; i < WIDTH; i++) {
        left = p[i] = (uint8_t)(100 + __builtin_ctz(i + 1) + left / 2);
    }
    assert_survives_the_fast_writer(&img, WIDTH / 3);
    image_done(&img);
}

static void sixteen_bits_go_out_most_significant_byte_first(void **state)
{
    (void)state;
    uint16_t pixel = 0x1234;
    struct image img = { 1, 1, 1, 16, &pixel, 0 };
    struct encode_options opt = { .format = IMAGE_PNG, .png_level = 0 };
    void *bytes = NULL;
    size_t len = 0;
    assert_int_equal(codec_encode(&bytes, &len, &img, &opt, NULL), ST_OK);
    assert_non_null(memmem(bytes, len, "\0\x12\x34", 3)); /* filter none, then the sample */
    free(bytes);
}

static void jpeg_drops_alpha_and_rounds_to_eight_bits(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 8; kind++) {
        uint32_t channels = kind % 4 + 1, depth = kind & 4 ? 16 : 8;
        struct image img = noise_image(24, 17, channels, depth), again = { 0 };
        uint32_t colours = channels <= 2 ? 1 : 3;
        /* every colour sample is 200.4 of 255 at 16 bits, else 200; alpha stays noise */
        for (size_t i = 0; i < (size_t)24 * 17 * channels; i++) {
            if (i % channels >= colours) continue;
            if (depth == 8)
                ((uint8_t *)img.pixels)[i] = 200;
            else
                ((uint16_t *)img.pixels)[i] = 200 * 257 + 103;
        }
        struct encode_options opt = { .format = IMAGE_JPEG };
        void *bytes = NULL;
        size_t len = 0;
        assert_int_equal(codec_encode(&bytes, &len, &img, &opt, NULL), ST_OK);
        assert_int_equal(codec_decode(&again, bytes, len, MAX_PIXELS, NULL), ST_OK);
        assert_true(again.channels == colours && again.depth == 8);
        assert_true(again.width == 24 && again.height == 17);
        for (size_t i = 0; i < image_bytes(&again); i++) {
            assert_int_equal(((uint8_t *)again.pixels)[i], 200);
        }
        free(bytes);
        image_done(&img);
        image_done(&again);
    }
}

static void impossible_orders_to_the_encoder_are_refused(void **state)
{
    (void)state;
    static const struct encode_options orders[] = { { IMAGE_PNG, 10, 0 },
                                                    { IMAGE_PNG, -2, 0 },
                                                    { IMAGE_JPEG, 0, 101 },
                                                    { IMAGE_JPEG, 0, -1 },
                                                    { IMAGE_FORMAT_COUNT, 0, 0 } };
    struct image img = noise_image(2, 2, 3, 8);
    void *bytes = &img;
    size_t len = 99;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        struct error err = { 0 };
        assert_int_equal(codec_encode(&bytes, &len, &img, &orders[i], &err), ST_BAD_PARAMETER);
    }
    struct encode_options jpeg = { .format = IMAGE_JPEG };
    struct image strip = noise_image(70000, 1, 1, 8);
    struct error err = { 0 };
    assert_int_equal(codec_encode(&bytes, &len, &strip, &jpeg, &err), ST_TOO_MANY_PX);
    assert_non_null(strstr(err.detail, "65500"));
    assert_true(bytes == &img && len == 99);
    image_done(&strip);
    image_done(&img);
}

static void an_image_of_no_or_impossible_size_is_refused(void **state)
{
    (void)state;
    struct image img;
    memcpy(&img, &untouched, sizeof img); /* padding too */
    assert_int_equal(image_init(&img, 0, 1, 3, 8, NULL), ST_INTERNAL);
    assert_int_equal(image_init(&img, 1, 1, 5, 8, NULL), ST_INTERNAL);
    assert_int_equal(image_init(&img, 1, 1, 3, 12, NULL), ST_INTERNAL);
    assert_int_equal(image_init(&img, UINT32_MAX, UINT32_MAX, 4, 16, NULL), ST_TOO_MANY_PX);
    assert_memory_equal(&img, &untouched, sizeof img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_get_their_status_and_a_telling_detail),
        cmocka_unit_test(a_file_cut_at_any_byte_is_refused),
        cmocka_unit_test(a_png_with_any_byte_changed_is_refused),
        cmocka_unit_test(png_gives_back_every_kind_of_image),
        cmocka_unit_test(the_fast_writer_keeps_runs_of_any_length),
        cmocka_unit_test(the_fast_writer_spends_little_on_what_cannot_be_compressed),
        cmocka_unit_test(the_fast_writer_never_needs_longer_codes_than_deflate_has),
        cmocka_unit_test(sixteen_bits_go_out_most_significant_byte_first),
        cmocka_unit_test(jpeg_drops_alpha_and_rounds_to_eight_bits),
        cmocka_unit_test(impossible_orders_to_the_encoder_are_refused),
        cmocka_unit_test(an_image_of_no_or_impossible_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
