/* The CPU back end against the naive one in double: every op, over shapes that reach each path (both ways of convolving,
 * strides wider than the channels, tails of vectors, in place, bias sets), for 1, 2 and 3 threads; and the same bytes for a
 * row alone and in a batch. DAVID_CPU_ISA picks the instruction set; one that the machine lacks is skipped (77). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend.h"

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)

enum { TEAMS = 3 };

static struct error err;
static struct backend *reference, *cpu[TEAMS], *half; /* half: BF16 storage */

/* Numbers in [-1, 1) that depend on nothing but their place. */
static float noise(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static struct tensor tensor_make(enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c,
                                 size_t ld, uint64_t seed)
{
    struct tensor x = { .dtype = t, .n = n, .h = h, .w = w, .c = c, .ld = ld };
    size_t count = (size_t)n * h * w * ld;
    x.data = malloc(count * dtype_size(t));
    assert_non_null(x.data);
    for (size_t i = 0; i < count; i++) {
        /* Exact in BF16, so that both dtypes see the same numbers. */
        float v = f32_of_bf16(bf16_of_f32(noise(seed * 1000003 + i)));
        dtype_from_f32((char *)x.data + i * dtype_size(t), t, &v, 1);
    }
    return x;
}

static float value(const struct tensor *x, size_t i)
{
    float v;
    dtype_to_f32(&v, (const char *)x->data + i * dtype_size(x->dtype), x->dtype, 1);
    return v;
}

/* Largest difference, relative to the largest number; what lies between the pixels (ld > c) must be equal. */
static double difference(const struct tensor *a, const struct tensor *b)
{
    double worst = 0, most = 1e-30;
    for (size_t i = 0; i < (size_t)a->n * a->h * a->w; i++)
        for (size_t c = 0; c < a->ld; c++) {
            double x = (double)value(a, i * a->ld + c), y = (double)value(b, i * b->ld + c);
            if (c >= a->c) {
                assert_true(x == y);
                continue;
            }
            assert_true(isfinite(x));
            worst = fmax(worst, fabs(x - y));
            most = fmax(most, fabs(y));
        }
    return worst / most;
}

static void expect_near(const char *what, int threads, const struct tensor *got,
                        const struct tensor *want, double tolerance)
{
    double d = difference(got, want);
    if (!(d <= tolerance))
        fail_msg("%s, %d threads: relative difference %.3g, tolerance %.3g", what, threads, d,
                 tolerance);
}

static void expect_same_bytes(const char *what, const void *a, const void *b, size_t bytes)
{
    if (memcmp(a, b, bytes) != 0) fail_msg("%s: not the same bytes", what);
}

static size_t bytes_of(const struct tensor *x)
{
    return (size_t)x->n * x->h * x->w * x->ld * dtype_size(x->dtype);
}

/* ---- convolution ---- */

static const struct conv_case {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel, stride, sets;
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
                     const struct tensor *r, const struct tensor *y, const uint32_t *set)
{
    struct conv_plan *p = NULL;
    EXPECT_OK(b->ops->conv_plan(b, d, weight, t->bias ? bias : NULL, &p, &err));
    EXPECT_OK(b->ops->conv(b, p, x, r, y, set, &err));
    b->ops->conv_plan_free(b, p);
}

static struct tensor row_of(const struct tensor *x, uint32_t n)
{
    struct tensor row = *x;
    row.n = 1;
    row.data = (char *)x->data + n * (bytes_of(x) / x->n);
    return row;
}

static void conv_case_on(struct backend *b, int threads, const struct conv_case *t, enum dtype dt,
                         double tolerance)
{
    uint32_t oh = (t->h + t->stride - 1) / t->stride, ow = (t->w + t->stride - 1) / t->stride;
    struct conv_desc d = { .h = t->h,
                           .w = t->w,
                           .ic = t->ic,
                           .oc = t->oc,
                           .kernel = t->kernel,
                           .stride = t->stride,
                           .sets = t->sets,
                           .dtype = dt,
                           .x_ld = t->ic + t->x_more,
                           .y_ld = t->oc + t->y_more };
    if (t->residual) d.r_ld = t->in_place ? d.y_ld : t->oc + 3;
    struct conv_desc rd = d;
    rd.dtype = DT_F32;
    struct tensor weight = tensor_make(DT_F32, 1, 1, 1, t->ic * t->oc * t->kernel * t->kernel,
                                       t->ic * t->oc * t->kernel * t->kernel, 1);
    struct tensor bias = tensor_make(DT_F32, 1, 1, 1, t->oc * t->sets, t->oc * t->sets, 2);
    struct tensor x = tensor_make(dt, t->n, t->h, t->w, t->ic, d.x_ld, 3);
    struct tensor rx = tensor_make(DT_F32, t->n, t->h, t->w, t->ic, d.x_ld, 3);
    struct tensor y = tensor_make(dt, t->n, oh, ow, t->oc, d.y_ld, 4);
    struct tensor ry = tensor_make(DT_F32, t->n, oh, ow, t->oc, d.y_ld, 4);
    struct tensor one = tensor_make(dt, t->n, oh, ow, t->oc, d.y_ld, 4);
    size_t r_ld = d.r_ld ? d.r_ld : 1;
    struct tensor r = tensor_make(dt, t->n, oh, ow, t->oc, t->oc > r_ld ? t->oc : r_ld, 5);
    struct tensor rr = tensor_make(DT_F32, t->n, oh, ow, t->oc, t->oc > r_ld ? t->oc : r_ld, 5);
    uint32_t set[8];
    for (uint32_t n = 0; n < 8; n++)
        set[n] = (n + 1) % t->sets;

    run_conv(reference, t, &rd, weight.data, bias.data, &rx,
             !t->residual  ? NULL
             : t->in_place ? &ry
                           : &rr,
             &ry, set);
    run_conv(b, t, &d, weight.data, bias.data, &x,
             !t->residual  ? NULL
             : t->in_place ? &y
                           : &r,
             &y, set);
    expect_near(t->name, threads, &y, &ry, tolerance);
    for (uint32_t n = 0; n < t->n; n++) {
        struct tensor xn = row_of(&x, n), yn = row_of(&one, n), rn = row_of(&r, n);
        run_conv(b, t, &d, weight.data, bias.data, &xn,
                 !t->residual  ? NULL
                 : t->in_place ? &yn
                               : &rn,
                 &yn, set + n);
    }
    expect_same_bytes(t->name, one.data, y.data, bytes_of(&y));
    struct tensor *all[] = { &weight, &bias, &x, &rx, &y, &ry, &one, &r, &rr };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->data);
}

static void convolutions_agree_and_a_row_is_the_same_in_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        for (int k = 0; k < TEAMS; k++)
            conv_case_on(cpu[k], k + 1, &convs[i], DT_F32, 4e-6);
        conv_case_on(half, 2, &convs[i], DT_BF16, 5e-3);
    }
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
                           .sets = 1,
                           .dtype = DT_F32,
                           .x_ld = 8,
                           .y_ld = 8 };
    struct backend *b = cpu[0];
    struct conv_plan *p = NULL;
    EXPECT_OK(b->ops->conv_plan(b, &d, w.data, NULL, &p, &err));
    uint32_t beyond = 1;
    struct error e = { 0 };
    assert_int_equal(b->ops->conv(b, p, &x, NULL, &y, &beyond, &e), ST_INTERNAL);
    assert_int_equal(b->ops->conv(b, p, &x, &y, &y, NULL, &e), ST_INTERNAL);
    x.h = 2;
    assert_int_equal(b->ops->conv(b, p, &x, NULL, &y, NULL, &e), ST_INTERNAL);
    b->ops->conv_plan_free(b, p);
    d.kernel = 5;
    p = NULL;
    assert_int_equal(b->ops->conv_plan(b, &d, w.data, NULL, &p, &e), ST_INTERNAL);
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
        for (int k = 0; k <= TEAMS; k++) {
            const struct norm_case *t = &norms[i];
            enum dtype dt = k < TEAMS ? DT_F32 : DT_BF16;
            if (dt == DT_BF16 && t->mean != 0) continue;
            struct backend *b = k < TEAMS ? cpu[k] : half;
            struct tensor g = tensor_make(DT_F32, 1, 1, 1, 2 * t->c, 2 * t->c, 1);
            struct tensor be = tensor_make(DT_F32, 1, 1, 1, 2 * t->c, 2 * t->c, 2);
            struct tensor ss = tensor_make(DT_F32, t->n, 1, 1, 2 * t->c, 2 * t->c, 3);
            struct tensor x = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 4);
            struct tensor rx = tensor_make(DT_F32, t->n, t->h, t->w, t->c, t->c + t->more, 4);
            for (size_t j = 0; t->mean != 0 && j < bytes_of(&x) / 4; j++)
                ((float *)rx.data)[j] = ((float *)x.data)[j] += t->mean;
            struct tensor y = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            struct tensor ry = tensor_make(DT_F32, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            struct tensor one = tensor_make(dt, t->n, t->h, t->w, t->c, t->c + t->more, 5);
            uint32_t set[4] = { 1, 0, 1, 1 };
            struct group_norm_args a = { .x = x, .y = y, .groups = t->groups, .eps = 1e-5f };
            a.gamma = g.data;
            a.beta = be.data;
            a.set = set;
            a.scale_shift = t->scale_shift ? &ss : NULL;
            a.silu = t->silu;
            struct group_norm_args ra = a;
            ra.x = rx;
            ra.y = ry;
            for (uint32_t n = 0; n < t->n; n++) {
                struct group_norm_args row = a;
                struct tensor sn = row_of(&ss, n);
                row.x = row_of(&x, n);
                row.y = row_of(&one, n);
                row.set = set + n;
                row.scale_shift = t->scale_shift ? &sn : NULL;
                EXPECT_OK(b->ops->group_norm(b, &row, &err));
            }
            if (t->in_place) {
                a.y = a.x;
                ra.y = ra.x;
            }
            EXPECT_OK(b->ops->group_norm(b, &a, &err));
            EXPECT_OK(reference->ops->group_norm(reference, &ra, &err));
            expect_near(t->name, k + 1, &a.y, &ra.y, dt == DT_BF16 ? 5e-3 : 2e-6);
            if (!t->in_place) expect_same_bytes(t->name, a.y.data, one.data, bytes_of(&one));
            struct tensor *all[] = { &g, &be, &ss, &x, &rx, &y, &ry, &one };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]->data);
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
    { "odd sizes in slices", 1, 5, 7, 3, 20, 9, false },
    { "many pixels", 1, 24, 20, 1, 64, 0, true },
};

static void attention_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attentions / sizeof *attentions; i++)
        for (int k = 0; k <= TEAMS; k++) {
            const struct attention_case *t = &attentions[i];
            enum dtype dt = k < TEAMS ? DT_F32 : DT_BF16;
            struct backend *b = k < TEAMS ? cpu[k] : half;
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
            EXPECT_OK(b->ops->attention_plan(b, &d, &p, &err));
            EXPECT_OK(reference->ops->attention_plan(reference, &rd, &rp, &err));
            EXPECT_OK(b->ops->attention(b, p, &x, &y, &err));
            EXPECT_OK(reference->ops->attention(reference, rp, &rx, &ry, &err));
            expect_near(t->name, k + 1, &y, &ry, dt == DT_BF16 ? 5e-3 : 2e-6);
            for (uint32_t n = 0; n < t->n; n++) {
                struct tensor xn = row_of(&x, n), yn = row_of(&one, n);
                EXPECT_OK(b->ops->attention(b, p, &xn, &yn, &err));
            }
            expect_same_bytes(t->name, one.data, y.data, bytes_of(&y));
            b->ops->attention_plan_free(b, p);
            reference->ops->attention_plan_free(reference, rp);
            struct tensor *all[] = { &x, &rx, &y, &ry, &one };
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                free(all[j]->data);
        }
}

/* ---- walks over a picture ---- */

enum walk { UP, DOWN, CONCAT, ADD_CHANNEL, CAST };

static void walk(struct backend *b, enum walk what, enum dtype dt, const struct tensor *y,
                 uint32_t c)
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
    switch (what) {
    case UP: EXPECT_OK(b->ops->upsample(b, &x, y, &err)); break;
    case DOWN: EXPECT_OK(b->ops->downsample(b, &x, y, &err)); break;
    case CONCAT: EXPECT_OK(b->ops->concat(b, &x, &z, y, &err)); break;
    case ADD_CHANNEL: EXPECT_OK(b->ops->add_channel(b, &x, &e, y, &err)); break;
    case CAST: EXPECT_OK(b->ops->cast(b, &x, y, &err)); break;
    }
    free(x.data);
    free(z.data);
    free(e.data);
}

static void walks_over_a_picture_agree(void **state)
{
    (void)state;
    static const char *const names[] = { "upsample", "downsample", "concat", "add_channel",
                                         "cast" };
    static const uint32_t widths[] = { 1, 3, 8, 32, 45 };
    for (int what = UP; what <= CAST; what++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            uint32_t c = widths[i], yc = what == CONCAT ? c + 5 : c;
            struct tensor want = tensor_make(DT_F32, 2, 6, 10, yc, yc + 4, 20);
            walk(reference, (enum walk)what, DT_F32, &want, c);
            for (int k = 0; k <= TEAMS; k++) {
                enum dtype dt = k < TEAMS ? DT_F32 : DT_BF16;
                struct tensor got = tensor_make(dt, 2, 6, 10, yc, yc + 4, 20);
                walk(k < TEAMS ? cpu[k] : half, (enum walk)what, dt, &got, c);
                expect_near(names[what], k + 1, &got, &want, dt == DT_BF16 ? 5e-3 : 2e-7);
                free(got.data);
            }
            free(want.data);
        }
}

static void casts_round_as_proto_does(void **state)
{
    (void)state;
    struct tensor x = tensor_make(DT_F32, 1, 1, 1, 37, 37, 1),
                  y = tensor_make(DT_BF16, 1, 1, 1, 37, 37, 2);
    float *v = x.data;
    for (int i = 0; i < 37; i++)
        v[i] *= 1.0f + (float)i / 1024;
    v[0] = NAN;
    v[1] = INFINITY;
    v[2] = 1.00390625f; /* a tie: to even */
    v[36] = NAN;
    EXPECT_OK(half->ops->cast(half, &x, &y, &err));
    for (int i = 0; i < 37; i++)
        if (isnan(v[i]))
            assert_true(isnan(value(&y, (size_t)i)));
        else
            assert_int_equal(((uint16_t *)y.data)[i], bf16_of_f32(v[i]));
    free(x.data);
    free(y.data);
}

/* ---- embeddings ---- */

static void embeddings(struct backend *b, struct tensor out[5], uint32_t c)
{
    struct tensor x = tensor_make(DT_F32, 3, 1, 1, c, c, 1),
                  e = tensor_make(DT_F32, 3, 1, 1, c, c, 2);
    struct tensor w = tensor_make(DT_F32, 1, 1, 1, c * 2 * c, c * 2 * c, 3);
    float t[3] = { 0, 17, 999 };
    uint32_t labels[3] = { 2, 0, 1 };
    for (size_t i = 0; i < 3 * (size_t)c; i++)
        ((float *)x.data)[i] *= 60; /* SiLU's whole range */
    struct linear_plan *p = NULL;
    EXPECT_OK(b->ops->linear_plan(b, c, 2 * c, w.data, e.data, &p, &err));
    EXPECT_OK(b->ops->linear(b, p, &x, &out[0], &err));
    b->ops->linear_plan_free(b, p);
    EXPECT_OK(b->ops->timestep(b, t, &out[1], &err));
    EXPECT_OK(b->ops->label(b, w.data, labels, &out[2], &err));
    EXPECT_OK(b->ops->silu(b, &x, &out[3], &err));
    EXPECT_OK(b->ops->add(b, &x, &e, &out[4], &err));
    free(x.data);
    free(e.data);
    free(w.data);
}

static void embeddings_agree(void **state)
{
    (void)state;
    static const char *const names[] = { "linear", "timestep", "label", "silu", "add" };
    for (uint32_t c = 2; c < 80; c += 26)
        for (int k = 0; k < TEAMS; k++) {
            struct tensor got[5], want[5];
            for (uint64_t i = 0; i < 5; i++) {
                uint32_t wide = i == 0 ? 2 * c : c;
                got[i] = tensor_make(DT_F32, 3, 1, 1, wide, wide, i);
                want[i] = tensor_make(DT_F32, 3, 1, 1, wide, wide, i);
            }
            embeddings(cpu[k], got, c);
            embeddings(reference, want, c);
            for (int i = 0; i < 5; i++) {
                expect_near(names[i], k + 1, &got[i], &want[i], 2e-6);
                free(got[i].data);
                free(want[i].data);
            }
        }
}

/* ---- the sampler ---- */

static void normals_agree_within_2e_6_wherever_they_begin(void **state)
{
    (void)state;
    static const struct {
        uint32_t x0, y0, w, h, channels, stream, sample;
    } places[] = { { 0, 0, 64, 16, 3, 0, 0 },
                   { 5, 1000, 131, 7, 1, 2, 9 },
                   { 3, 2, 1, 1, 4, 1, 0 },
                   { 1u << 17, 1u << 17, 600, 500, 3, 3, 65535 } };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct normals_args a = { .seed = 0x123456789abcdef0u + i,
                                  .stream = places[i].stream,
                                  .sample = places[i].sample,
                                  .x0 = places[i].x0,
                                  .y0 = places[i].y0,
                                  .w = places[i].w,
                                  .h = places[i].h,
                                  .channels = places[i].channels };
        size_t count = (size_t)a.w * a.h * a.channels;
        float *want = malloc(count * sizeof *want), *got = malloc(count * sizeof *got);
        assert_non_null(want);
        assert_non_null(got);
        a.dst = want;
        EXPECT_OK(reference->ops->normals(reference, &a, &err));
        for (int k = 0; k < TEAMS; k++) {
            a.dst = got;
            EXPECT_OK(cpu[k]->ops->normals(cpu[k], &a, &err));
            for (size_t j = 0; j < count; j++)
                assert_true(fabsf(got[j] - want[j]) <= 2e-6f);
        }
        free(want);
        free(got);
    }
}

static void the_sampler_agrees_and_lets_no_nan_vanish(void **state)
{
    (void)state;
    for (int k = 0; k < TEAMS; k++) {
        struct tensor x = tensor_make(DT_F32, 2, 5, 7, 3, 3, 1),
                      e = tensor_make(DT_F32, 2, 5, 7, 3, 6, 2);
        struct tensor got = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3),
                      want = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3);
        EXPECT_OK(cpu[k]->ops->sampler_in(cpu[k], x.data, e.data, 0.3f, got.data, 210, &err));
        EXPECT_OK(
            reference->ops->sampler_in(reference, x.data, e.data, 0.3f, want.data, 210, &err));
        expect_near("sampler_in", k + 1, &got, &want, 2e-7);
        EXPECT_OK(cpu[k]->ops->sampler_out(cpu[k], &x, &e, 11.0f, &got, &err));
        EXPECT_OK(reference->ops->sampler_out(reference, &x, &e, 11.0f, &want, &err));
        expect_near("sampler_out", k + 1, &got, &want, 2e-6);
        ((float *)e.data)[6 * 10 + 1] = NAN;
        EXPECT_OK(cpu[k]->ops->sampler_out(cpu[k], &x, &e, 11.0f, &x, &err));
        assert_true(isnan(((float *)x.data)[31]));
        assert_false(isnan(((float *)x.data)[32]));
        free(x.data);
        free(e.data);
        free(got.data);
        free(want.data);
    }
}

static void an_unknown_instruction_set_is_refused(void **state)
{
    (void)state;
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
        cmocka_unit_test(attention_agrees),
        cmocka_unit_test(walks_over_a_picture_agree),
        cmocka_unit_test(casts_round_as_proto_does),
        cmocka_unit_test(embeddings_agree),
        cmocka_unit_test(normals_agree_within_2e_6_wherever_they_begin),
        cmocka_unit_test(the_sampler_agrees_and_lets_no_nan_vanish),
        cmocka_unit_test(an_unknown_instruction_set_is_refused),
    };
    unsetenv("DAVID_CPU_EMULATE_BF16");
    if (reference_backend_open(&reference, &err)) return 1;
    for (int k = 0; k < TEAMS; k++)
        if (cpu_backend_open(&cpu[k], k + 1, &err)) {
            fprintf(stderr, "skipped: %s\n", err.detail);
            return err.status == ST_UNSUPPORTED ? 77 : 1;
        }
    setenv("DAVID_CPU_EMULATE_BF16", "1", 1);
    if (cpu_backend_open(&half, 2, &err)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    half->ops->close(half);
    for (int k = 0; k < TEAMS; k++)
        cpu[k]->ops->close(cpu[k]);
    reference->ops->close(reference);
    return failed;
}
