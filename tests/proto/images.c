#include "images.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <jpeglib.h>

static void must(bool holds)
{
    if (!holds) abort();
}

uint32_t sample_of(uint32_t i, uint32_t y, int bits)
{
    return (i * 2654435761u + y * 40503u) >> 7 & ((1u << bits) - 1);
}

static void append(struct file_bytes *f, const void *bytes, size_t n)
{
    f->data = realloc(f->data, f->len + n);
    must(f->data != NULL);
    memcpy(f->data + f->len, bytes, n);
    f->len += n;
}

static void png_append(png_structp png, png_bytep bytes, size_t n)
{
    append(png_get_io_ptr(png), bytes, n);
}

static void png_no_flush(png_structp png)
{
    (void)png;
}

void exif_make(uint8_t block[26], unsigned orientation, bool is_big_endian)
{
    static const uint8_t little[26] = { 'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1 };
    static const uint8_t big[26] = { 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1 };
    memcpy(block, is_big_endian ? big : little, 26);
    block[is_big_endian ? 19 : 18] = (uint8_t)orientation;
}

static uint32_t png_samples(int colour)
{
    return colour == PNG_COLOR_TYPE_GRAY_ALPHA  ? 2
           : colour == PNG_COLOR_TYPE_RGB       ? 3
           : colour == PNG_COLOR_TYPE_RGB_ALPHA ? 4
                                                : 1;
}

static void pack_row(uint8_t *row, uint32_t n, uint32_t y, int bits)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = sample_of(i, y, bits);
        if (bits == 16) {
            row[2 * i] = (uint8_t)(v >> 8);
            row[2 * i + 1] = (uint8_t)v;
        } else {
            uint32_t per_byte = 8 / (uint32_t)bits;
            uint32_t shift = 8 - (uint32_t)bits * (i % per_byte + 1);
            row[i / per_byte] |= (uint8_t)(v << shift);
        }
    }
}

struct file_bytes png_make(const struct png_kind *k)
{
    struct file_bytes f = { 0 };
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    must(info != NULL);
    png_set_write_fn(png, &f, png_append, png_no_flush);
    png_set_IHDR(png, info, k->width, k->height, k->bits, k->colour,
                 k->interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, 0, 0);
    png_color palette[256];
    for (int i = 0; i < 256; i++) {
        palette[i] = (png_color){ (uint8_t)(i * 3), (uint8_t)(i * 5), (uint8_t)(255 - i) };
    }
    if (k->colour == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(png, info, palette, 1 << k->bits);
    static const uint8_t alphas[2] = { 255, 77 };
    static const png_color_16 key = { 0, 1, 1, 1, 1 };
    if (k->has_trns) png_set_tRNS(png, info, alphas, 2, &key);
    uint8_t exif[26];
    exif_make(exif, k->orientation, k->orientation & 1);
    if (k->orientation) png_set_eXIf_1(png, info, sizeof exif, exif);
    png_write_info(png, info);
    int passes = png_set_interlace_handling(png);
    uint32_t n = k->width * png_samples(k->colour);
    uint8_t *row = malloc((size_t)n * 2 + 8);
    must(row != NULL);
    for (int pass = 0; pass < passes; pass++) {
        for (uint32_t y = 0; y < k->height; y++) {
            memset(row, 0, (size_t)n * 2 + 8);
            pack_row(row, n, y, k->bits);
            png_write_row(png, row);
        }
    }
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(row);
    return f;
}

struct file_bytes png_insert(struct file_bytes f, const char *type, const void *body, size_t len)
{
    enum { BEHIND_IHDR = 8 + 12 + 13 };
    struct file_bytes out = { 0 };
    append(&out, f.data, BEHIND_IHDR);
    uint8_t head[8] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
                        (uint8_t)len };
    memcpy(head + 4, type, 4);
    append(&out, head, 8);
    append(&out, body, len);
    uint32_t crc = (uint32_t)crc32(0, out.data + out.len - len - 4, (uInt)len + 4);
    uint8_t tail[4] = { (uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8),
                        (uint8_t)crc };
    append(&out, tail, 4);
    append(&out, f.data + BEHIND_IHDR, f.len - BEHIND_IHDR);
    free(f.data);
    return out;
}

/* A valid script of many scans: DC first, then one coefficient after the other. */
static int thin_scans(jpeg_scan_info *scans, int components, int coefficients)
{
    int n = 0;
    scans[n++] = (jpeg_scan_info){ components, { 0, 1, 2, 3 }, 0, 0, 0, 0 };
    for (int c = 0; c < components; c++) {
        for (int k = 1; k <= coefficients; k++) {
            scans[n++] = (jpeg_scan_info){ 1, { c }, k, k, 0, 0 };
        }
    }
    return n;
}

struct file_bytes jpeg_make(const struct jpeg_kind *k, const uint8_t *pixels)
{
    static jpeg_scan_info scans[1 + 4 * 63];
    struct jpeg_compress_struct info = { 0 };
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL;
    unsigned long len = 0;
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &bytes, &len);
    info.image_width = k->width;
    info.image_height = k->height;
    info.input_components = k->components;
    info.in_color_space = k->components == 1   ? JCS_GRAYSCALE
                          : k->components == 3 ? JCS_RGB
                                               : JCS_CMYK;
    jpeg_set_defaults(&info);
    if (k->file_space) jpeg_set_colorspace(&info, (J_COLOR_SPACE)k->file_space);
    jpeg_set_quality(&info, 95, TRUE);
    info.write_Adobe_marker = k->adobe_marker;
    if (k->progressive) jpeg_simple_progression(&info);
    if (k->single_coefficient_scans) {
        info.num_scans = thin_scans(scans, k->components, k->single_coefficient_scans);
        info.scan_info = scans;
    }
    jpeg_start_compress(&info, TRUE);
    uint8_t exif[32] = "Exif";
    exif_make(exif + 6, k->orientation, k->orientation & 1);
    if (k->orientation) jpeg_write_marker(&info, JPEG_APP0 + 1, exif, sizeof exif);
    while (info.next_scanline < info.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)info.next_scanline * k->width *
                                                          (size_t)k->components);
        (void)jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    return (struct file_bytes){ bytes, len };
}

struct image noise_image(uint32_t width, uint32_t height, uint32_t channels, uint32_t depth)
{
    struct image img = { 0 };
    must(image_init(&img, width, height, channels, depth, NULL) == ST_OK);
    uint32_t state = 1;
    uint8_t *p = img.pixels;
    for (size_t i = 0; i < image_bytes(&img); i++) {
        state = state * 1664525u + 1013904223u;
        p[i] = (uint8_t)(state >> 24);
    }
    return img;
}
