#include "cli/measurements.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/models/safetensors.h"

enum { LARGEST_SIDE = 1 << 16 };

/* The file's order is [c][h][w], the engine's [h][w][c]. */
static void to_planes(float *dst, const float *src, size_t px, size_t channels)
{
    for (size_t c = 0; c < channels; c++)
        for (size_t p = 0; p < px; p++)
            dst[c * px + p] = src[p * channels + c];
}

enum status measurement_read(struct measurement *out, const char *path, struct error *err)
{
    struct safetensors *st = NULL;
    float *planes = NULL, *y = NULL;
    enum status s = safetensors_open(&st, path, err);
    if (s) return s;
    const struct st_tensor *t = safetensors_find(st, "y");
    bool is_right = t && t->dims == 4 && t->shape[0] == 1 &&
                    (t->shape[1] == 1 || t->shape[1] == 3) && t->shape[2] >= 1 &&
                    t->shape[3] >= 1 && t->shape[2] <= LARGEST_SIDE && t->shape[3] <= LARGEST_SIDE;
    if (!is_right) {
        s = error_set(err, ST_BAD_FILE, "%s: a tensor y of [1][1 or 3][h][w] is needed", path);
        goto done;
    }
    planes = malloc(t->count * sizeof *planes);
    y = malloc(t->count * sizeof *y);
    if (!planes || !y) {
        s = error_set(err, ST_NO_MEMORY_NOW, "%s: no memory for %zu values", path, t->count);
        goto done;
    }
    dtype_to_f32(planes, t->data, t->dtype, t->count);
    const size_t channels = t->shape[1], px = t->count / channels;
    for (size_t c = 0; c < channels; c++)
        for (size_t p = 0; p < px; p++) {
            float v = planes[c * px + p];
            if (!isfinite(v)) {
                s = error_set(err, ST_BAD_FILE, "%s: y is not finite", path);
                goto done;
            }
            y[p * channels + c] = v;
        }
    *out =
        (struct measurement){ y, (uint32_t)t->shape[3], (uint32_t)t->shape[2], (uint32_t)channels };
    y = NULL;
done:
    free(planes);
    free(y);
    safetensors_close(st);
    return s;
}

enum status measurement_write(const char *path, const struct measurement *y, const char *task,
                              double sigma, double level, uint64_t seed, struct error *err)
{
    char sigma_text[32], seed_text[32], level_text[32];
    const size_t px = (size_t)y->width * y->height, count = px * y->channels;
    float *planes = malloc(count * sizeof *planes);
    if (!planes) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu values", count);
    to_planes(planes, y->y, px, y->channels);
    snprintf(sigma_text, sizeof sigma_text, "%.17g", sigma);
    snprintf(seed_text, sizeof seed_text, "%" PRIu64, seed);
    snprintf(level_text, sizeof level_text, "%.17g", level);
    const struct st_meta meta[] = {
        { "task", task }, { "sigma", sigma_text }, { "seed", seed_text }, { "level", level_text }
    };
    const struct st_tensor t = { .name = "y",
                                 .dtype = DT_F32,
                                 .dims = 4,
                                 .shape = { 1, y->channels, y->height, y->width },
                                 .count = count,
                                 .data = planes };
    enum status s = safetensors_write(path, &t, 1, meta, level > 0 ? 4 : 3, NULL, NULL, err);
    free(planes);
    return s;
}

enum status centred_hole(struct image *out, uint32_t width, uint32_t height, struct error *err)
{
    enum status s = image_init(out, width, height, 1, 8, err);
    if (s) return s;
    const uint32_t w = width / 2, h = height / 2, x0 = (width - w) / 2, y0 = (height - h) / 2;
    for (uint32_t y = y0; y < y0 + h; y++)
        memset((uint8_t *)out->pixels + (size_t)y * width + x0, 255, w);
    return ST_OK;
}
