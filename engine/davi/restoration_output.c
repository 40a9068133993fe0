/* What is made of a restoration's accumulators: the image to return, the residual, the scale of the deviation. */
#include <math.h>
#include <string.h>

#include "engine/davi/restoration.h"

static const double acc_unit = 1.0 / (double)((int64_t)1 << (VALUE_BITS + 2 * BLEND_BITS));
static const double accumulator_unit = 1.0 / (double)(1 << FOLD_BITS);

/* Value i of the mean over samples; with one sample, that sample. */
static double mean_at(const struct restoration *r, size_t i)
{
    return r->sum ? (double)r->sum[i] * accumulator_unit / r->s.samples
                  : (double)r->slots[0].acc[i] * acc_unit;
}

__extension__ typedef __int128 wide;

/* Unbiased; the difference of the two large terms is taken in integers, where nothing cancels. */
static double std_at(const struct restoration *r, size_t i)
{
    const double n = r->s.samples;
    wide spread = (wide)r->sum2[i] * r->s.samples - (wide)r->sum[i] * r->sum[i];
    return sqrt((double)spread / (n * (n - 1))) * accumulator_unit;
}

static void put_level(void *pixels, uint32_t depth, size_t i, double v)
{
    const double half = depth == 16 ? 32767.5 : 127.5;
    double level = (v + 1) * half;
    level = level < 0 ? 0 : level > 2 * half ? 2 * half : level;
    if (depth == 16)
        ((uint16_t *)pixels)[i] = (uint16_t)lrint(level);
    else
        ((uint8_t *)pixels)[i] = (uint8_t)lrint(level);
}

void restoration_round(const struct restoration *r, const int64_t *acc, void *pixels)
{
    const size_t n = (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
    for (size_t i = 0; i < n; i++)
        put_level(pixels, r->shape.depth, i, (double)acc[i] * acc_unit);
}

/* ---- residual ---- */

struct residual {
    const struct restoration *r;
    float *observed; /* a row of it */
    double sum;
    uint64_t count;
};

static void restored_row(void *ctx, uint32_t y, float *row)
{
    const struct residual *s = ctx;
    const size_t n = (size_t)s->r->shape.out.w * s->r->shape.out.c;
    for (size_t i = 0; i < n; i++)
        row[i] = (float)mean_at(s->r, y * n + i);
}

static void compare_row(void *ctx, uint32_t y, const float *row)
{
    struct residual *s = ctx;
    const struct restoration *r = s->r;
    const uint32_t w = r->shape.in.w, channels = r->y_channels;
    restoration_observed(r, y, 0, w, s->observed);
    for (uint32_t x = 0; x < w; x++) {
        if (r->observed_mask && !r->observed_mask[(size_t)y * w + x]) continue;
        for (uint32_t c = 0; c < channels; c++) {
            double d =
                (double)row[(size_t)x * channels + c] - s->observed[(size_t)x * channels + c];
            s->sum += d * d;
            s->count++;
        }
    }
}

static double root_mean(double sum, double count)
{
    return count > 0 ? sqrt(sum / count) : 0;
}

static enum status find_residual(double *rms, const struct restoration *r)
{
    if (restoration_is_on_device(r)) {
        *rms = root_mean(image_pool_number(r, RESIDUAL_SUM), image_pool_number(r, RESIDUAL_COUNT));
        return ST_OK;
    }
    const size_t room = operator_scratch_floats(r->s.task->op, r->shape.out);
    const struct operation a = { .op = r->s.task->op,
                                 .level = r->s.level,
                                 .x = r->shape.out,
                                 .observed_mask = r->observed_mask };
    struct residual s = { .r = r, .observed = r->scratch + room };
    enum status status = operator_rows(&a, (struct row_source){ restored_row, &s },
                                       (struct row_sink){ compare_row, &s }, r->scratch, NULL);
    if (!status) *rms = root_mean(s.sum, (double)s.count);
    return status;
}

static double std_largest(const struct restoration *r)
{
    const size_t n = (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
    double largest = 0;
    if (restoration_is_on_device(r))
        largest = r->sum2 ? image_pool_number(r, STD_LARGEST) : 0;
    else
        for (size_t i = 0; r->sum2 && i < n; i++)
            largest = fmax(largest, std_at(r, i));
    return largest > 0 ? largest : 1;
}

const struct restoration_result *restoration_facts(struct restoration *r)
{
    pthread_mutex_lock(&r->lock);
    if (!r->has_result) {
        double rms = NAN;
        if (!r->failure) r->failure = find_residual(&rms, r);
        r->result = (struct restoration_result){ .width = r->shape.out.w,
                                                 .height = r->shape.out.h,
                                                 .h = r->s.h,
                                                 .sigma = r->s.sigma,
                                                 .level = r->s.level,
                                                 .residual_rms = rms,
                                                 .std_scale = r->failure ? NAN : std_largest(r) };
        r->has_result = true;
    }
    pthread_mutex_unlock(&r->lock);
    return &r->result;
}

/* ---- images ---- */

static uint32_t alpha_at(const struct image *img, uint32_t x, uint32_t y)
{
    size_t i = ((size_t)y * img->width + x + 1) * img->channels - 1;
    return img->depth == 16 ? ((const uint16_t *)img->pixels)[i]
                            : ((const uint8_t *)img->pixels)[i];
}

/* Alpha at a pixel of the restored image: as it was, or resized like the network's input. */
static uint32_t alpha_of(const struct restoration *r, uint32_t x, uint32_t y)
{
    const struct image *img = r->s.img;
    if (r->op->scale == 1) return alpha_at(img, x, y);
    uint32_t xs[2], ys[2];
    float wx, wy;
    resize_at(r->op->scale, x, img->width, &xs[0], &xs[1], &wx);
    resize_at(r->op->scale, y, img->height, &ys[0], &ys[1], &wy);
    double top =
        (1 - (double)wx) * alpha_at(img, xs[0], ys[0]) + (double)wx * alpha_at(img, xs[1], ys[0]);
    double bottom =
        (1 - (double)wx) * alpha_at(img, xs[0], ys[1]) + (double)wx * alpha_at(img, xs[1], ys[1]);
    return (uint32_t)lrint((1 - (double)wy) * top + (double)wy * bottom);
}

/* Copies one sample of `depth` bits. */
static void copy_level(void *to, size_t i, const void *from, size_t j, uint32_t depth)
{
    if (depth == 16)
        ((uint16_t *)to)[i] = ((const uint16_t *)from)[j];
    else
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[j];
}

/* prepared: the pixels without alpha; NULL: they are made of the accumulators. */
static void fill_image(const struct restoration *r, const void *prepared, struct image *img)
{
    const uint32_t w = r->shape.out.w, colors = r->shape.out.c;
    if (prepared && img->channels == colors) {
        memcpy(img->pixels, prepared, image_bytes(img));
        return;
    }
    for (uint32_t y = 0; y < r->shape.out.h; y++)
        for (uint32_t x = 0; x < w; x++) {
            size_t p = (size_t)y * w + x;
            for (uint32_t c = 0; c < colors; c++) {
                size_t to = p * img->channels + c;
                if (prepared)
                    copy_level(img->pixels, to, prepared, p * colors + c, img->depth);
                else
                    put_level(img->pixels, img->depth, to, mean_at(r, p * colors + c));
            }
            if (img->channels == colors) continue;
            uint32_t alpha = alpha_of(r, x, y);
            if (img->depth == 16)
                ((uint16_t *)img->pixels)[p * img->channels + colors] = (uint16_t)alpha;
            else
                ((uint8_t *)img->pixels)[p * img->channels + colors] = (uint8_t)alpha;
        }
}

static void fill_std(const struct restoration *r, double scale, struct image *img)
{
    const size_t n = (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
    if (restoration_is_on_device(r)) {
        memcpy(img->pixels, image_pool_std(r), n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)img->pixels)[i] = (uint8_t)lrint(fmin(255, 255 * std_at(r, i) / scale));
}

static bool offers(const struct restoration *r, enum output_kind kind, uint32_t sample)
{
    switch (kind) {
    case OUTPUT_IMAGE: return sample < r->s.samples && (!r->sum || r->images);
    case OUTPUT_MEAN: return true;
    case OUTPUT_STD: return r->sum2 != NULL;
    default: return false;
    }
}

/* Pixels that are there already: of a kept sample, or of the mean (the only sample). */
static const void *prepared_image(const struct restoration *r, bool is_kept, uint32_t sample)
{
    const size_t bytes =
        (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c * (r->shape.depth / 8);
    if (restoration_is_on_device(r))
        return is_kept ? image_pool_sample(r, sample) : image_pool_mean(r);
    return is_kept ? r->images + sample * bytes : NULL;
}

enum status restoration_image(struct restoration *r, enum output_kind kind, uint32_t sample,
                              struct image *out, struct error *err)
{
    if (r->failure) return error_set(err, r->failure, "a part of the image could not be restored");
    if (!restoration_is_done(r))
        return error_set(err, ST_INTERNAL, "the restoration has rows that are not back yet");
    if (!offers(r, kind, sample))
        return error_set(err, ST_BAD_PARAMETER,
                         "this restoration of %u samples has no such output (sample %u)",
                         r->s.samples, sample);
    const bool is_std = kind == OUTPUT_STD;
    struct image img = { 0 };
    enum status s = image_init(&img, r->shape.out.w, r->shape.out.h,
                               r->shape.out.c + (r->shape.has_alpha && !is_std ? 1 : 0),
                               is_std ? 8 : r->shape.depth, err);
    if (s) return s;
    if (is_std)
        fill_std(r, restoration_facts(r)->std_scale, &img);
    else
        fill_image(r, prepared_image(r, kind == OUTPUT_IMAGE && r->images, sample), &img);
    *out = img;
    return ST_OK;
}
