/* A convolution with a prologue against the same steps one by one in double: norm (+ scale and shift) (+ SiLU), resampling,
 * convolution, residual; moments of x given or found, of one image or of two joined; moments of y. Shapes reach every way a
 * tile_buffer is cut (whole, a ring of lines, blocks, ragged rows, a full and a narrow panel); 1, 2 and 3 threads give the same
 * bytes, and so does a row alone. DAVID_CPU_ISA picks the instruction set; one without a prologue is skipped (77). */
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

enum { TEAMS = 3, GROUPS = 8, CONDITIONS = 2 };
#define EPS 1e-5f

static struct error err;
static struct backend *reference, *cpu[TEAMS];

static const struct prologue_case {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel; /* h, w: of the image that is convolved */
    enum resample resample;
    bool silu, scale_shift, residual, known, joined, moments;
    uint32_t x_more, y_more;
    float mean;
} cases[] = {
    { "ring", 1, 64, 48, 64, 64, 3, RESAMPLE_NONE, true, false, false, false, false, true, 0, 0,
      0 },
    { "ring, everything", 3, 40, 32, 96, 64, 3, RESAMPLE_NONE, true, true, true, true, true, true,
      32, 64, 1 },
    { "ring, up", 1, 48, 64, 64, 32, 3, RESAMPLE_UP, true, false, false, true, false, true, 0, 32,
      0 },
    { "ring, down", 2, 40, 64, 32, 64, 3, RESAMPLE_DOWN, true, true, true, true, false, false, 16,
      0, 0 },
    { "ring, narrow panel", 1, 40, 64, 64, 3, 3, RESAMPLE_NONE, true, false, false, true, false,
      true, 0, 0, 0 },
    { "ring, channels not whole tiles", 1, 64, 32, 40, 72, 3, RESAMPLE_NONE, true, false, true,
      false, false, true, 0, 8, 0 },
    { "ring, one row more than threads", 1, 4, 512, 64, 32, 3, RESAMPLE_NONE, false, false, false,
      true, false, true, 0, 0, 0 },
    { "whole", 2, 16, 16, 128, 128, 3, RESAMPLE_NONE, true, true, true, true, true, true, 0, 0,
      -2 },
    { "whole, up", 1, 16, 16, 128, 160, 3, RESAMPLE_UP, true, false, false, true, false, true, 0, 0,
      0 },
    { "whole, down", 1, 16, 16, 128, 128, 3, RESAMPLE_DOWN, true, false, true, true, false, true, 0,
      0, 0 },
    { "whole, ragged", 2, 8, 8, 128, 128, 3, RESAMPLE_NONE, true, false, true, true, false, true, 0,
      0, 0 },
    { "whole, ragged and up", 1, 12, 20, 128, 96, 3, RESAMPLE_UP, true, true, false, true, false,
      true, 0, 0, 0 },
    { "blocks", 1, 48, 48, 512, 160, 3, RESAMPLE_NONE, true, false, true, true, false, true, 0, 0,
      0 },
    { "blocks, up", 1, 48, 48, 512, 160, 3, RESAMPLE_UP, true, false, false, true, false, true, 0,
      0, 0 },
    { "blocks, ragged", 1, 70, 37, 40, 40, 3, RESAMPLE_NONE, true, true, true, true, false, true, 0,
      0, 0 },
    { "blocks, ragged and up", 1, 70, 38, 40, 40, 3, RESAMPLE_UP, true, false, false, true, false,
      true, 0, 0, 0 },
    { "1x1", 2, 16, 16, 64, 192, 1, RESAMPLE_NONE, false, false, false, true, false, true, 0, 0,
      0 },
    { "1x1, odd", 1, 31, 33, 64, 48, 1, RESAMPLE_NONE, false, true, true, false, false, true, 8, 8,
      0 },
    { "1x1, no norm", 1, 48, 48, 64, 64, 1, RESAMPLE_NONE, false, false, true, true, false, true, 0,
      0, 0 },
    { "3x3, three channels, no norm", 1, 40, 48, 3, 64, 3, RESAMPLE_NONE, false, false, false, true,
      false, true, 0, 0, 0 },
};

static bool has_norm(const struct prologue_case *t)
{
    return t->ic >= GROUPS && !strstr(t->name, "no norm");
}

static float noise(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static struct tensor tensor_make(enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c,
                                 size_t ld, uint64_t seed, float mean)
{
    struct tensor x = { .dtype = t, .n = n, .h = h, .w = w, .c = c, .ld = ld };
    size_t count = (size_t)n * h * w * ld;
    x.data = malloc(count * dtype_size(t));
    assert_non_null(x.data);
    for (size_t i = 0; i < count;
         i++) { /* exact in BF16, so that both dtypes see the same numbers */
        float v = f32_of_bf16(bf16_of_f32(mean + noise(seed * 1000003 + i)));
        dtype_from_f32((char *)x.data + i * dtype_size(t), t, &v, 1);
    }
    return x;
}

static float *numbers(size_t count, uint64_t seed, float mean, float spread)
{
    float *v = malloc(count * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < count; i++)
        v[i] = f32_of_bf16(bf16_of_f32(mean + spread * noise(seed * 7919 + i)));
    return v;
}

static float value(const struct tensor *x, size_t pixel, size_t c)
{
    float v;
    dtype_to_f32(&v, (const char *)x->data + (pixel * x->ld + c) * dtype_size(x->dtype), x->dtype,
                 1);
    return v;
}

static size_t bytes_of(const struct tensor *x)
{
    return (size_t)x->n * x->h * x->w * x->ld * dtype_size(x->dtype);
}

/* Sums of x, [n][2][c], in double. */
static double *sums_of(const struct tensor *x)
{
    double *m = calloc((size_t)2 * x->n * x->c, sizeof *m);
    assert_non_null(m);
    size_t pixels = (size_t)x->h * x->w;
    for (size_t i = 0; i < pixels * x->n; i++)
        for (size_t c = 0; c < x->c; c++) {
            double v = (double)value(x, i, c);
            double *to = m + i / pixels * 2 * x->c + c;
            to[0] += v;
            to[x->c] += v * v;
        }
    return m;
}

struct inputs {
    struct tensor x, residual, scale_shift;
    float *weight, *bias, *gamma, *beta;
    uint32_t condition[8], bias_condition[8];
};

static struct conv_desc desc_of(const struct prologue_case *t, enum dtype dt)
{
    struct conv_desc d = { .h = t->h,
                           .w = t->w,
                           .ic = t->ic,
                           .oc = t->oc,
                           .kernel = t->kernel,
                           .stride = 1,
                           .conditions = CONDITIONS,
                           .dtype = dt,
                           .x_ld = t->ic + t->x_more,
                           .y_ld = t->oc + t->y_more,
                           .r_ld = t->residual ? t->oc + 5 : 0 };
    if (has_norm(t))
        d.prologue = (struct prologue_desc){
            .norm = true, .silu = t->silu, .groups = GROUPS, .eps = EPS, .resample = t->resample
        };
    return d;
}

static struct inputs inputs_make(const struct prologue_case *t, enum dtype dt)
{
    uint32_t h = t->h, w = t->w;
    if (t->resample == RESAMPLE_UP) {
        h /= 2;
        w /= 2;
    } else if (t->resample == RESAMPLE_DOWN) {
        h *= 2;
        w *= 2;
    }
    size_t taps = (size_t)t->kernel * t->kernel;
    struct inputs in = { .x = tensor_make(dt, t->n, h, w, t->ic, t->ic + t->x_more, 3, t->mean) };
    in.residual = tensor_make(dt, t->n, t->h, t->w, t->oc, t->oc + 5, 5, 0);
    in.scale_shift = tensor_make(DT_F32, t->n, 1, 1, 2 * t->ic, 2 * t->ic, 6, 0);
    in.weight = numbers(taps * t->ic * t->oc, 1, 0, 0.25f);
    in.bias = numbers((size_t)CONDITIONS * t->oc, 2, 0, 1);
    in.gamma = numbers((size_t)CONDITIONS * t->ic, 7, 1, 0.5f);
    in.beta = numbers((size_t)CONDITIONS * t->ic, 8, 0, 0.5f);
    for (uint32_t n = 0; n < 8; n++) {
        in.condition[n] = n % CONDITIONS;
        in.bias_condition[n] = (n + 1) % CONDITIONS;
    }
    return in;
}

static void inputs_free(struct inputs *in)
{
    free(in->x.data);
    free(in->residual.data);
    free(in->scale_shift.data);
    free(in->weight);
    free(in->bias);
    free(in->gamma);
    free(in->beta);
}

/* The steps one by one, each in double. */
static struct tensor wanted(const struct prologue_case *t)
{
    struct inputs in = inputs_make(t, DT_F32);
    struct tensor x = in.x, small = { 0 };
    const struct backend_ops *ops = reference->ops;
    if (has_norm(t)) {
        struct group_norm_args a = { .x = x,
                                     .y = x,
                                     .groups = GROUPS,
                                     .eps = EPS,
                                     .gamma = in.gamma,
                                     .beta = in.beta,
                                     .condition = in.condition,
                                     .scale_shift = t->scale_shift ? &in.scale_shift : NULL,
                                     .silu = t->silu };
        EXPECT_OK(ops->net.group_norm(reference, &a, &err));
    }
    if (t->resample != RESAMPLE_NONE) {
        small = tensor_make(DT_F32, t->n, t->h, t->w, t->ic, t->ic, 9, 0);
        EXPECT_OK(t->resample == RESAMPLE_UP ? ops->net.upsample(reference, &x, &small, &err)
                                             : ops->net.downsample(reference, &x, &small, &err));
        x = small;
    }
    struct conv_desc d = desc_of(t, DT_F32);
    d.prologue = (struct prologue_desc){ 0 };
    d.x_ld = x.ld;
    struct tensor y = tensor_make(DT_F32, t->n, t->h, t->w, t->oc, d.y_ld, 4, 0);
    struct conv_plan *p = NULL;
    EXPECT_OK(ops->net.conv_plan(reference, &d, in.weight, in.bias, &p, &err));
    EXPECT_OK(ops->net.conv(reference, p, &x, t->residual ? &in.residual : NULL, &y,
                            in.bias_condition, &err));
    ops->net.conv_plan_free(reference, p);
    free(small.data);
    inputs_free(&in);
    return y;
}

/* Row `row` alone, or all of them (row < 0), on one team. moments: [n][2][oc]. */
static struct tensor prologue_value(struct backend *b, const struct prologue_case *t, int row,
                                    double *moments)
{
    struct inputs in = inputs_make(t, DT_BF16);
    struct conv_desc d = desc_of(t, DT_BF16);
    struct tensor y = tensor_make(DT_BF16, t->n, t->h, t->w, t->oc, d.y_ld, 4, 0), all = y;
    uint32_t first = row < 0 ? 0 : (uint32_t)row, split = t->joined ? t->ic / 3 : t->ic;
    double *sums = sums_of(&in.x), *rest = NULL;
    struct prologue_args prologue = {
        .gamma = in.gamma, .beta = in.beta, .condition = in.condition + first, .split = split
    };
    if (t->scale_shift) {
        in.scale_shift.data = (float *)in.scale_shift.data + (size_t)first * 2 * t->ic;
        prologue.scale_shift = &in.scale_shift;
    }
    if (t->known) {
        prologue.in[0] = (struct moments){ sums + (size_t)first * 2 * t->ic, t->ic };
        if (t->joined) { /* memory of its own, and another distance between its parts */
            size_t width = t->ic - split;
            rest = calloc((size_t)t->n * 2 * (width + 3), sizeof *rest);
            assert_non_null(rest);
            for (size_t n = 0; n < (size_t)2 * t->n; n++)
                memcpy(rest + n * (width + 3), sums + n * t->ic + split, width * sizeof *rest);
            prologue.in[1] = (struct moments){ rest + (size_t)first * 2 * (width + 3), width + 3 };
            for (size_t n = 0; n < (size_t)2 * t->n; n++)
                memset(sums + n * t->ic + split, 0, width * sizeof *sums);
        }
    }
    if (t->moments) prologue.out = (struct moments){ moments + (size_t)first * 2 * t->oc, t->oc };
    if (row >= 0) {
        struct tensor *rows[] = { &in.x, &in.residual, &y };
        for (size_t i = 0; i < 3; i++) {
            struct tensor one = *rows[i];
            one.data = (char *)one.data + bytes_of(&one) / one.n * first;
            one.n = 1;
            if (i == 2)
                y = one;
            else if (i == 1)
                in.residual.n = 1, memmove(in.residual.data, one.data, bytes_of(&one));
            else
                in.x.n = 1, memmove(in.x.data, one.data, bytes_of(&one));
        }
        in.scale_shift.n = 1;
    }
    struct conv_plan *p = NULL;
    EXPECT_OK(b->ops->net.conv_plan(b, &d, in.weight, in.bias, &p, &err));
    EXPECT_OK(b->ops->net.conv_with_prologue(b, p, &in.x, &prologue,
                                             t->residual ? &in.residual : NULL, &y,
                                             in.bias_condition + first, &err));
    b->ops->net.conv_plan_free(b, p);
    if (t->scale_shift)
        in.scale_shift.data = (float *)in.scale_shift.data - (size_t)first * 2 * t->ic;
    free(sums);
    free(rest);
    inputs_free(&in);
    return all;
}

static void expect_near(const struct prologue_case *t, const struct tensor *got,
                        const struct tensor *want)
{
    double worst = 0, most = 0;
    for (size_t i = 0; i < (size_t)got->n * got->h * got->w; i++)
        for (size_t c = 0; c < got->ld; c++) {
            double x = (double)value(got, i, c), y = (double)value(want, i, c);
            if (c >= got->c) {
                assert_true(x == y); /* what lies between the pixels is not touched */
                continue;
            }
            assert_true(isfinite(x));
            worst = fmax(worst, fabs(x - y));
            most = fmax(most, fabs(y));
        }
    if (worst > 5e-3 * most)
        fail_msg("%s: relative difference %.3g, tolerance 5e-3", t->name, worst / most);
}

/* Against the sums of y itself, whose rounding to BF16 the moments do not share. */
static void expect_moments(const struct prologue_case *t, const struct tensor *y,
                           const double *moments)
{
    double *want = sums_of(y);
    double pixels = (double)y->h * y->w;
    for (size_t i = 0; i < (size_t)2 * y->n * y->c; i++) {
        double square = want[i / (2 * y->c) * 2 * y->c + y->c + i % y->c];
        double scale = i / y->c % 2 ? square : sqrt(square * pixels);
        if (!(fabs(moments[i] - want[i]) <= 2e-3 * scale))
            fail_msg("%s: moment %zu is %.6g, not %.6g", t->name, i, moments[i], want[i]);
    }
    free(want);
}

static void a_convolution_with_a_prologue_is_its_steps_one_by_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct prologue_case *t = &cases[i];
        size_t count = (size_t)2 * t->n * t->oc;
        double *moments = calloc(count, sizeof *moments), *others = calloc(count, sizeof *others);
        assert_true(moments && others);
        struct tensor want = wanted(t), got = prologue_value(cpu[0], t, -1, moments);
        expect_near(t, &got, &want);
        if (t->moments) expect_moments(t, &got, moments);
        for (int k = 1; k < TEAMS; k++) {
            struct tensor more = prologue_value(cpu[k], t, -1, others);
            if (memcmp(more.data, got.data, bytes_of(&got)) != 0)
                fail_msg("%s: %d threads give other bytes", t->name, k + 1);
            free(more.data);
        }
        for (uint32_t n = 0; n < t->n; n++) {
            struct tensor alone = prologue_value(cpu[1], t, (int)n, others);
            size_t row = bytes_of(&got) / t->n;
            if (memcmp((char *)alone.data + n * row, (char *)got.data + n * row, row) != 0)
                fail_msg("%s: row %u alone gives other bytes", t->name, n);
            free(alone.data);
        }
        free(want.data);
        free(got.data);
        free(moments);
        free(others);
    }
}

static void a_prologue_that_cannot_be_is_refused(void **state)
{
    (void)state;
    struct prologue_case t = cases[0];
    struct conv_desc d = desc_of(&t, DT_F32);
    struct conv_plan *p = NULL;
    float *weight = numbers((size_t)9 * t.ic * t.oc, 1, 0, 1);
    struct error e = { 0 };
    assert_false(cpu[0]->ops->net.supports_prologue(cpu[0], &d));
    assert_int_equal(cpu[0]->ops->net.conv_plan(cpu[0], &d, weight, NULL, &p, &e), ST_INTERNAL);
    d = desc_of(&t, DT_BF16);
    d.stride = 2;
    assert_false(cpu[0]->ops->net.supports_prologue(cpu[0], &d));
    d.stride = 1;
    d.kernel = 1;
    d.prologue.resample = RESAMPLE_UP;
    assert_false(cpu[0]->ops->net.supports_prologue(cpu[0], &d));
    assert_null(p);
    free(weight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_convolution_with_a_prologue_is_its_steps_one_by_one),
        cmocka_unit_test(a_prologue_that_cannot_be_is_refused),
    };
    if (reference_backend_open(&reference, &err)) return 1;
    for (int k = 0; k < TEAMS; k++)
        if (cpu_backend_open(&cpu[k], k + 1, &err)) {
            fprintf(stderr, "skipped: %s\n", err.detail);
            return err.status == ST_UNSUPPORTED ? 77 : 1;
        }
    if (!cpu[0]->ops->device.has_dtype(cpu[0], DT_BF16)) {
        fprintf(stderr, "skipped: %s has no BF16\n", cpu[0]->ops->device.isa(cpu[0]));
        return 77;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int k = 0; k < TEAMS; k++)
        cpu[k]->ops->device.close(cpu[k]);
    reference->ops->device.close(reference);
    return failed;
}
