/* The diffusion constants, the operators and the sampler against golden/ (engine/README.md section 7), the sampler on a back end
 * (back_end.h says which) in each of its dtypes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/restoration.h"
#include "engine/davi/schedule.h"
#include "tests/engine/back_end.h"

static struct safetensors *open_golden(const char *file)
{
    const char *folder = getenv("DAVID_GOLDEN");
    char path[1024];
    struct error err = { 0 };
    struct safetensors *st = NULL;
    snprintf(path, sizeof path, "%s/%s.safetensors", folder ? folder : DAVID_GOLDEN_DEFAULT, file);
    if (safetensors_open(&st, path, &err)) fail_msg("%s: %s", path, err.detail);
    return st;
}

static const struct st_tensor *need(const struct safetensors *st, const char *name)
{
    const struct st_tensor *t = safetensors_find(st, name);
    if (!t) fail_msg("golden file lacks %s", name);
    return t;
}

/* The tensor as F32, image `i` of [n][c][h][w] (or all of it) turned to [h][w][c]. */
static float *image_of(const struct st_tensor *t, size_t i, struct extent *size)
{
    size_t c = t->dims == 4 ? t->shape[1] : 1, h = t->shape[t->dims - 2], w = t->shape[t->dims - 1];
    float *all = malloc(t->count * sizeof *all), *hwc = malloc(c * h * w * sizeof *hwc);
    dtype_to_f32(all, t->data, t->dtype, t->count);
    for (size_t k = 0; k < c; k++)
        for (size_t p = 0; p < h * w; p++)
            hwc[p * c + k] = all[(i * c + k) * h * w + p];
    free(all);
    if (size) *size = (struct extent){ (uint32_t)w, (uint32_t)h, (uint32_t)c };
    return hwc;
}

static void report(const char *name, double worst, double tolerance)
{
    print_message("%-28s worst relative error %.2e, tolerance %.0e\n", name, worst, tolerance);
    if (!(worst <= tolerance)) fail_msg("%s is off", name);
}

/* Against the largest value there is: an error of the whole, not of its zeros. */
static double worst_of(const float *got, const float *want, size_t n)
{
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        scale = fmax(scale, fabs((double)want[i]));
        if (!isfinite(got[i])) return INFINITY;
    }
    return worst / scale;
}

static double rms_of(const float *got, const float *want, size_t n)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += pow((double)got[i] - want[i], 2);
        all += pow(want[i], 2);
    }
    return sqrt(off / all);
}

static void the_schedule_is_the_published_one(void **state)
{
    (void)state;
    struct schedule *s = malloc(sizeof *s);
    schedule_init(s, SCHEDULE_DAVI);
    const struct {
        const char *name;
        const double *got;
    } all[] = { { "betas", s->beta },      { "alphas_cumprod", s->alpha_bar },
                { "snr", s->snr },         { "std_fwd", s->std_fwd },
                { "std_bwd", s->std_bwd }, { "std_sb", s->std_sb },
                { "mu_x0", s->mu_x0 },     { "mu_x1", s->mu_x1 } };
    struct safetensors *st = open_golden("schedule");
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        const struct st_tensor *t = need(st, all[k].name);
        double worst = 0;
        assert_int_equal(t->dtype, DT_F64);
        assert_int_equal(t->count, SCHEDULE_STEPS);
        for (int i = 0; i < SCHEDULE_STEPS; i++) {
            double want;
            memcpy(&want, (const char *)t->data + 8 * i, 8);
            worst = fmax(worst, fabs(all[k].got[i] - want) / fmax(fabs(want), 1e-300));
        }
        report(all[k].name, worst, 1e-11);
    }
    struct sampler_constants c = sampler_constants_of(SCHEDULE_DAVI);
    assert_true(fabs(c.noise_gain - (1 - s->alpha_bar[SCHEDULE_LAST])) < 1e-12);
    assert_true(fabs(c.eps_gain - s->std_fwd[SCHEDULE_LAST]) < 1e-12);
    safetensors_close(st);
    free(s);
}

static void the_operators_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum operator_kind op;
        char what; /* A, T(ranspose), + */
        const char *from;
    } all[] = {
        { "gaussian.y", OPERATOR_BLUR, 'A', "x" },
        { "gaussian.At_y", OPERATOR_BLUR, 'T', "gaussian.y" },
        { "sr4.y", OPERATOR_POOL4, 'A', "x" },
        { "sr4.At_y", OPERATOR_POOL4, 'T', "sr4.y" },
        { "sr4.pinv_y", OPERATOR_POOL4, '+', "sr4.y" },
        { "colorize.y", OPERATOR_GRAY, 'A', "x" },
        { "colorize.At_y", OPERATOR_GRAY, 'T', "colorize.y" },
        { "inpaint.y", OPERATOR_MASK, 'A', "x" },
    };
    struct safetensors *st = open_golden("operators");
    const struct st_tensor *k = need(st, "gaussian.kernel");
    float kernel[BLUR_TAPS], taps[BLUR_TAPS];
    struct extent x;
    assert_int_equal(k->count, BLUR_TAPS);
    dtype_to_f32(kernel, k->data, k->dtype, BLUR_TAPS);
    operator_of(OPERATOR_BLUR)->taps(task_table[TASK_DEBLUR].level, taps);
    report("gaussian.kernel", worst_of(taps, kernel, BLUR_TAPS), 1e-6);
    free(image_of(need(st, "x"), 0, &x));
    float *mask = image_of(need(st, "inpaint.mask"), 0, NULL);
    const size_t px = (size_t)x.w * x.h;
    uint8_t *observed_mask = malloc(px);
    for (size_t i = 0; i < px; i++)
        observed_mask[i] = mask[i] != 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        float *from = image_of(need(st, all[i].from), 0, NULL);
        struct extent size;
        float *want = image_of(need(st, all[i].name), 0, &size);
        float *got = calloc(px * x.c, sizeof *got);
        float *scratch = malloc(operator_scratch_floats(all[i].op, x) * sizeof *scratch);
        const struct operator_traits *o = operator_of(all[i].op);
        const struct operation a = { all[i].op, task_table[TASK_DEBLUR].level, x, observed_mask };
        if (all[i].what == 'A')
            assert_int_equal(operator_apply(&a, from, got, scratch, NULL), ST_OK);
        if (all[i].what == 'T') o->transpose(&a, from, got, scratch);
        if (all[i].what == '+') o->pinv(&a, from, got);
        report(all[i].name, worst_of(got, want, (size_t)size.w * size.h * size.c), 1e-5);
        free(from);
        free(want);
        free(got);
        free(scratch);
    }
    /* the network's input for sr4 */
    struct extent small;
    float *y = image_of(need(st, "sr4.y"), 0, &small),
          *want = image_of(need(st, "sr4.resized"), 0, NULL), *got = malloc(px * 3 * sizeof *got);
    const struct measurement m = { y, small.w, small.h, small.c };
    const struct restoration_setup s = {
        .task = &task_table[TASK_SR4], .samples = 1, .tile = x.w, .jobs_in_flight = 1, .y = &m
    };
    struct restoration *r = NULL;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_extract(r, 0, got, NULL), ST_OK);
    report("sr4.resized", worst_of(got, want, px * 3), 1e-5);
    restoration_free(r);
    free(y);
    free(want);
    free(got);
    free(mask);
    free(observed_mask);
    safetensors_close(st);
}

/* z of the golden files: hash values over [rows][3][side][side], row i as [side][side][3]. */
static float *golden_z(uint64_t seed, uint32_t rows, uint32_t side, uint32_t i)
{
    const size_t px = (size_t)side * side;
    float *all = malloc(rows * 3 * px * sizeof *all), *z = malloc(3 * px * sizeof *z);
    hash_values("restore.z", seed, all, rows * 3 * px);
    for (size_t c = 0; c < 3; c++)
        for (size_t p = 0; p < px; p++)
            z[p * 3 + c] = all[(i * 3 + c) * px + p];
    free(all);
    return z;
}

static const struct dtype_case {
    const char *name;
    double (*distance)(const float *got, const float *want, size_t n);
    double tolerance;
} dtypes[] = {
    { "f32", worst_of, 1e-4 },
    /* The sampler multiplies the network's rounding by some ten: single pixels say little. */
    { "bf16", rms_of, 2e-2 },
    { "f16", rms_of, 5e-3 }
};

static void restorations_in(const struct dtype_case *t)
{
    static const struct {
        const char *y, *x0;
        enum task_id task;
        bool no_noise;
    } all[] = { { "sr4.y", "sr4.x0", TASK_SR4, false },
                { "gaussian.y", "gaussian.x0", TASK_DEBLUR, false },
                { "colorize.y", "colorize.x0", TASK_COLORIZE, false },
                { "inpaint.y", "inpaint.x0", TASK_INPAINT, false },
                { "denoise.y", "denoise.x0", TASK_DENOISE, false },
                { "denoise.y", "denoise.x0.h0", TASK_DENOISE, true } };
    struct safetensors *st = open_golden("restore");
    struct safetensors *unet = open_golden(safetensors_metadata(st, "unet"));
    const uint64_t seed = strtoull(safetensors_metadata(st, "seed"), NULL, 10);
    const double h = strtod(safetensors_metadata(st, "h"), NULL);
    struct model_info info = { 0 };
    struct error err = { 0 };
    struct model *m = NULL;
    assert_int_equal(model_info_read(&info, unet, &err), ST_OK);
    const struct engine_options o = { .dtype = t->name, .max_batch = 2 };
    struct engine *e = test_engine_open(&o, &err);
    if (!e && t != dtypes && err.status == ST_UNSUPPORTED) {
        print_message("%s: left out: %s\n", t->name, err.detail);
        model_info_done(&info);
        safetensors_close(unet);
        safetensors_close(st);
        return;
    }
    if (!e) fail_msg("%s", err.detail);
    if (model_hash(&m, e, &info.arch, seed, &err)) fail_msg("%s", err.detail);
    const uint32_t side = info.arch.image_size;
    float *mask_values = image_of(need(st, "mask"), 0, NULL);
    struct image mask = { 0 };
    assert_int_equal(image_init(&mask, side, side, 1, 8, NULL), ST_OK);
    for (size_t i = 0; i < (size_t)side * side; i++)
        ((uint8_t *)mask.pixels)[i] = mask_values[i] != 0 ? 0 : 255;

    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        const uint32_t rows = (uint32_t)need(st, all[k].x0)->shape[0];
        double worst = 0;
        for (uint32_t i = 0; i < rows; i++) {
            struct extent size;
            float *y = image_of(need(st, all[k].y), i, &size);
            float *want = image_of(need(st, all[k].x0), i, NULL);
            float *z = golden_z(seed, rows, side, i);
            const struct measurement me = { y, size.w, size.h, size.c };
            const struct restore_params p = { .task = task_table[all[k].task].name,
                                              .h = all[k].no_noise ? 0 : h,
                                              .samples = 1 };
            struct restoration *r = NULL;
            if (restoration_of_measurement(&r, m, &p, &me,
                                           all[k].task == TASK_INPAINT ? &mask : NULL, &err))
                fail_msg("%s", err.detail);
            assert_int_equal(restoration_tile_jobs(r), 1);
            assert_int_equal(restoration_extract(r, 0, sampler_row(&m->sampler, 0), NULL), ST_OK);
            sampler_choose(&m->sampler, 0, r->s.h, r->s.condition);
            assert_int_equal(sampler_give(&m->sampler, 0, z, &err), ST_OK);
            assert_int_equal(sampler_run(&m->sampler, 1, &err), ST_OK);
            const float *got = sampler_row(&m->sampler, 0);
            const size_t count = (size_t)3 * side * side;
            worst = fmax(worst, t->distance(got, want, count));
            restoration_free(r);
            free(y);
            free(want);
            free(z);
        }
        char name[64];
        snprintf(name, sizeof name, "%s %s", all[k].x0, t->name);
        report(name, worst, t->tolerance);
    }
    free(mask_values);
    image_done(&mask);
    model_free(m);
    engine_close(e);
    model_info_done(&info);
    safetensors_close(unet);
    safetensors_close(st);
}

static void one_step_restoration_matches_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        restorations_in(&dtypes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_schedule_is_the_published_one),
        cmocka_unit_test(the_operators_are_the_published_ones),
        cmocka_unit_test(one_step_restoration_matches_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
