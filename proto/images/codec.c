#include "proto/images/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/images/formats.h"

const struct image_format_info image_formats[IMAGE_FORMAT_COUNT] = {
    [IMAGE_PNG] = { "PNG", "image/png", ".png" },
    [IMAGE_JPEG] = { "JPEG", "image/jpeg", ".jpg" },
};

#define PNG_SIGNATURE  "\x89PNG\r\n\x1a\n"
#define JPEG_SIGNATURE "\xff\xd8\xff"

static const struct format_capacity {
    const char *signature;
    size_t signature_len;
    enum status (*probe)(struct image_header *header, unsigned *orientation, const uint8_t *bytes,
                         size_t len, struct error *err);
    enum status (*decode)(struct image *img, unsigned orientation, const uint8_t *bytes, size_t len,
                          struct error *err);
    enum status (*encode)(struct byte_sink *out, const struct image *img,
                          const struct encode_options *opt, struct error *err);
} capacities[IMAGE_FORMAT_COUNT] = {
    [IMAGE_PNG] = { PNG_SIGNATURE, 8, probe_png, decode_png, encode_png },
    [IMAGE_JPEG] = { JPEG_SIGNATURE, 3, probe_jpeg, decode_jpeg, encode_jpeg },
};

/* Formats that are recognised only to be named. */
static const struct {
    const char *name;
    size_t offset;
    const char *bytes;
    size_t len;
} foreign[] = {
    { "a GIF", 0, "GIF8", 4 },
    { "a WebP", 8, "WEBP", 4 },
    { "a BMP", 0, "BM", 2 },
    { "a TIFF", 0, "II*\0", 4 },
    { "a TIFF", 0, "MM\0*", 4 },
    { "an AVIF", 4, "ftypavif", 8 },
    { "an AVIF", 4, "ftypavis", 8 },
    { "a HEIC", 4, "ftyphei", 7 },
    { "a HEIC", 4, "ftyphev", 7 },
    { "a HEIC", 4, "ftypmif1", 8 },
    { "a HEIC", 4, "ftypmsf1", 8 },
    { "a JPEG XL", 0, "\xff\x0a", 2 },
    { "a JPEG XL", 4, "JXL \r\n", 6 },
    { "a JPEG 2000", 4, "jP  \r\n", 6 },
    { "a JPEG 2000", 0, "\xff\x4f\xff\x51", 4 },
    { "a PSD", 0, "8BPS", 4 },
    { "an icon (ICO)", 0, "\0\0\1\0", 4 },
    { "a PDF", 0, "%PDF-", 5 },
};

/* An SVG has no signature: an `<svg` element in the first bytes of what begins as markup. */
static bool seems_svg(const uint8_t *bytes, size_t len)
{
    if (len > 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) {
        bytes += 3;
        len -= 3;
    }
    while (len && (*bytes == ' ' || *bytes == '\t' || *bytes == '\r' || *bytes == '\n')) {
        bytes++;
        len--;
    }
    if (!len || *bytes != '<') return false;
    return memmem(bytes, len < 4096 ? len : 4096, "<svg", 4) != NULL;
}

static const char *foreign_name(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (len >= foreign[i].offset + foreign[i].len &&
            memcmp(bytes + foreign[i].offset, foreign[i].bytes, foreign[i].len) == 0) {
            return foreign[i].name;
        }
    }
    return seems_svg(bytes, len) ? "an SVG" : NULL;
}

static enum status refuse_format(const uint8_t *bytes, size_t len, struct error *err)
{
    char readable[64] = "";
    for (int f = 0; f < IMAGE_FORMAT_COUNT; f++) {
        size_t used = strlen(readable);
        (void)snprintf(readable + used, sizeof readable - used, "%s%s", f ? " or " : "",
                       image_formats[f].name);
    }
    if (len == 0) {
        return error_set(err, ST_UNKNOWN_FORMAT, "the image is empty (0 bytes), not a %s",
                         readable);
    }
    const char *name = foreign_name(bytes, len);
    if (name) {
        return error_set(err, ST_UNKNOWN_FORMAT, "this seems to be %s image; a %s is needed", name,
                         readable);
    }
    return error_set(err, ST_UNKNOWN_FORMAT, "these %zu bytes do not begin as a %s", len, readable);
}

static enum status probe(struct image_header *out, unsigned *orientation, const uint8_t *bytes,
                         size_t len, struct error *err)
{
    for (int f = 0; f < IMAGE_FORMAT_COUNT; f++) {
        if (len < capacities[f].signature_len ||
            memcmp(bytes, capacities[f].signature, capacities[f].signature_len) != 0) {
            continue;
        }
        struct image_header h = { .format = (enum image_format)f };
        enum status s = capacities[f].probe(&h, orientation, bytes, len, err);
        if (s) return s;
        if (orientation_swaps(*orientation)) {
            uint32_t stored_width = h.width;
            h.width = h.height;
            h.height = stored_width;
        }
        *out = h;
        return ST_OK;
    }
    return refuse_format(bytes, len, err);
}

enum status codec_probe(struct image_header *out, const void *bytes, size_t len, struct error *err)
{
    unsigned orientation;
    return probe(out, &orientation, bytes, len, err);
}

enum status codec_decode(struct image *out, const void *bytes, size_t len, uint64_t max_pixels,
                         struct error *err)
{
    struct image_header h = { 0 };
    struct image img = { 0 };
    unsigned orientation = 1;
    enum status s = probe(&h, &orientation, bytes, len, err);
    if (s) goto done;
    if ((uint64_t)h.width * h.height > max_pixels) {
        s = error_set(err, ST_TOO_MANY_PX, "the image is %u x %u px, more than max_pixels = %llu",
                      h.width, h.height, (unsigned long long)max_pixels);
        goto done;
    }
    s = image_init(&img, h.width, h.height, h.channels, h.depth, err);
    if (s) goto done;
    s = capacities[h.format].decode(&img, orientation, bytes, len, err);
    if (s) goto done;
    *out = img;
    img.pixels = NULL;
done:
    image_done(&img);
    return s;
}

static enum status check_options(const struct encode_options *opt, struct error *err)
{
    if ((unsigned)opt->format >= IMAGE_FORMAT_COUNT) {
        return error_set(err, ST_BAD_PARAMETER, "no image format has the number %d",
                         (int)opt->format);
    }
    if (opt->png_level < -1 || opt->png_level > 9) {
        return error_set(err, ST_BAD_PARAMETER, "png_level is %d, not one of -1 to 9",
                         opt->png_level);
    }
    if (opt->jpeg_quality < 0 || opt->jpeg_quality > 100) {
        return error_set(err, ST_BAD_PARAMETER, "jpeg_quality is %d, not one of 0 to 100",
                         opt->jpeg_quality);
    }
    return ST_OK;
}

enum status codec_encode(void **bytes, size_t *len, const struct image *img,
                         const struct encode_options *opt, struct error *err)
{
    struct byte_sink sink = { 0 };
    enum status s = check_options(opt, err);
    if (s) goto done;
    s = capacities[opt->format].encode(&sink, img, opt, err);
    if (s) goto done;
    void *fitted = realloc(sink.data, sink.len); /* it grew by doubling; an answer may wait long */
    *bytes = fitted ? fitted : sink.data;
    *len = sink.len;
    sink.data = NULL;
done:
    free(sink.data);
    return s;
}
