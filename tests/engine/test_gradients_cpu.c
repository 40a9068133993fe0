/* Gradients of the CPU back end against those in double: every op, over shapes that reach each path (kernels, strides, tails of
 * vectors and of blocks, slices of wider tensors, results that are added), for 1, 2 and 3 threads, in F32 and BF16.
 * DAVID_CPU_ISA picks the instruction set; one that the machine lacks is skipped (77). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/engine/two_back_ends.h"

/* ---- convolution ---- */

static const struct conv_case {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel, stride;
    uint32_t more; /* ld beyond the channels, of all four images */
    bool add, residual;
} convs[] = {
    { "1x1, one pixel", 1, 1, 1, 1, 1, 1, 1, 0, false, false },
    { "1x1", 2, 5, 3, 37, 19, 1, 1, 3, true, false },
    { "1x1, many channels", 3, 8, 8, 70, 140, 1, 1, 0, false, true },
    { "1x1, several bands", 2, 40, 55, 37, 35, 1, 1, 0, false, false },
    { "1x1, stride 2", 1, 5, 6, 4, 9, 1, 2, 0, true, false },
    { "3x3, one pixel", 2, 1, 1, 5, 7, 3, 1, 0, false, false },
    { "3x3, three channels in", 2, 33, 18, 3, 32, 3, 1, 0, false, false },
    { "3x3, six channels out", 2, 20, 34, 32, 6, 3, 1, 2, false, false },
    { "3x3, slices", 3, 9, 8, 36, 68, 3, 1, 12, true, true },
    { "3x3, many pixels", 1, 70, 40, 16, 33, 3, 1, 0, false, false },
    { "3x3, many pixels, slices", 3, 19, 30, 21, 40, 3, 1, 5, true, true },
    { "3x3, stride 2, even", 2, 16, 12, 32, 20, 3, 2, 0, false, false },
    { "3x3, stride 2, odd", 1, 15, 13, 6, 40, 3, 2, 5, true, true },
    { "4x4, stride 2, even", 2, 16, 14, 3, 24, 4, 2, 0, false, false },
    { "4x4, stride 2, odd", 2, 9, 17, 20, 34, 4, 2, 4, true, false },
    { "4x4, one channel out", 2, 5, 6, 64, 1, 4, 1, 0, false, false },
    { "4x4", 1, 5, 4, 33, 48, 4, 1, 1, true, true },
    { "4x4, many pixels", 3, 21, 26, 40, 70, 4, 1, 0, false, false },
    { "4x4, one pixel", 1, 1, 1, 2, 3, 4, 2, 0, false, false },
};

struct conv_result {
    struct tensor y, dx;
    float *dweight, *dbias;
};

static struct conv_result run_conv(struct backend *b, enum dtype t, const struct conv_case *c)
{
    const struct gradient_ops *ops = b->ops->gradients;
    uint32_t border = 2 * (c->kernel / 2), oh = (c->h + border - c->kernel) / c->stride + 1;
    uint32_t ow = (c->w + border - c->kernel) / c->stride + 1;
    struct trained_conv_desc d = { .h = c->h,
                                   .w = c->w,
                                   .ic = c->ic,
                                   .oc = c->oc,
                                   .kernel = c->kernel,
                                   .stride = c->stride,
                                   .dtype = t,
                                   .x_ld = c->ic + c->more,
                                   .y_ld = c->oc + c->more,
                                   .r_ld = c->residual ? c->oc + c->more : 0,
                                   .dy_ld = c->oc + c->more,
                                   .dx_ld = c->ic + c->more,
                                   .dx_add = c->add };
    uint32_t in[4] = { c->n, c->h, c->w, c->ic }, out[4] = { c->n, oh, ow, c->oc };
    size_t weights = (size_t)c->oc * c->ic * c->kernel * c->kernel;
    float *weight = floats(weights, 1), *bias = floats(c->oc, 2);
    struct tensor x = image(t, in, c->more, 3), dy = image(t, out, c->more, 4);
    struct tensor r = image(t, out, c->more, 5);
    struct conv_result k = { image(t, out, c->more, 6), image(t, in, c->more, 7),
                             floats(weights, 8), floats(c->oc, 9) };
    struct trained_conv *conv = NULL;
    EXPECT_OK(ops->conv_new(b, &d, &conv, &err));
    EXPECT_OK(ops->conv_pack(b, conv, k.dweight, bias,
                             &err)); /* replaced by the next: what counts is the last */
    EXPECT_OK(ops->conv_pack(b, conv, weight, bias, &err));
    EXPECT_OK(ops->conv(b, conv, &x, c->residual ? &r : NULL, &k.y, &err));
    EXPECT_OK(ops->conv_data(b, conv, &dy, &k.dx, &err));
    EXPECT_OK(ops->conv_weights(b, conv, &x, &dy, k.dweight, NULL, &err));
    EXPECT_OK(ops->conv_weights(b, conv, &x, &dy, k.dweight, k.dbias, &err));
    assert_true(ops->conv_bytes(conv) > 0);
    ops->conv_free(b, conv);
    free(weight);
    free(bias);
    free(x.data);
    free(dy.data);
    free(r.data);
    return k;
}

static void conv_result_done(struct conv_result *k)
{
    free(k->y.data);
    free(k->dx.data);
    free(k->dweight);
    free(k->dbias);
}

static void convolutions_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        const struct conv_case *c = &convs[i];
        struct conv_result want = run_conv(reference, DT_F32, c);
        for (int way = 0; way < WAYS; way++) {
            const struct near k = { c->name, way, 4e-6, 8e-3 };
            struct conv_result got = run_conv(cpu[way], dtype_of(way), c);
            images_near(&k, "y", &got.y, &want.y);
            images_near(&k, "dx", &got.dx, &want.dx);
            floats_near(&k, "dweight", got.dweight, want.dweight,
                        (size_t)c->oc * c->ic * c->kernel * c->kernel);
            floats_near(&k, "dbias", got.dbias, want.dbias, c->oc);
            conv_result_done(&got);
        }
        conv_result_done(&want);
    }
}

static void what_a_convolution_was_not_made_for_is_refused(void **state)
{
    (void)state;
    struct backend *b = cpu[0];
    struct error e = { 0 };
    struct trained_conv *c = NULL;
    struct trained_conv_desc d = { 4, 4, 3, 5, 3, 1, DT_F32, 3, 5, 0, 5, 0, false };
    d.kernel = 5;
    assert_int_equal(b->ops->gradients->conv_new(b, &d, &c, &e), ST_INTERNAL);
    assert_null(c);
    d.kernel = 3;
    EXPECT_OK(b->ops->gradients->conv_new(b, &d, &c, &err));
    struct tensor x = image(DT_F32, (uint32_t[]){ 1, 4, 4, 3 }, 0, 1);
    struct tensor y = image(DT_F32, (uint32_t[]){ 1, 4, 4, 5 }, 0, 2);
    float dweight[135] = { 0 };
    assert_int_equal(b->ops->gradients->conv(b, c, &x, NULL, &y, NULL),
                     ST_INTERNAL); /* not packed */
    assert_int_equal(b->ops->gradients->conv_data(b, c, &y, &x, NULL), ST_INTERNAL); /* no dx_ld */
    y.n = 2;
    assert_int_equal(b->ops->gradients->conv_weights(b, c, &x, &y, dweight, NULL, NULL),
                     ST_INTERNAL);
    b->ops->gradients->conv_free(b, c);
    free(x.data);
    free(y.data);
}

/* ---- group norm ---- */

static const struct norm_case {
    const char *name;
    uint32_t n, h, w, c, groups, more;
    bool silu, scale_shift, add, in_place;
    float mean;
} norms[] = {
    /* moments are kept from the forward pass where the result is not added */
    { "one pixel, one channel a group", 1, 1, 1, 32, 32, 0, false, false, false, false, 0 },
    { "one channel a group", 2, 5, 7, 32, 32, 0, true, false, false, false, 0 },
    { "odd groups in a slice", 3, 9, 11, 42, 7, 6, true, true, true, false, 0 },
    { "many pixels", 2, 70, 71, 64, 32, 0, true, true, false, false, 0 },
    { "in place", 4, 16, 16, 96, 32, 4, true, true, false, true, 0 },
    { "a mean far from zero", 1, 24, 24, 96, 32, 0, false, false, true, false, 30 },
};

struct norm_result {
    struct tensor y, dx, dss;
    float *dgamma, *dbeta;
};

static struct norm_result run_norm(struct backend *b, enum dtype t, const struct norm_case *c)
{
    uint32_t shape[4] = { c->n, c->h, c->w, c->c }, wide[4] = { c->n, 1, 1, 2 * c->c };
    struct tensor x = image(t, shape, c->more, 1), ss = image(DT_F32, wide, 0, 2);
    float *gamma = floats(c->c, 3), *beta = floats(c->c, 4);
    for (size_t i = 0; c->mean != 0 && i < (size_t)x.n * x.h * x.w * x.ld; i++) {
        float v = f32_of_bf16(bf16_of_f32(value(&x, i) + c->mean));
        dtype_from_f32((char *)x.data + i * dtype_size(t), t, &v, 1);
    }
    struct norm_result k = { image(t, shape, c->more, 10), image(t, shape, c->more, 5),
                             image(DT_F32, wide, 0, 6), floats(c->c, 7), floats(c->c, 8) };
    struct tensor dy = image(t, shape, c->more, 9);
    struct group_norm_gradient_args a = { .dy = dy,
                                          .dx = { k.dx, c->add },
                                          .dscale_shift = { k.dss, c->add },
                                          .dgamma = k.dgamma,
                                          .dbeta = k.dbeta };
    a.forward = (struct group_norm_args){ .x = x,
                                          .y = dy,
                                          .groups = c->groups,
                                          .eps = 1e-5f,
                                          .gamma = gamma,
                                          .beta = beta,
                                          .scale_shift = c->scale_shift ? &ss : NULL,
                                          .silu = c->silu };
    if (!c->scale_shift) a.dscale_shift.dst.data = NULL;
    if (c->in_place) a.dx.dst = dy;
    double *moments = calloc((size_t)c->n * c->groups * 2, sizeof *moments);
    assert_non_null(moments);
    a.forward.y = k.y;
    EXPECT_OK(b->ops->gradients->group_norm(b, &a.forward, moments, &err));
    if (!c->add) a.moments = moments;
    EXPECT_OK(b->ops->gradients->group_norm_gradient(b, &a, &err));
    free(moments);
    free(c->in_place ? k.dx.data : dy.data);
    k.dx = a.dx.dst;
    free(x.data);
    free(ss.data);
    free(gamma);
    free(beta);
    return k;
}

static void norm_result_done(struct norm_result *k)
{
    free(k->y.data);
    free(k->dx.data);
    free(k->dss.data);
    free(k->dgamma);
    free(k->dbeta);
}

static void group_norms_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        const struct norm_case *c = &norms[i];
        struct norm_result want = run_norm(reference, DT_F32, c);
        for (int way = 0; way < WAYS; way++) {
            const struct near k = { c->name, way, c->mean != 0 ? 1e-4 : 4e-6, 8e-3 };
            struct norm_result got = run_norm(cpu[way], dtype_of(way), c);
            images_near(&k, "y", &got.y, &want.y);
            images_near(&k, "dx", &got.dx, &want.dx);
            images_near(&k, "dscale_shift", &got.dss, &want.dss);
            floats_near(&k, "dgamma", got.dgamma, want.dgamma, c->c);
            floats_near(&k, "dbeta", got.dbeta, want.dbeta, c->c);
            norm_result_done(&got);
        }
        norm_result_done(&want);
    }
}

/* ---- attention ---- */

static const struct attention_case {
    const char *name;
    uint32_t n, h, w, heads, ch, more;
    bool new_order;
} attentions[] = {
    { "one pixel", 1, 1, 1, 1, 8, 0, false },
    { "legacy order", 2, 8, 8, 4, 32, 0, false },
    { "new order", 2, 8, 8, 4, 32, 0, true },
    { "odd sizes in slices", 3, 5, 7, 3, 20, 9, false },
    { "many pixels", 1, 17, 20, 2, 64, 0, true },
};

static struct tensor run_attention(struct backend *b, enum dtype t, const struct attention_case *c)
{
    const struct gradient_ops *ops = b->ops->gradients;
    uint32_t wide = c->heads * c->ch, in[4] = { c->n, c->h, c->w, 3 * wide };
    uint32_t out[4] = { c->n, c->h, c->w, wide };
    struct tensor qkv = image(t, in, c->more, 1), dy = image(t, out, c->more, 2);
    struct tensor dqkv = image(t, in, c->more, 3);
    struct attention_desc d = { c->h, c->w, c->heads, c->ch, c->new_order, t, qkv.ld, dy.ld };
    struct trained_attention *a = NULL;
    EXPECT_OK(ops->attention_new(b, &d, &a, &err));
    EXPECT_OK(ops->attention_gradient(b, a, &qkv, &dy, &dqkv, &err));
    ops->attention_free(b, a);
    free(qkv.data);
    free(dy.data);
    return dqkv;
}

static void attentions_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++) {
        struct tensor want = run_attention(reference, DT_F32, &attentions[i]);
        for (int way = 0; way < WAYS; way++) {
            const struct near k = { attentions[i].name, way, 4e-6, 8e-3 };
            struct tensor got = run_attention(cpu[way], dtype_of(way), &attentions[i]);
            images_near(&k, "dqkv", &got, &want);
            free(got.data);
        }
        free(want.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions_agree),
        cmocka_unit_test(what_a_convolution_was_not_made_for_is_refused),
        cmocka_unit_test(group_norms_agree),
        cmocka_unit_test(attentions_agree),
    };
    int cannot = open_all();
    if (cannot) return cannot;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_all();
    return failed;
}
