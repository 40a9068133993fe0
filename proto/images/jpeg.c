/* JPEG files by libjpeg. An incomplete image is an error. */
#include <stdlib.h>
#include <string.h>

#include "proto/images/exif.h"
#include "proto/images/formats.h"
#include "proto/images/jpeg_run.h"

enum {
    MAX_SCANS = 100, /* a progressive file has about ten; each scan costs a pass over the image */
    DEFAULT_QUALITY = 92 /* of files that are written */
};

static void run_progress(j_common_ptr info)
{
    struct jpeg_run *r = (struct jpeg_run *)(void *)info->err;
    if (((j_decompress_ptr)info)->input_scan_number <= MAX_SCANS) return;
    r->status = error_set(r->err, ST_CORRUPT_IMAGE,
                          "the JPEG has more than %d scans, the most that are read", MAX_SCANS);
    longjmp(r->env, 1);
}

static bool is_exif_segment(const uint8_t *p, size_t body)
{
    return p[1] == JPEG_APP0 + 1 && body >= 6 && memcmp(p + 4, "Exif\0", 6) == 0;
}

/* The orientation of the first EXIF segment before the first scan. Read here, because libjpeg would
 * copy every such segment. */
static unsigned stored_orientation(const uint8_t *bytes, size_t len)
{
    size_t at = 2;
    while (len - at >= 4) {
        const uint8_t *p = bytes + at;
        if (p[0] != 0xff || p[1] == 0xff || p[1] == 0) {
            at++; /* fill bytes or stray bytes */
            continue;
        }
        bool stands_alone = p[1] == 0x01 || (p[1] >= JPEG_RST0 && p[1] <= 0xd8);
        if (stands_alone) {
            at += 2;
            continue;
        }
        size_t size = (size_t)p[2] << 8 | p[3]; /* includes these two bytes */
        if (p[1] == JPEG_EOI || p[1] == 0xda || size < 2 || size > len - at - 2) break;
        if (is_exif_segment(p, size - 2)) return exif_orientation(p + 10, size - 8);
        at += 2 + size;
    }
    return 1;
}

/* Memory of libjpeg and the strip beside the image, from the sampling factors, all of which are
 * 1..4 here. */
static size_t working_bytes(const struct jpeg_decompress_struct *info, bool is_turned)
{
    size_t sum = JPEG_LIBRARY_BYTES;
    size_t mcu_w = 8 * (size_t)info->max_h_samp_factor, mcu_h = 8 * (size_t)info->max_v_samp_factor;
    size_t mcus_x = (info->image_width + mcu_w - 1) / mcu_w;
    size_t mcus_y = (info->image_height + mcu_h - 1) / mcu_h;
    for (int c = 0; c < info->num_components; c++) {
        size_t h = (size_t)info->comp_info[c].h_samp_factor;
        size_t v = (size_t)info->comp_info[c].v_samp_factor;
        size_t blocks_x = mcus_x * h, blocks_y = mcus_y * v;
        if (info->progressive_mode || info->comps_in_scan < info->num_components) {
            sum = add_saturated(sum, mul_saturated(blocks_x * blocks_y, sizeof(JBLOCK)));
            sum = add_saturated(sum, blocks_y * sizeof(void *));
        }
        sum += blocks_x * 8 * v * (8 + 4); /* rows of samples, with context */
        sum += (mcus_x * mcu_w + 64) * (size_t)info->max_v_samp_factor; /* upsampled rows */
    }
    if (is_turned || info->num_components == 4) {
        sum += (size_t)info->image_width * (size_t)info->num_components * ORIENT_STRIP_ROWS;
    }
    return sum;
}

static enum status read_header(struct jpeg_run *r, j_decompress_ptr info, const uint8_t *bytes,
                               size_t len)
{
    jpeg_mem_src(info, bytes, len);
    (void)jpeg_read_header(info, TRUE);
    int n = info->num_components;
    if (n != 1 && n != 3 && n != 4) {
        return error_set(r->err, ST_CORRUPT_IMAGE,
                         "the JPEG has %d components; those of 1, 3 or 4 are read here", n);
    }
    return ST_OK;
}

static enum status probe_guarded(struct jpeg_run *r, j_decompress_ptr info,
                                 struct image_header *header, unsigned orientation,
                                 const uint8_t *bytes, size_t len)
{
    if (setjmp(r->env)) return r->status;
    jpeg_create_decompress(info);
    enum status s = read_header(r, info, bytes, len);
    if (s) return s;
    header->width = info->image_width;
    header->height = info->image_height;
    header->channels = info->num_components == 1 ? 1 : 3;
    header->depth = 8;
    size_t image = mul_saturated(mul_saturated(header->width, header->height), header->channels);
    header->decode_bytes = add_saturated(image, working_bytes(info, orientation != 1));
    return ST_OK;
}

enum status probe_jpeg(struct image_header *header, unsigned *orientation, const uint8_t *bytes,
                       size_t len, struct error *err)
{
    struct jpeg_decompress_struct info = { 0 };
    struct jpeg_run r;
    *orientation = stored_orientation(bytes, len);
    info.err = jpeg_run_init(&r, err);
    enum status s = probe_guarded(&r, &info, header, *orientation, bytes, len);
    jpeg_destroy_decompress(&info);
    if (s == ST_OK && *orientation != 1) {
        header->decode_bytes =
            add_saturated(header->decode_bytes, EXIF_MEMORY_BYTES + 2 * EXIF_MAX_BYTES);
    }
    return s;
}

/* CMYK to RGB in place, as (1 - ink)(1 - black) with 255 for 1. Adobe's files hold the inks
 * inverted. */
static void rgb_of_cmyk(uint8_t *row, uint32_t width, bool is_inverted)
{
    const uint8_t *from = row;
    uint8_t flip = is_inverted ? 0 : 255;
    for (uint32_t x = 0; x < width; x++, from += 4, row += 3) {
        unsigned k = from[3] ^ flip;
        unsigned r = from[0] ^ flip, g = from[1] ^ flip, b = from[2] ^ flip;
        row[0] = (uint8_t)((r * k + 127) / 255);
        row[1] = (uint8_t)((g * k + 127) / 255);
        row[2] = (uint8_t)((b * k + 127) / 255);
    }
}

static void read_rows(struct jpeg_run *r, j_decompress_ptr info, struct image *img,
                      unsigned orientation)
{
    bool is_cmyk = info->out_color_space == JCS_CMYK;
    bool is_direct = orientation == 1 && !is_cmyk;
    size_t stride = (size_t)info->output_width * (size_t)info->output_components;
    JSAMPROW rows[ORIENT_STRIP_ROWS];
    for (JDIMENSION y = 0; y < info->output_height;) {
        JDIMENSION left = info->output_height - y;
        JDIMENSION n = left < ORIENT_STRIP_ROWS ? left : ORIENT_STRIP_ROWS;
        for (JDIMENSION i = 0; i < n; i++) {
            rows[i] = is_direct ? (uint8_t *)img->pixels + (y + i) * stride : r->strip + i * stride;
        }
        for (JDIMENSION got = 0; got < n;) {
            JDIMENSION more = jpeg_read_scanlines(info, rows + got, n - got);
            if (more == 0) ERREXIT(info, JERR_CANT_SUSPEND);
            got += more;
        }
        for (JDIMENSION i = 0; is_cmyk && i < n; i++) {
            rgb_of_cmyk(rows[i], info->output_width, info->saw_Adobe_marker);
        }
        if (!is_direct) orient_rows(img, orientation, r->strip, stride, y, n);
        y += n;
    }
}

static enum status decode_guarded(struct jpeg_run *r, j_decompress_ptr info, struct image *img,
                                  unsigned orientation, const uint8_t *bytes, size_t len)
{
    if (setjmp(r->env)) return r->status;
    jpeg_create_decompress(info);
    r->progress.progress_monitor = run_progress;
    info->progress = &r->progress;
    enum status s = read_header(r, info, bytes, len);
    if (s) return s;
    info->mem->max_memory_to_use = (long)working_bytes(info, orientation != 1);
    info->out_color_space = info->num_components == 1   ? JCS_GRAYSCALE
                            : info->num_components == 3 ? JCS_RGB
                                                        : JCS_CMYK;
    info->do_block_smoothing = FALSE; /* it only estimates what a truncated file lacks */
    img->jpeg_quality = jpeg_quality_of(info);
    if (orientation != 1 || info->out_color_space == JCS_CMYK) {
        r->strip =
            malloc((size_t)info->image_width * (size_t)info->num_components * ORIENT_STRIP_ROWS);
        if (!r->strip) return error_set(r->err, ST_NO_MEMORY_NOW, "no memory for a JPEG's rows");
    }
    (void)jpeg_start_decompress(info);
    read_rows(r, info, img, orientation);
    (void)jpeg_finish_decompress(
        info); /* reads up to the end marker: a file without it is truncated */
    return ST_OK;
}

enum status decode_jpeg(struct image *img, unsigned orientation, const uint8_t *bytes, size_t len,
                        struct error *err)
{
    struct jpeg_decompress_struct info = { 0 };
    struct jpeg_run r;
    info.err = jpeg_run_init(&r, err);
    enum status s = decode_guarded(&r, &info, img, orientation, bytes, len);
    jpeg_destroy_decompress(&info);
    free(r.strip);
    return s;
}

/* One row to 8 bits without alpha. 65535 = 257 * 255. */
static void narrow_row(uint8_t *to, const struct image *img, uint32_t y)
{
    uint32_t colours = img->channels <= 2 ? 1 : 3;
    size_t first = (size_t)y * img->width * img->channels;
    const uint8_t *from8 = (const uint8_t *)img->pixels + first;
    const uint16_t *from16 = (const uint16_t *)img->pixels + first;
    for (uint32_t x = 0; x < img->width; x++) {
        for (uint32_t c = 0; c < colours; c++) {
            size_t i = (size_t)x * img->channels + c;
            *to++ = img->depth == 8 ? from8[i] : (uint8_t)((from16[i] + 128u) / 257u);
        }
    }
}

static enum status encode_guarded(struct jpeg_run *r, j_compress_ptr info, const struct image *img,
                                  int quality)
{
    bool is_direct = img->depth == 8 && img->channels != 2;
    if (setjmp(r->env)) return r->status;
    jpeg_create_compress(info);
    info->image_width = img->width;
    info->image_height = img->height;
    info->input_components = img->channels <= 2 ? 1 : is_direct ? (int)img->channels : 3;
    info->in_color_space = img->channels <= 2                ? JCS_GRAYSCALE
                           : is_direct && img->channels == 4 ? JCS_EXT_RGBX
                                                             : JCS_RGB;
    jpeg_run_encode(r, info, quality);
    if (!is_direct) {
        r->strip = malloc((size_t)img->width * (size_t)info->input_components);
        if (!r->strip) return error_set(r->err, ST_NO_MEMORY_NOW, "no memory for a JPEG's row");
    }
    jpeg_start_compress(info, TRUE);
    size_t row_bytes = (size_t)img->width * img->channels;
    while (info->next_scanline < info->image_height) {
        if (!is_direct) narrow_row(r->strip, img, info->next_scanline);
        JSAMPROW row =
            is_direct ? (uint8_t *)img->pixels + info->next_scanline * row_bytes : r->strip;
        (void)jpeg_write_scanlines(info, &row, 1);
    }
    jpeg_finish_compress(info);
    return ST_OK;
}

enum status encode_jpeg(struct byte_sink *out, const struct image *img,
                        const struct encode_options *opt, struct error *err)
{
    if (img->width > JPEG_MAX_DIMENSION || img->height > JPEG_MAX_DIMENSION) {
        return error_set(err, ST_TOO_MANY_PX,
                         "the image is %u x %u px; a JPEG holds at most %ld a side", img->width,
                         img->height, (long)JPEG_MAX_DIMENSION);
    }
    struct jpeg_compress_struct info = { 0 };
    struct jpeg_run r;
    info.err = jpeg_run_init(&r, err);
    r.out = out;
    enum status s =
        encode_guarded(&r, &info, img, opt->jpeg_quality ? opt->jpeg_quality : DEFAULT_QUALITY);
    jpeg_destroy_compress(&info);
    free(r.strip);
    return s;
}
