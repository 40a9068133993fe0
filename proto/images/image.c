#include "proto/images/image.h"

#include <stdlib.h>

enum status image_init(struct image *out, uint32_t width, uint32_t height, uint32_t channels,
                       uint32_t depth, struct error *err)
{
    if (width == 0 || height == 0 || channels < 1 || channels > 4 || (depth != 8 && depth != 16)) {
        return error_set(err, ST_INTERNAL, "no image can be %u x %u px with %u channels of %u bits",
                         width, height, channels, depth);
    }
    /* 32 bits x (at most 8) fits 64 bits; all rows together may not. */
    uint64_t row_bytes = (uint64_t)width * channels * (depth / 8);
    if (row_bytes > PTRDIFF_MAX / height) {
        return error_set(err, ST_TOO_MANY_PX, "an image of %u x %u px does not fit this machine",
                         width, height);
    }
    void *pixels = calloc(height, (size_t)row_bytes);
    if (!pixels) {
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for an image of %u x %u px", width,
                         height);
    }
    out->width = width;
    out->height = height;
    out->channels = channels;
    out->depth = depth;
    out->pixels = pixels;
    out->jpeg_quality = 0;
    return ST_OK;
}

void image_done(struct image *img)
{
    free(img->pixels);
    *img = (struct image){ 0 };
}

size_t image_bytes(const struct image *img)
{
    return (size_t)img->width * img->height * img->channels * (img->depth / 8);
}
