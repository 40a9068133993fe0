/* Our own convolutions: three channels in, three out, and any other, in and out of every dtype. */
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/conformance.h"

enum { MAX_ROWS = 3 };

static const struct conv_case {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel, stride, conditions;
    uint32_t x_more, y_more, r_more;
    bool residual, in_place, f32_in, f32_out;
} cases[] = {
    { "three in, as in the network", 2, 17, 70, 3, 128, 3, 1, 2, 0, 0, 0, false, false, true,
      false },
    { "three in, of a padded image", 1, 9, 65, 3, 64, 3, 1, 1, 5, 8, 0, false, false, false,
      false },
    { "four in, two tiles of channels", 1, 8, 64, 4, 136, 3, 1, 1, 0, 0, 0, false, false, false,
      false },
    { "one in, one pixel", 1, 1, 1, 1, 16, 3, 1, 1, 0, 0, 0, false, false, true, false },
    { "three out, as in the network", 2, 35, 33, 64, 3, 3, 1, 2, 0, 0, 0, false, false, false,
      true },
    { "three out, to the same dtype", 1, 16, 32, 32, 3, 3, 1, 1, 16, 5, 0, false, false, false,
      false },
    { "one out, one pixel", 1, 1, 1, 16, 1, 3, 1, 1, 0, 0, 0, false, false, false, true },
    { "two out, a line", 3, 1, 40, 16, 2, 3, 1, 3, 0, 0, 0, false, false, false, true },
    { "six out", 1, 9, 11, 16, 6, 3, 1, 1, 0, 0, 0, false, false, false, true },
    { "odd everything", 2, 7, 5, 13, 21, 3, 1, 2, 1, 2, 0, false, false, false, false },
    { "1x1, residual in place", 2, 6, 6, 24, 32, 1, 1, 1, 0, 0, 0, true, true, false, false },
    { "1x1, residual", 1, 5, 7, 9, 12, 1, 1, 1, 0, 1, 3, true, false, false, false },
    { "stride 2, even", 1, 12, 8, 8, 8, 3, 2, 1, 0, 0, 0, false, false, false, false },
    { "stride 2, odd, residual", 2, 9, 7, 6, 10, 3, 2, 2, 2, 2, 2, true, false, false, false },
};

struct run {
    struct gpu_conv a;
    bool in_place;
};

static void run_conv(void *ctx, const struct tensor *y)
{
    const struct run *r = ctx;
    struct gpu_conv a = r->a;
    a.y = *y;
    if (r->in_place) a.residual = *y;
    EXPECT_LAUNCH(gpu_conv(&a, NULL));
}

/* Reorders [oc][ic][k][k] to [k][k][ic][oc]. */
static float *turned(const float *weight, const struct conv_case *t)
{
    const size_t taps = (size_t)t->kernel * t->kernel;
    float *to = memory(taps * t->ic * t->oc * sizeof *to);
    for (size_t o = 0; o < t->oc; o++)
        for (size_t c = 0; c < t->ic; c++)
            for (size_t k = 0; k < taps; k++)
                to[(k * t->ic + c) * t->oc + o] = weight[(o * t->ic + c) * taps + k];
    return to;
}

static void one_case(const struct conv_case *t, enum dtype dt)
{
    static const uint32_t set_of[MAX_ROWS] = { 1, 0, 2 };
    const uint32_t oh = (t->h + t->stride - 1) / t->stride, ow = (t->w + t->stride - 1) / t->stride;
    const enum dtype in = t->f32_in ? DT_F32 : dt, out = t->f32_out ? DT_F32 : dt;
    float *weight = floats((size_t)t->oc * t->ic * t->kernel * t->kernel, 1, 0.2f, 0),
          *swapped = turned(weight, t);
    float *bias = floats((size_t)t->conditions * t->oc, 2, 1, 0);
    uint32_t *condition = words(set_of, t->n);
    for (uint32_t n = 0; n < t->n; n++)
        condition[n] %= t->conditions;
    struct tensor x = tensor_make(in, t->n, t->h, t->w, t->ic, t->ic + t->x_more, 3);
    struct tensor y = tensor_make(out, t->n, oh, ow, t->oc, t->oc + t->y_more, 4);
    struct tensor r =
        t->in_place ? tensor_copy(&y) : tensor_make(out, t->n, oh, ow, t->oc, t->oc + t->r_more, 5);
    struct tensor wx = tensor_wide(&x), wy = tensor_wide(&y), wr = tensor_wide(&r),
                  before = tensor_copy(&y);

    struct conv_desc d = {
        .h = t->h, .w = t->w, .ic = t->ic, .oc = t->oc, .kernel = t->kernel, .stride = t->stride
    };
    d.conditions = t->conditions;
    d.dtype = DT_F32;
    d.x_ld = wx.ld;
    d.y_ld = wy.ld;
    d.r_ld = t->residual ? wr.ld : 0;
    struct conv_plan *p = NULL;
    EXPECT_OK(oracle->ops->net.conv_plan(oracle, &d, weight, bias, &p, &err));
    EXPECT_OK(
        oracle->ops->net.conv(oracle, p, &wx, t->residual ? &wr : NULL, &wy, condition, &err));
    oracle->ops->net.conv_plan_free(oracle, p);

    struct run run = { { .x = x,
                         .kernel = t->kernel,
                         .stride = t->stride,
                         .weight = swapped,
                         .bias = bias,
                         .condition = condition },
                       t->in_place };
    run.a.has_residual = t->residual;
    run.a.residual = r;
    in_every_order(t->name, &y, run_conv, &run);
    expect_near(t->name, &y, &wy, tolerance_of(out, 2e-6));
    for (uint32_t n = 0; n < t->n; n++) {
        struct tensor from = tensor_row(&before, n), one = tensor_copy(&from),
                      same = tensor_row(&y, n);
        struct run alone = run;
        alone.a.x = tensor_row(&x, n);
        alone.a.residual = tensor_row(&r, n);
        alone.a.condition = condition + n;
        run_conv(&alone, &one);
        expect_same(t->name, one.data, same.data, tensor_bytes(&one));
        tensor_free(&one);
    }
    struct tensor *all[] = { &x, &y, &r, &wx, &wy, &wr, &before };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
    free(weight);
    free(swapped);
    free(bias);
    free(condition);
}

static void convolutions_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int d = 0; d < 3; d++)
            one_case(&cases[i], dtypes[d]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(convolutions_agree) };
    return RUN_TESTS("convolutions", tests);
}
