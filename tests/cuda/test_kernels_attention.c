/* Attention: every number of channels that a lane may have to keep, both channel orders, numbers of
 * pixels that do not fill a block of keys. */
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/conformance.h"

static const struct attention_case {
    const char *name;
    uint32_t n, h, w, heads, ch, more;
    bool new_order;
    float loud; /* factor on the scores */
} cases[] = {
    { "one pixel", 1, 1, 1, 1, 8, 0, false, 1 },
    { "legacy order", 2, 8, 8, 4, 32, 0, false, 1 },
    { "new order", 2, 8, 8, 4, 32, 0, true, 1 },
    { "as in the network", 1, 8, 8, 2, 64, 0, false, 1 },
    { "odd sizes in slices", 2, 5, 7, 3, 20, 9, false, 1 },
    { "odd channels", 1, 6, 11, 2, 45, 1, true, 1 },
    { "wide heads", 1, 5, 5, 1, 100, 0, false, 1 },
    { "the widest head", 1, 6, 6, 1, 256, 0, false, 1 },
    { "sharp", 1, 9, 9, 1, 64, 0, false, 20 },
};

struct run {
    struct gpu_attention a;
};

static void run_attention(void *ctx, const struct tensor *y)
{
    struct gpu_attention a = ((const struct run *)ctx)->a;
    a.y = *y;
    EXPECT_LAUNCH(gpu_attention(&a, NULL));
}

static void one_case(const struct attention_case *t, enum dtype dt)
{
    const uint32_t c = t->heads * t->ch;
    struct tensor x = tensor_make(dt, t->n, t->h, t->w, 3 * c, 3 * c + t->more, 1);
    for (size_t i = 0; i < tensor_bytes(&x) / dtype_size(dt); i++) {
        float v = tensor_value(&x, i) * t->loud;
        dtype_from_f32((char *)x.data + i * dtype_size(dt), dt, &v, 1);
    }
    struct tensor y = tensor_make(dt, t->n, t->h, t->w, c, c + t->more, 2);
    struct tensor wx = tensor_wide(&x), wy = tensor_wide(&y), before = tensor_copy(&y);
    struct attention_desc d = {
        .h = t->h, .w = t->w, .heads = t->heads, .head_channels = t->ch, .new_order = t->new_order
    };
    d.dtype = DT_F32;
    d.qkv_ld = wx.ld;
    d.y_ld = wy.ld;
    struct attention_plan *p = NULL;
    EXPECT_OK(oracle->ops->net.attention_plan(oracle, &d, &p, &err));
    EXPECT_OK(oracle->ops->net.attention(oracle, p, &wx, &wy, &err));
    oracle->ops->net.attention_plan_free(oracle, p);

    struct run run = { { .qkv = x, .heads = t->heads, .new_order = t->new_order } };
    in_every_order(t->name, &y, run_attention, &run);
    expect_near(t->name, &y, &wy, tolerance_of(dt, 2e-6 * (double)t->loud));
    for (uint32_t n = 0; n < t->n; n++) {
        struct tensor from = tensor_row(&before, n), one = tensor_copy(&from),
                      same = tensor_row(&y, n);
        struct run alone = run;
        alone.a.qkv = tensor_row(&x, n);
        run_attention(&alone, &one);
        expect_same(t->name, one.data, same.data, tensor_bytes(&one));
        tensor_free(&one);
    }
    struct tensor *all[] = { &x, &y, &wx, &wy, &before };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
}

static void attention_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int d = 0; d < 3; d++)
            one_case(&cases[i], dtypes[d]);
}

static void heads_that_are_too_wide_are_refused(void **state)
{
    (void)state;
    struct tensor x = tensor_make(DT_F32, 1, 1, 1, 3 * 257, 3 * 257, 1),
                  y = tensor_make(DT_F32, 1, 1, 1, 257, 257, 2);
    struct gpu_attention a = { x, y, 1, false };
    assert_int_not_equal(gpu_attention(&a, NULL), 0);
    tensor_free(&x);
    tensor_free(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees),
        cmocka_unit_test(heads_that_are_too_wide_are_refused),
    };
    return RUN_TESTS("attention", tests);
}
