/* Group norm: its three algorithms, over group widths that fill a vector, share one, straddle two,
 * and fill none; with and without resampling. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/conformance.h"

enum { MAX_ROWS = 3, CONDITIONS = 2 };

static const struct norm_case {
    const char *name;
    uint32_t n, h, w, c, groups;
    uint32_t x_more, y_more; /* ld minus the channels */
    bool silu, scale_shift, in_place;
    float mean;
} cases[] = {
    { "one pixel", 1, 1, 1, 32, 32, 0, 0, true, false, false, 0 },
    { "a channel a group", 2, 5, 7, 32, 32, 0, 0, true, true, false, 0 },
    { "two channels a group", 2, 8, 8, 64, 32, 0, 8, true, false, false, 0 },
    { "four channels a group", 2, 12, 9, 128, 32, 8, 0, true, true, false, 0 },
    { "a group wider than a vector", 1, 8, 8, 512, 32, 0, 0, false, true, false, 0 },
    { "groups that straddle vectors", 2, 7, 9, 384, 32, 0, 0, true, true, false, 0 },
    { "more groups than that", 1, 6, 6, 96, 8, 16, 0, true, false, false, 0 },
    { "groups that straddle vectors, even sides", 2, 6, 10, 384, 32, 0, 8, true, true, false, 0 },
    { "odd channels", 3, 9, 11, 42, 7, 6, 1, true, true, false, 0 },
    { "odd channels, even sides", 2, 6, 10, 42, 7, 6, 1, true, true, false, 0 },
    { "in place, whole", 2, 16, 16, 64, 32, 0, 0, true, true, true, 0 },
    { "a slice of a concat", 2, 8, 8, 64, 32, 64, 64, true, false, false, 0 },
    { "a slice that no vector fits", 1, 8, 8, 64, 32, 3, 0, true, false, false, 0 },
    { "a mean far from zero, whole", 1, 24, 24, 96, 32, 0, 0, false, false, false, 300 },
    { "48 KiB a block", 1, 32, 32, 48, 2, 0, 0, true, true, false, 0 },
    { "nearly 88 KiB a block", 1, 55, 51, 32, 2, 0, 0, true, false, true, 0 },
    { "two kernels", 2, 80, 72, 16, 2, 0, 8, true, true, false, 0 },
    { "two kernels, as in the network", 1, 80, 71, 128, 32, 0, 0, true, true, false, 0 },
    { "two kernels, a step of four", 2, 66, 70, 128, 32, 8, 16, true, true, false, 0 },
    { "two kernels, in place", 1, 96, 72, 32, 4, 0, 0, true, false, true, 0 },
    { "two kernels, straddling", 1, 80, 72, 96, 8, 0, 0, true, false, false, 0 },
    { "a mean far from zero, two kernels", 1, 80, 71, 32, 8, 0, 0, false, false, false, 300 },
    { "a mean far from zero, odd", 1, 24, 24, 45, 5, 0, 0, false, false, false, 300 },
};

struct norm_run {
    struct gpu_norm a;
    bool in_place;
    size_t scratch_floats;
};

static void run_norm(void *ctx, const struct tensor *y)
{
    const struct norm_run *r = ctx;
    struct gpu_norm a = r->a;
    a.y = *y;
    if (r->in_place) a.x = *y;
    a.scratch = r->scratch_floats ? floats(r->scratch_floats, 99, 1, 0) : NULL;
    EXPECT_LAUNCH(gpu_group_norm(&a, NULL));
    free(a.scratch);
}

static void expect_moments(const char *name, const struct tensor *x, const float *mean_rstd,
                           uint32_t groups)
{
    const uint32_t width = x->c / groups;
    for (uint32_t n = 0; n < x->n; n++)
        for (uint32_t g = 0; g < groups; g++) {
            double mean = 0, square = 0, count = (double)x->h * x->w * width;
            for (size_t p = 0; p < (size_t)x->h * x->w; p++)
                for (uint32_t c = 0; c < width; c++)
                    mean += (double)tensor_value(x, ((size_t)n * x->h * x->w + p) * x->ld +
                                                        g * width + c) /
                            count;
            for (size_t p = 0; p < (size_t)x->h * x->w; p++)
                for (uint32_t c = 0; c < width; c++) {
                    double v = (double)tensor_value(x, ((size_t)n * x->h * x->w + p) * x->ld +
                                                           g * width + c);
                    square += (v - mean) * (v - mean) / count;
                }
            const float *got = mean_rstd + 2 * ((size_t)n * groups + g);
            double rstd = 1 / sqrt(square + 1e-5);
            if (!(fabs((double)got[0] - mean) <= 1e-6 + 2e-7 * fabs(mean)))
                fail_msg("%s: mean of row %u, group %u is %.9g, not %.9g", name, n, g,
                         (double)got[0], mean);
            if (!(fabs((double)got[1] - rstd) <= 2e-6 * rstd))
                fail_msg("%s: rstd of row %u, group %u is %.9g, not %.9g", name, n, g,
                         (double)got[1], rstd);
        }
}

/* `r` again with resampling, of x as well: the bytes of the two kernels one after the other, and
 * the moments of the norm. y, moments: of `r`. */
static void expect_resampled(const struct norm_case *t, struct norm_run r, enum resample how,
                             const struct tensor *y, const float *moments)
{
    const struct tensor *x = &r.a.x;
    const bool is_up = how == RESAMPLE_UP;
    if (!is_up && (x->h % 2 || x->w % 2)) return;
    const uint32_t h = is_up ? 2 * x->h : x->h / 2, w = is_up ? 2 * x->w : x->w / 2;
    const size_t count = (size_t)x->n * t->groups * 2;
    struct tensor want = tensor_make(x->dtype, x->n, h, w, x->c, x->c + t->y_more, 8);
    struct tensor got[2] = { tensor_copy(&want), tensor_copy(&want) };
    struct tensor want_x = tensor_copy(&want), too = tensor_copy(&want);
    EXPECT_LAUNCH(is_up ? gpu_upsample(y, &want, NULL) : gpu_downsample(y, &want, NULL));
    EXPECT_LAUNCH(is_up ? gpu_upsample(x, &want_x, NULL) : gpu_downsample(x, &want_x, NULL));
    r.in_place = false;
    r.a.resample = how;
    r.a.mean_rstd = floats(count, 7, 1, 0);
    for (int i = 0; i < 2; i++) { /* the order of threads was tested before */
        emu_set_order(orders[ORDERS - 1 - i]);
        if (i == 1) r.a.x_too = too;
        run_norm(&r, &got[i]);
        expect_same(t->name, got[i].data, want.data, tensor_bytes(&want));
        expect_same(t->name, r.a.mean_rstd, moments, count * sizeof *moments);
        tensor_free(&got[i]);
    }
    expect_same(t->name, too.data, want_x.data, tensor_bytes(&too));
    tensor_free(&too);
    tensor_free(&want_x);
    free(r.a.mean_rstd);
    tensor_free(&want);
}

static void one_case(const struct norm_case *t, enum dtype dt)
{
    static const uint32_t set_of[MAX_ROWS] = { 1, 0, 1 };
    struct tensor x = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->x_more, 4);
    for (size_t i = 0; t->mean != 0 && i < tensor_bytes(&x) / sizeof(float); i++)
        ((float *)x.data)[i] += t->mean;
    struct tensor y = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->y_more, 5);
    float *gamma = floats((size_t)CONDITIONS * t->c, 1, 1, 0),
          *beta = floats((size_t)CONDITIONS * t->c, 2, 1, 0);
    float *ss = floats((size_t)t->n * 2 * t->c, 3, 1, 0);
    uint32_t *condition = words(set_of, t->n);
    float *moments = floats((size_t)t->n * t->groups * 2, 6, 1, 0);

    struct norm_run r = { .in_place = t->in_place };
    r.a = (struct gpu_norm){ .x = x, .y = y, .groups = t->groups, .eps = 1e-5f };
    r.a.gamma = gamma;
    r.a.beta = beta;
    r.a.condition = condition;
    r.a.scale_shift = t->scale_shift ? ss : NULL;
    r.a.scale_shift_ld = 2 * (size_t)t->c;
    r.a.silu = t->silu;
    r.a.mean_rstd = moments;
    r.scratch_floats = gpu_norm_scratch(&x, t->groups);

    struct tensor wx = tensor_wide(&x), wy = tensor_wide(&y);
    struct tensor wide_ss = { ss, DT_F32, t->n, 1, 1, 2 * t->c, 2 * (size_t)t->c };
    struct group_norm_args want = { .x = wx, .y = wy, .groups = t->groups, .eps = 1e-5f };
    want.gamma = gamma;
    want.beta = beta;
    want.condition = condition;
    want.scale_shift = t->scale_shift ? &wide_ss : NULL;
    want.silu = t->silu;
    EXPECT_OK(oracle->ops->net.group_norm(oracle, &want, &err));

    struct tensor got = t->in_place ? tensor_copy(&x) : tensor_copy(&y);
    in_every_order(t->name, &got, run_norm, &r);
    expect_near(t->name, &got, &wy, tolerance_of(dt, 2e-6));
    expect_moments(t->name, &x, moments, t->groups);
    expect_resampled(t, r, RESAMPLE_UP, &got, moments);
    expect_resampled(t, r, RESAMPLE_DOWN, &got, moments);

    for (uint32_t n = 0; n < t->n; n++) { /* a row has the same bytes alone as in a batch */
        struct tensor rx = tensor_row(&x, n), one = tensor_row(t->in_place ? &x : &y, n),
                      same = tensor_row(&got, n);
        struct tensor ry = tensor_copy(&one);
        struct norm_run alone = r;
        alone.a.x = rx;
        alone.a.condition = condition + n;
        alone.a.scale_shift = t->scale_shift ? ss + (size_t)n * 2 * t->c : NULL;
        alone.a.mean_rstd = NULL;
        alone.scratch_floats = gpu_norm_scratch(&rx, t->groups);
        run_norm(&alone, &ry);
        expect_same(t->name, ry.data, same.data, tensor_bytes(&ry));
        tensor_free(&ry);
    }
    struct tensor *all[] = { &x, &y, &wx, &wy, &got };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
    free(gamma);
    free(beta);
    free(ss);
    free(condition);
    free(moments);
}

static void group_norms_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int d = 0; d < 3; d++)
            if (dtypes[d] == DT_F32 || cases[i].mean == 0) one_case(&cases[i], dtypes[d]);
}

static void what_is_not_finite_does_not_vanish(void **state)
{
    (void)state;
    static const struct {
        uint32_t h, w, c, groups;
    } shapes[] = { { 8, 8, 64, 32 }, { 96, 80, 128, 32 }, { 5, 5, 42, 7 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct tensor x =
            tensor_make(DT_F32, 1, shapes[i].h, shapes[i].w, shapes[i].c, shapes[i].c, 1);
        struct tensor y = tensor_copy(&x);
        float *gamma = floats(shapes[i].c, 1, 0, 1), *beta = floats(shapes[i].c, 2, 0, 0);
        const uint32_t width = shapes[i].c / shapes[i].groups;
        ((float *)x.data)[7 * x.ld + 2 * width] = NAN;
        size_t scratch = gpu_norm_scratch(&x, shapes[i].groups);
        struct gpu_norm a = {
            .x = x, .y = y, .groups = shapes[i].groups, .eps = 1e-5f, .gamma = gamma, .beta = beta
        };
        a.scratch = scratch ? floats(scratch, 1, 1, 0) : NULL;
        EXPECT_LAUNCH(gpu_group_norm(&a, NULL));
        for (size_t c = 0; c < x.c; c++)
            assert_true(isnan(((float *)y.data)[3 * x.ld + c]) == (c / width == 2));
        free(a.scratch);
        free(gamma);
        free(beta);
        tensor_free(&x);
        tensor_free(&y);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_norms_agree),
        cmocka_unit_test(what_is_not_finite_does_not_vanish),
    };
    return RUN_TESTS("group norm", tests);
}
