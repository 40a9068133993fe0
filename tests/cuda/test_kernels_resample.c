/* Resampling, cells of pixels, copies, concatenation: exact in F32, one rounding otherwise; every
 * pair of dtypes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/conformance.h"

static const struct shape {
    const char *name;
    uint32_t n, h, w, c; /* of the smaller image */
    uint32_t x_more, y_more;
} shapes[] = {
    { "one pixel", 1, 1, 1, 8, 0, 0 },
    { "vectors", 2, 6, 10, 32, 0, 0 },
    { "slices", 2, 5, 7, 64, 64, 8 },
    { "odd channels", 3, 3, 5, 45, 1, 2 },
    { "a slice that no vector fits", 1, 4, 6, 16, 3, 0 },
    { "three channels", 1, 16, 24, 3, 0, 0 },
};

struct resampling {
    struct tensor x;
    bool up;
};

static void run_resample(void *ctx, const struct tensor *y)
{
    const struct resampling *r = ctx;
    EXPECT_LAUNCH(r->up ? gpu_upsample(&r->x, y, NULL) : gpu_downsample(&r->x, y, NULL));
}

static void resampled(const struct shape *t, enum dtype dt, bool up)
{
    const uint32_t h = t->h, w = t->w, xs = up ? 1 : 2, ys = up ? 2 : 1;
    struct resampling r = { tensor_make(dt, t->n, xs * h, xs * w, t->c, t->c + t->x_more, 1), up };
    struct tensor y = tensor_make(dt, t->n, ys * h, ys * w, t->c, t->c + t->y_more, 2);
    struct tensor wx = tensor_wide(&r.x), wy = tensor_wide(&y);
    EXPECT_OK(up ? oracle->ops->net.upsample(oracle, &wx, &wy, &err)
                 : oracle->ops->net.downsample(oracle, &wx, &wy, &err));
    in_every_order(t->name, &y, run_resample, &r);
    expect_near(t->name, &y, &wy, up ? 0 : tolerance_of(dt, 0));
    struct tensor *all[] = { &r.x, &y, &wx, &wy };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
}

static void images_are_resampled(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int d = 0; d < 3; d++) {
            resampled(&shapes[i], dtypes[d], true);
            resampled(&shapes[i], dtypes[d], false);
        }
}

/* ---- cells of pixels ---- */

static const struct cell_case {
    const char *name;
    uint32_t n, h, w, c, patch; /* of the cells; c: of a pixel */
    uint32_t pixel_more, cell_more;
} cells[] = {
    { "one cell", 1, 1, 1, 3, 2, 0, 0 },
    { "an image", 2, 5, 7, 3, 2, 0, 0 },
    { "an image and noise", 3, 4, 9, 6, 2, 0, 0 },
    { "cells of four", 2, 3, 5, 3, 4, 0, 0 },
    { "cells of four, six channels", 2, 3, 5, 6, 4, 0, 0 },
    { "pixels apart", 2, 4, 6, 3, 2, 5, 0 },
    { "cells apart", 2, 4, 6, 3, 4, 0, 3 },
    { "both apart, odd", 3, 3, 5, 5, 2, 2, 1 },
    { "one channel, cells of three", 2, 4, 3, 1, 3, 0, 0 },
    { "whole vectors", 2, 4, 6, 8, 2, 8, 16 },
    { "more than a block", 2, 17, 33, 3, 2, 0, 0 },
};

struct permuting {
    struct tensor x;
    bool to_cells;
};

static void run_permute(void *ctx, const struct tensor *y)
{
    const struct permuting *r = ctx;
    EXPECT_LAUNCH(r->to_cells ? gpu_space_to_depth(&r->x, y, NULL)
                              : gpu_depth_to_space(&r->x, y, NULL));
}

static void permuted(const struct cell_case *t, enum dtype dt, bool to_cells)
{
    const uint32_t p = t->patch;
    const struct tensor pixels = tensor_make(dt, t->n, p * t->h, p * t->w, t->c,
                                             t->c + t->pixel_more, 1),
                        whole = tensor_make(dt, t->n, t->h, t->w, p * p * t->c,
                                            p * p * t->c + t->cell_more, 2);
    struct permuting r = { to_cells ? pixels : whole, to_cells };
    struct tensor y = to_cells ? whole : pixels;
    /* Bits that arithmetic would not preserve: a NaN's. */
    memset(r.x.data, 0xff, dtype_size(dt));
    struct tensor wx = tensor_wide(&r.x), wy = tensor_wide(&y);
    ((float *)wx.data)[0] = 77;
    EXPECT_OK(to_cells ? oracle->ops->net.space_to_depth(oracle, &wx, &wy, &err)
                       : oracle->ops->net.depth_to_space(oracle, &wx, &wy, &err));
    in_every_order(t->name, &y, run_permute, &r);
    expect_same(t->name, y.data, r.x.data, dtype_size(dt)); /* the first number keeps its place */
    const float first = 77;
    dtype_from_f32(y.data, dt, &first, 1);
    expect_near(t->name, &y, &wy, 0);
    struct tensor *all[] = { &r.x, &y, &wx, &wy };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
}

static void pixels_become_cells_and_cells_pixels(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        for (int d = 0; d < 3; d++) {
            permuted(&cells[i], dtypes[d], true);
            permuted(&cells[i], dtypes[d], false);
        }
}

/* ---- copies ---- */

static const struct copy_case {
    const char *name;
    uint32_t n, h, w, c, first, zeros;
    uint32_t x_more, y_more;
    bool add, by_condition, one_for_all, in_place;
} copies[] = {
    { "the same", 2, 5, 7, 32, 0, 0, 0, 0, false, false, false, false },
    { "second half of a concat", 2, 4, 6, 64, 96, 0, 0, 0, false, false, false, false },
    { "where no vector stands", 2, 4, 6, 16, 3, 0, 0, 5, false, false, false, false },
    { "three channels to eight", 2, 9, 8, 3, 0, 5, 0, 0, false, false, false, false },
    { "zeros in between", 1, 3, 5, 6, 2, 3, 1, 4, false, false, false, false },
    { "plus an embedding", 3, 5, 4, 32, 0, 0, 8, 0, true, false, false, false },
    { "plus a set's constants", 3, 5, 4, 24, 0, 0, 0, 8, true, true, false, false },
    { "plus one for all, odd", 2, 4, 3, 13, 0, 0, 0, 0, true, false, true, false },
    { "plus an embedding, in place", 2, 4, 4, 40, 0, 0, 0, 0, true, false, false, true },
};

struct copying {
    struct gpu_copy a;
    bool in_place;
};

static void run_copy(void *ctx, const struct tensor *y)
{
    const struct copying *r = ctx;
    struct gpu_copy a = r->a;
    a.y = *y;
    if (r->in_place) a.x = *y;
    EXPECT_LAUNCH(gpu_copy(&a, NULL));
}

/* The expected values, element by element: exact, so no oracle is needed. */
static float wanted(const struct copy_case *t, const struct copying *r, const struct tensor *before,
                    size_t pixel, size_t at, uint32_t n)
{
    if (at < t->first || at >= t->first + t->c + t->zeros)
        return tensor_value(before, pixel * before->ld + at);
    const size_t k = at - t->first;
    if (k >= t->c) return 0;
    float v = tensor_value(&r->a.x, pixel * r->a.x.ld + k);
    return t->add ? v + r->a.add[(t->by_condition ? r->a.condition[n] : n) * r->a.add_ld + k] : v;
}

static void copied(const struct copy_case *t, enum dtype from, enum dtype to)
{
    static const uint32_t set_of[3] = { 1, 0, 1 };
    const uint32_t width = t->first + t->c + t->zeros;
    struct copying r = { .in_place = t->in_place };
    r.a.x = tensor_make(from, t->n, t->h, t->w, t->c, t->c + t->x_more, 1);
    r.a.first = t->first;
    r.a.zeros = t->zeros;
    float *add = floats((size_t)3 * t->c, 3, 1, 0);
    uint32_t *condition = words(set_of, t->n);
    r.a.add = t->add ? add : NULL;
    r.a.add_ld = t->one_for_all ? 0 : t->c;
    r.a.condition = t->by_condition ? condition : NULL;
    struct tensor y = t->in_place ? tensor_copy(&r.a.x)
                                  : tensor_make(to, t->n, t->h, t->w, width, width + t->y_more, 2);
    struct tensor before = tensor_copy(&y);
    in_every_order(t->name, &y, run_copy, &r);
    for (size_t p = 0; p < (size_t)t->n * t->h * t->w; p++)
        for (size_t c = 0; c < y.ld; c++) {
            float want = wanted(t, &r, &before, p, c, (uint32_t)(p / ((size_t)t->h * t->w)));
            uint8_t bytes[4];
            dtype_from_f32(bytes, to, &want, 1);
            expect_same(t->name, (char *)y.data + (p * y.ld + c) * dtype_size(to), bytes,
                        dtype_size(to));
        }
    free(add);
    free(condition);
    tensor_free(&y);
    tensor_free(&before);
    tensor_free(&r.a.x);
}

static void copies_convert_join_pad_and_add(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        for (int from = 0; from < 3; from++)
            for (int to = 0; to < 3; to++)
                if (!copies[i].in_place || from == to) copied(&copies[i], dtypes[from], dtypes[to]);
}

static void conversions_keep_what_is_no_number(void **state)
{
    (void)state;
    for (int vector = 0; vector < 2; vector++)
        for (int d = 0; d < 3; d++) {
            const uint32_t c = vector ? 8 : 7;
            struct tensor x = tensor_make(DT_F32, 1, 1, 1, c, c, 1),
                          y = tensor_make(dtypes[d], 1, 1, 1, c, c, 2);
            const float odd[7] = { NAN, INFINITY, -INFINITY, 1e30f, -0.0f, 1e-30f, 1.00390625f };
            memcpy(x.data, odd, sizeof odd);
            EXPECT_LAUNCH(gpu_copy(&(struct gpu_copy){ .x = x, .y = y }, NULL));
            for (size_t i = 0; i < 7; i++) {
                uint8_t bytes[4];
                dtype_from_f32(bytes, dtypes[d], &odd[i], 1);
                float want;
                dtype_to_f32(&want, bytes, dtypes[d], 1);
                float got = tensor_value(&y, i);
                assert_true(isnan(want) ? isnan(got) : got == want);
            }
            tensor_free(&x);
            tensor_free(&y);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_are_resampled),
        cmocka_unit_test(pixels_become_cells_and_cells_pixels),
        cmocka_unit_test(copies_convert_join_pad_and_add),
        cmocka_unit_test(conversions_keep_what_is_no_number),
    };
    return RUN_TESTS("images", tests);
}
