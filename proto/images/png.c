/* PNG by libpng. The code here reads the header itself, because libpng allocates while it reads.
 * libpng then decodes with limits set to the header's sizes, ignores ancillary chunks and checks
 * every CRC. */
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "proto/images/exif.h"
#include "proto/images/formats.h"

enum {
    SIGNATURE_BYTES = 8,
    CHUNK_FRAME_BYTES = 12,        /* length, type, CRC */
    CHUNK_MAX_BYTES = 8 << 20,     /* of any chunk but IDAT */
    LIBRARY_BYTES = 192 << 10,     /* inflate's window and state, libpng's structs and buffers */
    WRITE_BUFFER_BYTES = 64 << 10, /* also the size of an IDAT chunk */
    DEFLATE_BEST_RATIO = 1032      /* 258 bytes of 2 bits */
};

struct png_facts {
    uint32_t width, height, bits, colour, interlaced; /* of IHDR */
    bool has_trns, has_idat;
    const uint8_t *exif; /* NULL: none */
    size_t exif_len;
};

static uint32_t stored_channels(uint32_t colour)
{
    switch (colour) {
    case PNG_COLOR_TYPE_GRAY:
    case PNG_COLOR_TYPE_PALETTE: return 1;
    case PNG_COLOR_TYPE_GRAY_ALPHA: return 2;
    case PNG_COLOR_TYPE_RGB: return 3;
    default: return 4;
    }
}

static uint32_t decoded_channels(const struct png_facts *f)
{
    uint32_t channels = f->colour == PNG_COLOR_TYPE_PALETTE ? 3 : stored_channels(f->colour);
    return channels + (f->has_trns ? 1 : 0);
}

static bool depth_is_allowed(uint32_t colour, uint32_t bits)
{
    switch (colour) {
    case PNG_COLOR_TYPE_GRAY: return bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16;
    case PNG_COLOR_TYPE_PALETTE: return bits == 1 || bits == 2 || bits == 4 || bits == 8;
    case PNG_COLOR_TYPE_RGB:
    case PNG_COLOR_TYPE_GRAY_ALPHA:
    case PNG_COLOR_TYPE_RGB_ALPHA: return bits == 8 || bits == 16;
    default: return false;
    }
}

static enum status read_ihdr(struct png_facts *f, const uint8_t *bytes, size_t len,
                             struct error *err)
{
    const uint8_t *p = bytes + SIGNATURE_BYTES;
    if (len < SIGNATURE_BYTES + CHUNK_FRAME_BYTES + 13 || png_get_uint_32(p) != 13 ||
        memcmp(p + 4, "IHDR", 4) != 0) {
        return error_set(err, ST_CORRUPT_IMAGE, "the PNG of %zu bytes has no whole header", len);
    }
    *f = (struct png_facts){ .width = png_get_uint_32(p + 8),
                             .height = png_get_uint_32(p + 12),
                             .bits = p[16],
                             .colour = p[17],
                             .interlaced = p[20] };
    if (f->width == 0 || f->height == 0 || f->width > PNG_UINT_31_MAX ||
        f->height > PNG_UINT_31_MAX) {
        return error_set(err, ST_CORRUPT_IMAGE, "the PNG's header says %u x %u px", f->width,
                         f->height);
    }
    if (!depth_is_allowed(f->colour, f->bits) || p[18] || p[19] || f->interlaced > 1) {
        return error_set(err, ST_CORRUPT_IMAGE,
                         "the PNG's header says colour type %u, %u bits, compression %u, filter "
                         "%u, interlace %u, which is no PNG's",
                         f->colour, f->bits, p[18], p[19], f->interlaced);
    }
    return ST_OK;
}

/* Skips from chunk to chunk by their lengths; EXIF may follow the image data. */
static enum status read_facts(struct png_facts *out, const uint8_t *bytes, size_t len,
                              struct error *err)
{
    struct png_facts f;
    enum status s = read_ihdr(&f, bytes, len, err);
    if (s) return s;
    size_t at = SIGNATURE_BYTES + CHUNK_FRAME_BYTES + 13;
    while (len - at >= CHUNK_FRAME_BYTES) {
        const uint8_t *p = bytes + at;
        size_t size = png_get_uint_32(p);
        bool is_whole = size <= len - at - CHUNK_FRAME_BYTES;
        if (memcmp(p + 4, "IDAT", 4) == 0) {
            f.has_idat = true;
        } else if (memcmp(p + 4, "tRNS", 4) == 0) {
            f.has_trns = f.has_trns || !f.has_idat;
        } else if (memcmp(p + 4, "eXIf", 4) == 0 && is_whole && !f.exif) {
            f.exif = p + 8;
            f.exif_len = size;
        }
        if (!is_whole || memcmp(p + 4, "IEND", 4) == 0) break;
        at += CHUNK_FRAME_BYTES + size;
    }
    if (!f.has_idat) {
        return error_set(err, ST_CORRUPT_IMAGE, "the PNG of %zu bytes ends before its image data",
                         len);
    }
    if (f.has_trns && (f.colour & PNG_COLOR_MASK_ALPHA)) {
        return error_set(err, ST_CORRUPT_IMAGE, "the PNG has both an alpha channel and tRNS");
    }
    *out = f;
    return ST_OK;
}

enum status probe_png(struct image_header *header, unsigned *orientation, const uint8_t *bytes,
                      size_t len, struct error *err)
{
    struct png_facts f;
    enum status s = read_facts(&f, bytes, len, err);
    if (s) return s;
    *orientation = f.exif ? exif_orientation(f.exif, f.exif_len) : 1;
    header->width = f.width;
    header->height = f.height;
    header->channels = decoded_channels(&f);
    header->depth = f.bits == 16 ? 16 : 8;

    size_t row = mul_saturated(f.width, (size_t)header->channels * (header->depth / 8));
    size_t image = mul_saturated(row, f.height);
    size_t turned = 0;
    if (*orientation != 1) {
        turned = f.interlaced ? image : mul_saturated(row, ORIENT_STRIP_ROWS);
    }
    /* libpng keeps two rows, each sized for the widest pixel of its transformations (8 bytes). */
    size_t rows = mul_saturated(2 * (size_t)8, add_saturated(f.width, 64));
    size_t sum = add_saturated(add_saturated(image, turned), add_saturated(rows, LIBRARY_BYTES));
    header->decode_bytes = add_saturated(sum, f.exif ? EXIF_MEMORY_BYTES + 2 * EXIF_MAX_BYTES : 0);
    return ST_OK;
}

/* One sequence of libpng calls, reading or writing. The struct holds everything that must survive a
 * longjmp; locals would not. */
struct png_run {
    png_structp png;
    png_infop info;
    jmp_buf env;
    bool out_of_memory;
    struct error *err;
    const uint8_t *at; /* reading: the rest of the file */
    size_t left;
    struct byte_sink *out; /* writing */
    uint8_t *strip;        /* reading: rows to be oriented */
};

static void *run_alloc(png_structp png, png_alloc_size_t size)
{
    struct png_run *r = png_get_mem_ptr(png);
    void *p = malloc(size);
    if (!p) r->out_of_memory = true;
    return p;
}

static void run_free(png_structp png, void *p)
{
    (void)png;
    free(p);
}

static void run_error(png_structp png, const char *text)
{
    struct png_run *r = png_get_error_ptr(png);
    if (!r->out_of_memory) {
        (void)error_set(r->err, ST_CORRUPT_IMAGE, "the PNG cannot be %s: %s",
                        r->out ? "written" : "decoded", text);
    }
    longjmp(r->env, 1);
}

static void run_warning(png_structp png, const char *text)
{
    (void)png;
    (void)text;
}

static enum status run_failed(struct png_run *r)
{
    if (r->out_of_memory) return error_set(r->err, ST_NO_MEMORY_NOW, "no memory for a PNG");
    return r->err && r->err->status ? r->err->status : ST_CORRUPT_IMAGE;
}

static void run_read(png_structp png, png_bytep to, size_t n)
{
    struct png_run *r = png_get_io_ptr(png);
    if (n > r->left) png_error(png, "the file is cut short");
    memcpy(to, r->at, n);
    r->at += n;
    r->left -= n;
}

static void run_write(png_structp png, png_bytep from, size_t n)
{
    struct png_run *r = png_get_io_ptr(png);
    if (!byte_sink_put(r->out, from, n)) {
        r->out_of_memory = true;
        png_error(png, "out of memory");
    }
}

static void run_flush(png_structp png)
{
    (void)png;
}

static const bool host_is_little_endian = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

/* Decodes directly into the image where the orientation is 1. Each pass of an interlaced file
 * returns every row, so that all rows must stay in memory. */
static void read_rows(struct png_run *r, struct image *img, unsigned orientation,
                      const struct png_facts *f, int passes)
{
    size_t row_bytes = png_get_rowbytes(r->png, r->info);
    if (orientation == 1) {
        for (int pass = 0; pass < passes; pass++) {
            for (uint32_t y = 0; y < f->height; y++) {
                png_read_row(r->png, (uint8_t *)img->pixels + y * row_bytes, NULL);
            }
        }
        return;
    }
    uint32_t strip_rows = passes > 1 ? f->height : ORIENT_STRIP_ROWS;
    r->strip = calloc(strip_rows, row_bytes);
    if (!r->strip) {
        r->out_of_memory = true;
        png_error(r->png, "out of memory");
    }
    for (uint32_t y = 0; y < f->height; y += strip_rows) {
        uint32_t n = f->height - y < strip_rows ? f->height - y : strip_rows;
        for (int pass = 0; pass < passes; pass++) {
            for (uint32_t i = 0; i < n; i++) {
                png_read_row(r->png, r->strip + i * row_bytes, NULL);
            }
        }
        orient_rows(img, orientation, r->strip, row_bytes, y, n);
        if (n < strip_rows) break;
    }
}

static enum status read_image(struct png_run *r, struct image *img, unsigned orientation,
                              const struct png_facts *f)
{
    if (setjmp(r->env)) return run_failed(r);
    r->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r, run_error, run_warning, r,
                                      run_alloc, run_free);
    r->info = r->png ? png_create_info_struct(r->png) : NULL;
    if (!r->info) {
        r->out_of_memory = true;
        return run_failed(r);
    }
    png_set_read_fn(r->png, r, run_read);
    png_set_user_limits(r->png, f->width, f->height);
    png_set_chunk_malloc_max(r->png, CHUNK_MAX_BYTES);
    png_set_chunk_cache_max(r->png, 1);
    png_set_crc_action(r->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    /* -1: all chunks that libpng knows but IHDR, PLTE, tRNS, IDAT and IEND. No profile or text is
     * ever inflated. */
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(r->png, r->info);

    if (f->has_trns != (png_get_valid(r->png, r->info, PNG_INFO_tRNS) != 0)) {
        png_error(r->png, "its tRNS chunk is damaged");
    }
    png_set_expand(r->png);
    if (f->bits == 16 && host_is_little_endian) png_set_swap(r->png);
    int passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    /* The decoded rows have the size that the probe reported and `img` is allocated for, or nothing
     * is written. */
    if (png_get_rowbytes(r->png, r->info) != (size_t)f->width * img->channels * (img->depth / 8)) {
        png_error(r->png, "its header contradicts its chunks");
    }
    read_rows(r, img, orientation, f, passes);
    png_read_end(r->png, NULL); /* a file without IEND is truncated */
    return ST_OK;
}

enum status decode_png(struct image *img, unsigned orientation, const uint8_t *bytes, size_t len,
                       struct error *err)
{
    struct png_facts f;
    enum status s = read_facts(&f, bytes, len, err);
    if (s) return s;
    size_t row_bits = (size_t)f.width * f.bits * stored_channels(f.colour);
    if (mul_saturated(row_bits / 8, f.height) / DEFLATE_BEST_RATIO > len) {
        return error_set(err, ST_CORRUPT_IMAGE,
                         "the PNG says %u x %u px, which %zu bytes cannot hold", f.width, f.height,
                         len);
    }
    struct error own = { 0 };
    struct png_run r = { .err = err ? err : &own, .at = bytes, .left = len };
    s = read_image(&r, img, orientation, &f);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.strip);
    return s;
}

static void set_compression(struct png_run *r, int level)
{
    png_set_compression_level(r->png, level);
    if (level == 0) png_set_filter(r->png, PNG_FILTER_TYPE_BASE, PNG_FILTER_NONE);
    png_set_compression_buffer_size(r->png, WRITE_BUFFER_BYTES);
}

static enum status write_image(struct png_run *r, const struct image *img, int level)
{
    static const int colours[] = { PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                   PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA };
    if (setjmp(r->env)) return run_failed(r);
    r->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, r, run_error, run_warning, r,
                                       run_alloc, run_free);
    r->info = r->png ? png_create_info_struct(r->png) : NULL;
    if (!r->info) {
        r->out_of_memory = true;
        return run_failed(r);
    }
    png_set_write_fn(r->png, r, run_write, run_flush);
    png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    set_compression(r, level);
    png_set_IHDR(r->png, r->info, img->width, img->height, (int)img->depth,
                 colours[img->channels - 1], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(r->png, r->info);
    if (img->depth == 16 && host_is_little_endian) png_set_swap(r->png);
    size_t row_bytes = (size_t)img->width * img->channels * (img->depth / 8);
    for (uint32_t y = 0; y < img->height; y++) {
        png_write_row(r->png, (const uint8_t *)img->pixels + y * row_bytes);
    }
    png_write_end(r->png, NULL);
    return ST_OK;
}

enum status encode_png(struct byte_sink *out, const struct image *img,
                       const struct encode_options *opt, struct error *err)
{
    struct error own = { 0 };
    struct png_run r = { .err = err ? err : &own, .out = out };
    if (!byte_sink_reserve(out, image_bytes(img) / 2 + 4096)) {
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a PNG of %u x %u px", img->width,
                         img->height);
    }
    if (opt->png_level < 0) return encode_png_fast(out, img, err);
    enum status s = write_image(&r, img, opt->png_level);
    png_destroy_write_struct(&r.png, &r.info);
    return s;
}
