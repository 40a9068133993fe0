#include "proto/images/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/images/formats.h"

const struct image_format_info image_formats[IMAGE_FORMAT_COUNT] = {
#define FORMAT(ID, id, name, media_type, extension, second, signature)                             \
    { name, media_type, { extension, second } },
#include "proto/images/formats.def"
};

static const struct format_functions {
    const char *signature;
    size_t signature_len;
    enum status (*probe)(struct image_header *header, unsigned *orientation, const uint8_t *bytes,
                         size_t len, struct error *err);
    enum status (*decode)(struct image *img, unsigned orientation, const uint8_t *bytes, size_t len,
                          struct error *err);
    enum status (*encode)(struct byte_sink *out, const struct image *img,
                          const struct encode_options *opt, struct error *err);
} functions[IMAGE_FORMAT_COUNT] = {
#define FORMAT(ID, id, name, media_type, extension, second, signature)                             \
    { signature, sizeof(signature) - 1, probe_##id, decode_##id, encode_##id },
#include "proto/images/formats.def"
};

static const struct {
    const char *name;
    size_t offset;
    const char *bytes;
    size_t len;
} foreign[] = {
#define FOREIGN(name, offset, bytes) { name, offset, bytes, sizeof(bytes) - 1 },
#include "proto/images/formats.def"
};

struct image_format_names image_format_names(void)
{
    struct image_format_names names = { "" };
    for (int f = 0; f < IMAGE_FORMAT_COUNT; f++) {
        const size_t used = strlen(names.text);
        (void)snprintf(names.text + used, sizeof names.text - used, "%s%s", f ? " or " : "",
                       image_formats[f].name);
    }
    return names;
}

bool image_format_of_name(enum image_format *out, const char *name)
{
    const char *dot = strrchr(name, '.');
    for (int f = 0; dot && f < IMAGE_FORMAT_COUNT; f++)
        for (int i = 0; i < 2; i++) {
            const char *extension = image_formats[f].extensions[i];
            if (!extension || dot == name || strcasecmp(dot, extension) != 0) continue;
            *out = (enum image_format)f;
            return true;
        }
    return false;
}

/* An SVG has no signature: it is markup with an `<svg` element in its first bytes. */
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
    const struct image_format_names formats = image_format_names();
    if (len == 0) {
        return error_set(err, ST_UNKNOWN_FORMAT, "the image is empty (0 bytes), not a %s",
                         formats.text);
    }
    const char *name = foreign_name(bytes, len);
    if (name) {
        return error_set(err, ST_UNKNOWN_FORMAT, "this seems to be %s image; a %s is needed", name,
                         formats.text);
    }
    return error_set(err, ST_UNKNOWN_FORMAT, "these %zu bytes do not begin as a %s", len,
                     formats.text);
}

static enum status probe(struct image_header *out, unsigned *orientation, const uint8_t *bytes,
                         size_t len, struct error *err)
{
    for (int f = 0; f < IMAGE_FORMAT_COUNT; f++) {
        if (len < functions[f].signature_len ||
            memcmp(bytes, functions[f].signature, functions[f].signature_len) != 0) {
            continue;
        }
        struct image_header h = { .format = (enum image_format)f };
        enum status s = functions[f].probe(&h, orientation, bytes, len, err);
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
    s = functions[h.format].decode(&img, orientation, bytes, len, err);
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
    s = functions[opt->format].encode(&sink, img, opt, err);
    if (s) goto done;
    /* the buffer grew by doubling, and a reply may wait for long */
    void *fitted = realloc(sink.data, sink.len);
    *bytes = fitted ? fitted : sink.data;
    *len = sink.len;
    sink.data = NULL;
done:
    free(sink.data);
    return s;
}
