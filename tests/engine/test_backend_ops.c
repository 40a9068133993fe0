/* A back end (back_end.h says which) against the naive one in double: every op, over shapes that reach each path (both ways of
 * convolving, strides wider than the channels, tails of vectors, in place, bias sets), for each of its teams and dtypes; and the
 * same bytes for a row alone and in a batch. DAVID_CPU_ISA picks the CPU's instruction set; one that the machine lacks is
 * skipped (77). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/ways.h"

/* ---- convolution ---- */

static const struct conv_case {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel, stride, conditions;
    uint32_t x_more, y_more; /* ld beyond the channels */
    bool residual, in_place, bias;
} convs[] = {
    { "1x1, one pixel", 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, false, false, true },
    { "3x3, one pixel", 1, 1, 1, 5, 7, 3, 1, 1, 0, 0, false, false, true },
    { "1x1, odd channels", 2, 5, 3, 37, 19, 1, 1, 1, 3, 5, false, false, true },
    { "1x1, residual in place", 4, 12, 12, 64, 64, 1, 1, 2, 0, 16, true, true, true },
    { "1x1, wide slices", 1, 9, 16, 32, 160, 1, 1, 1, 32, 64, true, false, false },
    { "3x3, three channels in", 1, 33, 35, 3, 32, 3, 1, 1, 0, 0, false, false, true },
    { "3x3, three channels out", 1, 40, 33, 32, 3, 3, 1, 1, 0, 0, false, false, true },
    { "3x3, odd and strided", 4, 7, 11, 13, 21, 3, 1, 3, 5, 2, true, false, true },
    { "3x3, three rows in slices", 3, 6, 5, 16, 24, 3, 1, 2, 8, 16, true, false, true },
    { "1x1, three rows in slices, in place", 3, 4, 6, 24, 16, 1, 1, 1, 16, 8, true, true, true },
    { "3x3, many taps", 1, 8, 8, 160, 144, 3, 1, 1, 0, 0, true, true, true },
    { "3x3, stride 2, even", 2, 16, 12, 32, 32, 3, 2, 1, 0, 0, false, false, true },
    { "3x3, stride 2, odd", 1, 15, 13, 6, 10, 3, 2, 1, 2, 2, true, false, true },
    { "1x1, stride 2", 1, 9, 8, 16, 16, 1, 2, 1, 0, 0, false, false, true },
    { "Winograd", 4, 32, 32, 32, 32, 3, 1, 2, 0, 0, false, false, true },
    { "Winograd, residual in place", 1, 32, 36, 32, 64, 3, 1, 1, 0, 32, true, true, true },
    { "Winograd, not a multiple of 4", 1, 33, 38, 48, 40, 3, 1, 1, 16, 8, true, false, true },
    { "Winograd, last tile of one pixel", 1, 37, 41, 16, 33, 3, 1, 1, 0, 0, false, false, false },
};

static void run_conv(struct backend *b, const struct conv_case *t, const struct conv_desc *d,
                     const float *weight, const float *bias, const struct tensor *x,
                     const struct tensor *r, const struct tensor *y, const uint32_t *condition)
{
    struct conv_plan *p = NULL;
    EXPECT_OK(b->ops->net.conv_plan(b, d, weight, t->bias ? bias : NULL, &p, &err));
    EXPECT_OK(b->ops->net.conv(b, p, x, r, y, condition, &err));
    b->ops->net.conv_plan_free(b, p);
}

static struct tensor row_of(const struct tensor *x, uint32_t n)
{
    struct tensor row = *x;
    row.n = 1;
    row.data = (char *)x->data + n * (tensor_bytes(x) / x->n);
    return row;
}

static void conv_case_on(const struct way *w, const struct conv_case *t)
{
    struct backend *b = w->b;
    const enum dtype dt = w->dtype;
    uint32_t oh = (t->h + t->stride - 1) / t->stride, ow = (t->w + t->stride - 1) / t->stride;
    struct conv_desc d = { .h = t->h,
                           .w = t->w,
                           .ic = t->ic,
                           .oc = t->oc,
                           .kernel = t->kernel,
                           .stride = t->stride,
                           .conditions = t->conditions,
                           .dtype = dt,
                           .x_ld = t->ic + t->x_more,
                           .y_ld = t->oc + t->y_more };
    if (t->residual) d.r_ld = t->in_place ? d.y_ld : t->oc + 3;
    struct conv_desc rd = d;
    rd.dtype = DT_F32;
    struct tensor weight = tensor_make(DT_F32, 1, 1, 1, t->ic * t->oc * t->kernel * t->kernel,
                                       t->ic * t->oc * t->kernel * t->kernel, 1);
    struct tensor bias =
        tensor_make(DT_F32, 1, 1, 1, t->oc * t->conditions, t->oc * t->conditions, 2);
    struct tensor x = tensor_make(dt, t->n, t->h, t->w, t->ic, d.x_ld, 3);
    struct tensor rx = tensor_make(DT_F32, t->n, t->h, t->w, t->ic, d.x_ld, 3);
    struct tensor y = tensor_make(dt, t->n, oh, ow, t->oc, d.y_ld, 4);
    struct tensor ry = tensor_make(DT_F32, t->n, oh, ow, t->oc, d.y_ld, 4);
    struct tensor one = tensor_make(dt, t->n, oh, ow, t->oc, d.y_ld, 4);
    size_t r_ld = d.r_ld ? d.r_ld : 1;
    struct tensor r = tensor_make(dt, t->n, oh, ow, t->oc, t->oc > r_ld ? t->oc : r_ld, 5);
    struct tensor rr = tensor_make(DT_F32, t->n, oh, ow, t->oc, t->oc > r_ld ? t->oc : r_ld, 5);
    uint32_t condition[8];
    for (uint32_t n = 0; n < 8; n++)
        condition[n] = (n + 1) % t->conditions;

    run_conv(reference, t, &rd, weight.data, bias.data, &rx,
             !t->residual  ? NULL
             : t->in_place ? &ry
                           : &rr,
             &ry, condition);
    const struct tensor dx = to_device(b, &x), dy = to_device(b, &y), done = to_device(b, &one),
                        dr = to_device(b, &r);
    run_conv(b, t, &d, weight.data, bias.data, &dx,
             !t->residual  ? NULL
             : t->in_place ? &dy
                           : &dr,
             &dy, condition);
    for (uint32_t n = 0; n < t->n; n++) {
        struct tensor xn = row_of(&dx, n), yn = row_of(&done, n), rn = row_of(&dr, n);
        run_conv(b, t, &d, weight.data, bias.data, &xn,
                 !t->residual  ? NULL
                 : t->in_place ? &yn
                               : &rn,
                 &yn, condition + n);
    }
    from_device(b, &dy, &y);
    from_device(b, &done, &one);
    off_device(b, &dx);
    off_device(b, &dr);
    expect_near(t->name, w, &y, &ry, 4e-6);
    expect_same_bytes(t->name, one.data, y.data, tensor_bytes(&y));
    struct tensor *all[] = { &weight, &bias, &x, &rx, &y, &ry, &one, &r, &rr };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->data);
}

static void convolutions_agree_and_a_row_is_the_same_in_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++)
        for (size_t k = 0; k < n_ways; k++)
            conv_case_on(&ways[k], &convs[i]);
}

static void a_convolution_that_is_not_its_plans_is_refused(void **state)
{
    (void)state;
    struct tensor w = tensor_make(DT_F32, 1, 1, 1, 64, 64, 1);
    struct tensor x = tensor_make(DT_F32, 1, 4, 4, 8, 8, 2),
                  y = tensor_make(DT_F32, 1, 4, 4, 8, 8, 3);
    struct conv_desc d = { .h = 4,
                           .w = 4,
                           .ic = 8,
                           .oc = 8,
                           .kernel = 1,
                           .stride = 1,
                           .conditions = 1,
                           .dtype = DT_F32,
                           .x_ld = 8,
                           .y_ld = 8 };
    struct backend *b = ways[0].b;
    struct conv_plan *p = NULL;
    EXPECT_OK(b->ops->net.conv_plan(b, &d, w.data, NULL, &p, &err));
    uint32_t beyond = 1;
    struct error e = {
        0
    }; /* refused before the tensors are looked into: they may stay on the host */
    assert_int_equal(b->ops->net.conv(b, p, &x, NULL, &y, &beyond, &e), ST_INTERNAL);
    assert_int_equal(b->ops->net.conv(b, p, &x, &y, &y, NULL, &e), ST_INTERNAL);
    x.h = 2;
    assert_int_equal(b->ops->net.conv(b, p, &x, NULL, &y, NULL, &e), ST_INTERNAL);
    b->ops->net.conv_plan_free(b, p);
    d.kernel = 5;
    p = NULL;
    assert_int_equal(b->ops->net.conv_plan(b, &d, w.data, NULL, &p, &e), ST_INTERNAL);
    assert_null(p);
    free(w.data);
    free(x.data);
    free(y.data);
}

/* ---- group norm ---- */

static const struct norm_case {
    const char *name;
    uint32_t n, h, w, c, groups, more;
    bool silu, scale_shift, in_place;
    float mean;
} norms[] = {
    { "one pixel", 1, 1, 1, 32, 32, 0, false, false, false, 0 },
    { "one channel a group", 2, 5, 7, 32, 32, 0, true, false, false, 0 },
    { "odd groups in a slice", 3, 9, 11, 42, 7, 6, true, true, false, 0 },
    { "in place", 4, 16, 16, 64, 32, 0, true, true, true, 0 },
    { "a mean far from zero", 1, 24, 24, 96, 32, 0, false, false, false, 300 },
};

static void group_norms_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        for (size_t k = 0; k < n_ways; k++) {
            const struct norm_case *t = &norms[i];
            struct backend *b = ways[k].b;
            enum dtype dt = ways[k].dtype;
            if (dt != DT_F32 && t->mean != 0) continue;
            struct tensor g = tensor_make(DT_F32, 1, 1, 1, 2 * t->c, 2 * t->c, 1);
            struct tensor be = tensor_make(DT_F32, 1, 1, 1, 2 * t->c, 2 * t->c, 2);
            struct tensor ss = tensor_make(DT_F32, t->n, 1, 1, 2 * t->c, 2 * t->c, 3);
            struct tensor x = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 4);
            struct tensor rx = tensor_make(DT_F32, t->n, t->h, t->w, t->c, t->c + t->more, 4);
            for (size_t j = 0; t->mean != 0 && j < tensor_bytes(&x) / 4; j++)
                ((float *)rx.data)[j] = ((float *)x.data)[j] += t->mean;
            struct tensor y = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            struct tensor ry = tensor_make(DT_F32, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            struct tensor one = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            uint32_t condition[4] = { 1, 0, 1, 1 };
            const struct tensor dg = to_device(b, &g), dbe = to_device(b, &be),
                                dss = to_device(b, &ss), dx = to_device(b, &x),
                                dy = to_device(b, &y), done = to_device(b, &one);
            struct group_norm_args ra = { .x = rx, .y = ry, .groups = t->groups, .eps = 1e-5f };
            ra.gamma = g.data;
            ra.beta = be.data;
            ra.condition = condition;
            ra.scale_shift = t->scale_shift ? &ss : NULL;
            ra.silu = t->silu;
            struct group_norm_args a = ra;
            a.x = dx;
            a.y = dy;
            a.gamma = dg.data;
            a.beta = dbe.data;
            a.scale_shift = t->scale_shift ? &dss : NULL;
            for (uint32_t n = 0; n < t->n; n++) {
                struct group_norm_args row = a;
                struct tensor sn = row_of(&dss, n);
                row.x = row_of(&dx, n);
                row.y = row_of(&done, n);
                row.condition = condition + n;
                row.scale_shift = t->scale_shift ? &sn : NULL;
                EXPECT_OK(b->ops->net.group_norm(b, &row, &err));
            }
            if (t->in_place) {
                a.y = a.x;
                ra.y = ra.x;
            }
            EXPECT_OK(b->ops->net.group_norm(b, &a, &err));
            EXPECT_OK(reference->ops->net.group_norm(reference, &ra, &err));
            from_device(b, &dx, &x);
            from_device(b, &dy, &y);
            from_device(b, &done, &one);
            off_device(b, &dg);
            off_device(b, &dbe);
            off_device(b, &dss);
            expect_near(t->name, &ways[k], t->in_place ? &x : &y, &ra.y, 2e-6);
            if (!t->in_place) expect_same_bytes(t->name, y.data, one.data, tensor_bytes(&one));
            struct tensor *all[] = { &g, &be, &ss, &x, &rx, &y, &ry, &one };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]->data);
        }
}

/* What comes of x resampled as `y` is, by that op alone. */
static void expect_resampled(const char *name, struct backend *b, const struct tensor *x,
                             const struct tensor *y, bool is_up)
{
    struct tensor want = *y;
    want.data = malloc(tensor_bytes(y));
    assert_non_null(want.data);
    memcpy(want.data, y->data, tensor_bytes(y)); /* what lies between the pixels */
    const struct tensor d = to_device(b, &want);
    EXPECT_OK((is_up ? b->ops->net.upsample : b->ops->net.downsample)(b, x, &d, &err));
    from_device(b, &d, &want);
    expect_same_bytes(name, y->data, want.data, tensor_bytes(y));
    free(want.data);
}

/* The ops one after the other, and all at once: the same bytes, or no answer. */
static void one_resampling_norm(const struct norm_case *t, const struct way *w, bool is_up)
{
    const struct backend_ops *ops = w->b->ops;
    const uint32_t h = is_up ? 2 * t->h : t->h / 2, wide = is_up ? 2 * t->w : t->w / 2;
    const size_t ld = t->c + t->more;
    struct tensor x = tensor_make(w->dtype, t->n, t->h, t->w, t->c, ld, 4);
    struct tensor y = tensor_make(w->dtype, t->n, h, wide, t->c, ld, 5);
    struct tensor too = tensor_make(w->dtype, t->n, h, wide, t->c, ld, 5);
    struct tensor gamma = tensor_make(DT_F32, 1, 1, 1, 2 * t->c, 2 * t->c, 1);
    struct tensor ss = tensor_make(DT_F32, t->n, 1, 1, 2 * t->c, 2 * t->c, 3);
    const struct tensor dx = to_device(w->b, &x), dg = to_device(w->b, &gamma),
                        dss = to_device(w->b, &ss), dy = to_device(w->b, &y),
                        dtoo = to_device(w->b, &too);
    struct group_norm_args a = { .x = dx,
                                 .y = dy,
                                 .groups = t->groups,
                                 .eps = 1e-5f,
                                 .gamma = dg.data,
                                 .beta = dg.data,
                                 .scale_shift = t->scale_shift ? &dss : NULL,
                                 .silu = t->silu,
                                 .resample = is_up ? RESAMPLE_UP : RESAMPLE_DOWN,
                                 .x_too = &dtoo };
    struct error e = { 0 };
    const enum status s = ops->net.group_norm(w->b, &a, &e);
    from_device(w->b, &dy, &y);
    from_device(w->b, &dtoo, &too);
    assert_int_equal(s, ops->net.norm_resamples ? ST_OK : ST_INTERNAL);
    if (ops->net.norm_resamples) {
        a.y = dx; /* of another size than it becomes */
        a.x_too = NULL;
        assert_int_equal(ops->net.group_norm(w->b, &a, &e), ST_INTERNAL);
        expect_resampled(t->name, w->b, &dx, &too, is_up);
        a.resample = RESAMPLE_NONE; /* over x */
        EXPECT_OK(ops->net.group_norm(w->b, &a, &err));
        expect_resampled(t->name, w->b, &dx, &y, is_up);
    }
    off_device(w->b, &dx);
    off_device(w->b, &dg);
    off_device(w->b, &dss);
    free(x.data);
    free(y.data);
    free(too.data);
    free(gamma.data);
    free(ss.data);
}

static void a_norm_resamples_to_the_bytes_of_both_ops(void **state)
{
    (void)state;
    static const struct norm_case cases[] = {
        { "two pixels a side", 1, 2, 2, 32, 32, 0, true, false, false, 0 },
        { "odd groups in a slice", 3, 10, 6, 42, 7, 6, true, true, false, 0 },
        { "as in the network", 2, 16, 16, 64, 32, 0, true, false, false, 0 },
        { "larger than a block holds", 1, 40, 36, 256, 8, 0, true, false, false, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t k = 0; k < n_ways; k++)
            for (int up = 0; up < 2; up++)
                one_resampling_norm(&cases[i], &ways[k], up);
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
    { "odd sizes in slices", 1, 5, 7, 3, 20, 9, false },
    { "many pixels", 1, 24, 20, 1, 64, 0, true },
};

static void attention_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++)
        for (size_t k = 0; k < n_ways; k++) {
            const struct attention_case *t = &attentions[i];
            struct backend *b = ways[k].b;
            enum dtype dt = ways[k].dtype;
            uint32_t c = t->heads * t->ch;
            struct attention_desc d = { t->h,         t->w, t->heads,        t->ch,
                                        t->new_order, dt,   3 * c + t->more, c + t->more };
            struct attention_desc rd = d;
            rd.dtype = DT_F32;
            struct tensor x = tensor_make(dt, t->n, t->h, t->w, 3 * c, d.qkv_ld, 1);
            struct tensor rx = tensor_make(DT_F32, t->n, t->h, t->w, 3 * c, d.qkv_ld, 1);
            struct tensor y = tensor_make(dt, t->n, t->h, t->w, c, d.y_ld, 2);
            struct tensor ry = tensor_make(DT_F32, t->n, t->h, t->w, c, d.y_ld, 2);
            struct tensor one = tensor_make(dt, t->n, t->h, t->w, c, d.y_ld, 2);
            struct attention_plan *p = NULL, *rp = NULL;
            EXPECT_OK(b->ops->net.attention_plan(b, &d, &p, &err));
            EXPECT_OK(reference->ops->net.attention_plan(reference, &rd, &rp, &err));
            const struct tensor dx = to_device(b, &x), dy = to_device(b, &y),
                                done = to_device(b, &one);
            EXPECT_OK(b->ops->net.attention(b, p, &dx, &dy, &err));
            EXPECT_OK(reference->ops->net.attention(reference, rp, &rx, &ry, &err));
            for (uint32_t n = 0; n < t->n; n++) {
                struct tensor xn = row_of(&dx, n), yn = row_of(&done, n);
                EXPECT_OK(b->ops->net.attention(b, p, &xn, &yn, &err));
            }
            from_device(b, &dy, &y);
            from_device(b, &done, &one);
            off_device(b, &dx);
            expect_near(t->name, &ways[k], &y, &ry, 2e-6);
            expect_same_bytes(t->name, one.data, y.data, tensor_bytes(&y));
            b->ops->net.attention_plan_free(b, p);
            reference->ops->net.attention_plan_free(reference, rp);
            struct tensor *all[] = { &x, &rx, &y, &ry, &one };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]->data);
        }
}

/* ---- walks over an image ---- */

enum elementwise { UP, DOWN, CONCAT, ADD_CHANNEL, CAST };

static void elementwise(struct backend *b, enum elementwise what, enum dtype dt,
                        const struct tensor *y, uint32_t c)
{
    uint32_t h = what == UP     ? 3
                 : what == DOWN ? 12
                                : 6,
             w = what == UP     ? 5
                 : what == DOWN ? 20
                                : 10;
    struct tensor x = tensor_make(dt, 2, h, w, c, c + 3, 11);
    struct tensor z = tensor_make(dt, 2, h, w, 5, 5, 12),
                  e = tensor_make(DT_F32, 2, 1, 1, c, c, 13);
    const struct tensor dx = to_device(b, &x), dz = to_device(b, &z), de = to_device(b, &e),
                        dy = to_device(b, y);
    switch (what) {
    case UP: EXPECT_OK(b->ops->net.upsample(b, &dx, &dy, &err)); break;
    case DOWN: EXPECT_OK(b->ops->net.downsample(b, &dx, &dy, &err)); break;
    case CONCAT: EXPECT_OK(b->ops->net.concat(b, &dx, &dz, &dy, &err)); break;
    case ADD_CHANNEL: EXPECT_OK(b->ops->net.add_channel(b, &dx, &de, &dy, &err)); break;
    case CAST: EXPECT_OK(b->ops->net.cast(b, &dx, &dy, &err)); break;
    }
    from_device(b, &dy, y);
    off_device(b, &dx);
    off_device(b, &dz);
    off_device(b, &de);
    free(x.data);
    free(z.data);
    free(e.data);
}

static void elementwise_loops_over_an_image_agree(void **state)
{
    (void)state;
    static const char *const names[] = { "upsample", "downsample", "concat", "add_channel",
                                         "cast" };
    static const uint32_t widths[] = { 1, 3, 8, 32, 45 };
    for (int what = UP; what <= CAST; what++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            uint32_t c = widths[i], yc = what == CONCAT ? c + 5 : c;
            struct tensor want = tensor_make(DT_F32, 2, 6, 10, yc, yc + 4, 20);
            elementwise(reference, (enum elementwise)what, DT_F32, &want, c);
            for (size_t k = 0; k < n_ways; k++) {
                struct tensor got = tensor_make(ways[k].dtype, 2, 6, 10, yc, yc + 4, 20);
                elementwise(ways[k].b, (enum elementwise)what, ways[k].dtype, &got, c);
                expect_near(names[what], &ways[k], &got, &want, 2e-7);
                free(got.data);
            }
            free(want.data);
        }
}

static const struct cell_case {
    const char *name;
    uint32_t n, h, w, c, patch; /* of the cells; c: of a pixel */
    uint32_t pixel_more, cell_more;
} cells[] = {
    { "one cell", 1, 1, 1, 1, 2, 0, 0 },
    { "images", 3, 5, 7, 3, 2, 0, 0 },
    { "images and noise", 2, 6, 5, 6, 2, 0, 0 },
    { "cells of four", 2, 3, 5, 3, 4, 0, 0 },
    { "odd channels, pixels apart", 2, 4, 3, 5, 2, 3, 0 },
    { "odd channels, both apart", 4, 2, 3, 7, 4, 1, 9 },
    { "many channels", 1, 9, 11, 45, 2, 0, 4 },
};

/* The same numbers in F32. */
static struct tensor widened(const struct tensor *x)
{
    const size_t count = tensor_bytes(x) / dtype_size(x->dtype);
    struct tensor wide = *x;
    wide.dtype = DT_F32;
    wide.data = malloc(count * sizeof(float));
    assert_non_null(wide.data);
    dtype_to_f32(wide.data, x->data, x->dtype, count);
    return wide;
}

static void one_permutation(const struct cell_case *t, const struct way *w, bool to_cells)
{
    struct backend *b = w->b;
    const uint32_t p = t->patch, c = p * p * t->c;
    struct tensor pixels =
        tensor_make(w->dtype, t->n, p * t->h, p * t->w, t->c, t->c + t->pixel_more, 1);
    struct tensor whole = tensor_make(w->dtype, t->n, t->h, t->w, c, c + t->cell_more, 2);
    struct tensor *x = to_cells ? &pixels : &whole, *y = to_cells ? &whole : &pixels;
    struct tensor wx = widened(x), want = widened(y);
    const struct tensor dx = to_device(b, x), dy = to_device(b, y);
    EXPECT_OK(
        (to_cells ? b->ops->net.space_to_depth : b->ops->net.depth_to_space)(b, &dx, &dy, &err));
    EXPECT_OK((to_cells ? reference->ops->net.space_to_depth
                        : reference->ops->net.depth_to_space)(reference, &wx, &want, &err));
    from_device(b, &dy, y);
    off_device(b, &dx);
    if (difference(y, &want) != 0) fail_msg("%s, %s: not the same numbers", t->name, w->name);
    free(wx.data);
    free(want.data);
    free(pixels.data);
    free(whole.data);
}

static void pixels_become_cells_and_cells_pixels(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        for (size_t k = 0; k < n_ways; k++) {
            one_permutation(&cells[i], &ways[k], true);
            one_permutation(&cells[i], &ways[k], false);
        }
    struct backend *b = ways[0].b;
    struct tensor pixels = tensor_make(DT_F32, 1, 4, 4, 3, 3, 1),
                  whole = tensor_make(DT_F32, 1, 2, 2, 12, 12, 2), x = pixels, y = whole;
    struct error e = { 0 }; /* refused before the tensors are looked into */
    y.c = 11;
    assert_int_equal(b->ops->net.space_to_depth(b, &x, &y, &e), ST_INTERNAL);
    assert_int_equal(b->ops->net.depth_to_space(b, &y, &x, &e), ST_INTERNAL);
    y = whole;
    x.w = 5;
    assert_int_equal(b->ops->net.space_to_depth(b, &x, &y, &e), ST_INTERNAL);
    x = pixels;
    y.dtype = DT_BF16;
    assert_int_equal(b->ops->net.space_to_depth(b, &x, &y, &e), ST_INTERNAL);
    free(pixels.data);
    free(whole.data);
}

static void casts_round_as_proto_does(void **state)
{
    (void)state;
    for (size_t k = 0; k < n_ways; k++) {
        if (ways[k].dtype == DT_F32) continue;
        struct tensor x = tensor_make(DT_F32, 1, 1, 1, 37, 37, 1),
                      y = tensor_make(ways[k].dtype, 1, 1, 1, 37, 37, 2);
        float *v = x.data;
        for (int i = 0; i < 37; i++)
            v[i] *= 1.0f + (float)i / 1024;
        v[0] = NAN;
        v[1] = INFINITY;
        v[2] = ways[k].dtype == DT_BF16 ? 1.00390625f : 1.00048828125f; /* a tie: to even */
        v[36] = NAN;
        const struct tensor dx = to_device(ways[k].b, &x), dy = to_device(ways[k].b, &y);
        EXPECT_OK(ways[k].b->ops->net.cast(ways[k].b, &dx, &dy, &err));
        from_device(ways[k].b, &dy, &y);
        off_device(ways[k].b, &dx);
        for (int i = 0; i < 37; i++) {
            uint16_t want;
            dtype_from_f32(&want, ways[k].dtype, &v[i], 1);
            if (isnan(v[i]))
                assert_true(isnan(value(&y, (size_t)i)));
            else
                assert_int_equal(((uint16_t *)y.data)[i], want);
        }
        free(x.data);
        free(y.data);
    }
}

static void an_unknown_instruction_set_is_refused(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip();
    const char *was = getenv("DAVID_CPU_ISA");
    char *kept = was ? strdup(was) : NULL;
    setenv("DAVID_CPU_ISA", "mmx", 1);
    struct backend *b = NULL;
    struct error e = { 0 };
    assert_int_equal(cpu_backend_open(&b, 1, &e), ST_UNSUPPORTED);
    assert_null(b);
    assert_non_null(strstr(e.detail, "DAVID_CPU_ISA"));
    if (kept)
        setenv("DAVID_CPU_ISA", kept, 1);
    else
        unsetenv("DAVID_CPU_ISA");
    free(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions_agree_and_a_row_is_the_same_in_a_batch),
        cmocka_unit_test(a_convolution_that_is_not_its_plans_is_refused),
        cmocka_unit_test(group_norms_agree),
        cmocka_unit_test(a_norm_resamples_to_the_bytes_of_both_ops),
        cmocka_unit_test(attention_agrees),
        cmocka_unit_test(elementwise_loops_over_an_image_agree),
        cmocka_unit_test(pixels_become_cells_and_cells_pixels),
        cmocka_unit_test(casts_round_as_proto_does),
        cmocka_unit_test(an_unknown_instruction_set_is_refused),
    };
    return run_on_all_ways(tests, sizeof tests / sizeof *tests);
}
