/* The operators against plain loops in double, their transposes, and simulated measurements. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "engine/graph/pixels.h"
#include "tests/engine/restorations.h"

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

static const struct extent sizes[] = { { 8, 8, 3 }, { 61, 13, 3 }, { 9, 130, 3 }, { 67, 50, 3 } };
enum { SIZES = sizeof sizes / sizeof *sizes };

/* The levels that an operator is tried at: its range's ends and what lies between. */
static const double blur_levels[] = { 1, 2, 3, 4 }, no_level[] = { 0 };

static size_t levels_of(const struct task_desc *t, const double **levels)
{
    *levels = operator_of(t->op)->level ? blur_levels : no_level;
    return operator_of(t->op)->level ? sizeof blur_levels / sizeof *blur_levels : 1;
}

static uint8_t *observed_mask_of(struct extent x)
{
    uint8_t *observed_mask = malloc((size_t)x.w * x.h);
    for (size_t p = 0; p < (size_t)x.w * x.h; p++)
        observed_mask[p] = p % 3 != 0;
    return observed_mask;
}

/* ---- plain loops ---- */

static double pixel(const float *x, struct extent size, int64_t px, int64_t py, uint32_t c)
{
    if (px < 0 || py < 0 || px >= size.w || py >= size.h) return 0; /* zeros beyond the edge */
    return (double)x[((size_t)py * size.w + (size_t)px) * size.c + c];
}

static double gauss(int i, double std)
{
    return exp(-0.5 * i * i / (std * std));
}

static double blurred(const float *x, struct extent size, int64_t px, int64_t py, uint32_t c,
                      double std)
{
    double sum = 0, weights = 0;
    for (int j = -BLUR_REACH; j <= BLUR_REACH; j++)
        for (int i = -BLUR_REACH; i <= BLUR_REACH; i++) {
            const double w = gauss(i, std) * gauss(j, std);
            sum += w * pixel(x, size, px + i, py + j, c);
            weights += w;
        }
    return sum / weights;
}

static double pooled(const float *x, struct extent size, int64_t px, int64_t py, uint32_t c,
                     int side)
{
    double sum = 0;
    for (int j = 0; j < side; j++)
        for (int i = 0; i < side; i++)
            sum += pixel(x, size, side * px + i, side * py + j, c);
    return sum / (side * side);
}

/* (A x) at a pixel, by the operator's definition. */
static double expected(const struct operation *a, const float *x, uint32_t px, uint32_t py,
                       uint32_t c)
{
    switch (a->op) {
    case OPERATOR_BLUR: return blurred(x, a->x, px, py, c, a->level);
    case OPERATOR_POOL4: return pooled(x, a->x, px, py, c, 4);
    case OPERATOR_POOL2: return pooled(x, a->x, px, py, c, 2);
    case OPERATOR_MASK:
        return a->observed_mask[(size_t)py * a->x.w + px] ? pixel(x, a->x, px, py, c) : 0;
    case OPERATOR_GRAY:
        return 0.3333 * pixel(x, a->x, px, py, 0) + 0.3334 * pixel(x, a->x, px, py, 1) +
               0.3333 * pixel(x, a->x, px, py, 2);
    default: return pixel(x, a->x, px, py, c);
    }
}

static void expect_as_defined(const struct operation *a, const float *x, const float *ax,
                              const char *name)
{
    const struct extent m = operator_extent(a->op, a->x);
    for (uint32_t py = 0; py < m.h; py++)
        for (uint32_t px = 0; px < m.w; px++)
            for (uint32_t c = 0; c < m.c; c++) {
                const double want = expected(a, x, px, py, c),
                             got = (double)ax[((size_t)py * m.w + px) * m.c + c];
                if (!(fabs(got - want) < 1e-6))
                    fail_msg("%s, level %g: (%u, %u) channel %u is %.9g, not %.9g", name, a->level,
                             px, py, c, got, want);
            }
}

static void linear_operators_are_what_they_are_defined_to_be(void **state)
{
    (void)state;
    unsigned tried = 0;
    for (size_t i = 0; i < SIZES; i++)
        for (int t = 0; t < TASK_COUNT; t++) {
            const struct task_desc *task = &task_table[t];
            const double *levels;
            if (!operator_of(task->op)->transpose) continue;
            for (size_t l = 0, n = levels_of(task, &levels); l < n; l++) {
                const struct extent size = sizes[i];
                uint8_t *observed_mask = observed_mask_of(size);
                const struct operation a = { task->op, levels[l], size, observed_mask };
                const size_t values = (size_t)size.w * size.h * size.c;
                float *x = malloc(values * sizeof *x), *ax = malloc(values * sizeof *ax);
                float *scratch = malloc(operator_scratch_floats(a.op, size) * sizeof *scratch);
                fill_random(x, values, 1 + i);
                assert_int_equal(operator_apply(&a, x, ax, scratch, NULL), ST_OK);
                expect_as_defined(&a, x, ax, task->name);
                free(observed_mask);
                free(x);
                free(ax);
                free(scratch);
                tried++;
            }
        }
    assert_int_equal(tried, SIZES * (TASK_COUNT - 2 + 4)); /* all but dejpeg; four blurs */
}

/* ---- transposes ---- */

static void expect_adjoint(const struct operation *a, uint64_t seed, const char *name)
{
    const struct operator_traits *o = operator_of(a->op);
    const struct extent m = operator_extent(a->op, a->x);
    const size_t n = (size_t)a->x.w * a->x.h * a->x.c, n_y = (size_t)m.w * m.h * m.c;
    float *x = malloc(n * sizeof *x), *back = malloc(n * sizeof *back);
    float *ax = malloc(n * sizeof *ax), *y = malloc(n * sizeof *y),
          *again = malloc(n * sizeof *again);
    float *scratch = malloc(operator_scratch_floats(a->op, a->x) * sizeof *scratch);
    fill_random(x, n, 1 + seed);
    fill_random(y, n_y, 100 + seed);
    assert_int_equal(operator_apply(a, x, ax, scratch, NULL), ST_OK);
    o->transpose(a, y, back, scratch);
    double left = dot(ax, y, n_y), right = dot(x, back, n);
    if (!(fabs(left - right) < 1e-5 * sqrt(dot(ax, ax, n_y) * dot(y, y, n_y))))
        fail_msg("%s: <Ax, y> = %g, <x, A^T y> = %g", name, left, right);
    assert_int_equal(o->pinv == NULL, a->op == OPERATOR_BLUR);
    if (o->pinv) { /* A A^+ A = A */
        o->pinv(a, ax, back);
        assert_int_equal(operator_apply(a, back, again, scratch, NULL), ST_OK);
        for (size_t k = 0; k < n_y; k++)
            assert_true(fabsf(again[k] - ax[k]) < 1e-5f);
    }
    free(x);
    free(back);
    free(ax);
    free(y);
    free(again);
    free(scratch);
}

static void the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SIZES; i++)
        for (int t = 0; t < TASK_COUNT; t++) {
            const struct task_desc *task = &task_table[t];
            const struct operator_traits *o = operator_of(task->op);
            const double *levels;
            assert_int_equal(o->transpose == NULL, task->op == OPERATOR_JPEG);
            if (!o->transpose) {
                assert_null(o->pinv);
                assert_true(task->weight_con == 0); /* no consistency term in training */
                continue;
            }
            for (size_t l = 0, n = levels_of(task, &levels); l < n; l++) {
                uint8_t *observed_mask = observed_mask_of(sizes[i]);
                expect_adjoint(&(struct operation){ task->op, levels[l], sizes[i], observed_mask },
                               i, task->name);
                free(observed_mask);
            }
        }
}

/* ---- traits ---- */

/* A task's level is one that its operator can be of, and so are the ends of its range. */
static void the_tables_fit_one_another(void **state)
{
    (void)state;
    for (int t = 0; t < TASK_COUNT; t++) {
        const struct task_desc *task = &task_table[t];
        const struct operator_traits *o = operator_of(task->op);
        assert_ptr_equal(task_find(task->name), task);
        assert_int_equal(o->level != NULL, task->level > 0);
        assert_true(o->scale == 1 || o->scale == 2 || o->scale == 4);
        assert_int_equal(task_check_level(task, task->level, NULL), ST_OK);
        assert_int_equal(task_check_level(task, task->level_range[0], NULL), ST_OK);
        assert_int_equal(task_check_level(task, task->level_range[1], NULL), ST_OK);
        assert_true(task->level_range[0] <= task->level && task->level <= task->level_range[1]);
        assert_true(task->sigma_range[0] <= task->sigma && task->sigma <= task->sigma_range[1]);
        assert_int_equal(task_check_level(task, 1000, NULL), ST_BAD_PARAMETER);
        struct error err = { 0 };
        assert_int_equal(task_check_mask(task->name, &err), o->needs_mask ? ST_OK : ST_BAD_MASK);
        if (!o->needs_mask) assert_non_null(strstr(err.detail, "inpaint"));
    }
}

static void taps_sum_to_one_and_have_the_deviation_asked_for(void **state)
{
    (void)state;
    for (size_t l = 0; l < sizeof blur_levels / sizeof *blur_levels; l++) {
        float taps[BLUR_TAPS];
        double sum = 0, squares = 0;
        operator_of(OPERATOR_BLUR)->taps(blur_levels[l], taps);
        for (int i = -BLUR_REACH; i <= BLUR_REACH; i++) {
            sum += (double)taps[i + BLUR_REACH];
            squares += (double)taps[i + BLUR_REACH] * i * i;
        }
        assert_true(fabs(sum - 1) < 1e-6);
        assert_true(fabs(sqrt(squares) / blur_levels[l] - 1) < 1e-4);
    }
}

static void enlarging_has_half_pixel_centres_and_clamped_edges(void **state)
{
    (void)state;
    for (uint32_t scale = 2; scale <= 4; scale += 2)
        for (uint32_t n = 1; n < 6; n++)
            for (uint32_t at = 0; at < scale * n; at++) {
                uint32_t i0, i1;
                float w1;
                resize_at(scale, at, n, &i0, &i1, &w1);
                const double source = fmin(fmax((at + 0.5) / scale - 0.5, 0), n - 1);
                assert_true(i0 < n && i1 < n);
                assert_true(fabs((double)i0 * (1 - (double)w1) + (double)i1 * (double)w1 - source) <
                            1e-12);
            }
}

/* ---- measurements ---- */

static void a_measurement_is_a_x_plus_noise(void **state)
{
    (void)state;
    struct image img = image(64, 64, 3, 8, 1);
    for (int t = 0; t < TASK_COUNT; t++) {
        const struct task_desc *task = &task_table[t];
        const struct operator_traits *o = operator_of(task->op);
        struct image mask = { 0 };
        assert_int_equal(image_init(&mask, 64, 64, 1, 8, NULL), ST_OK);
        memset(mask.pixels, 255, 64 * 10);
        const struct image *hole = o->needs_mask ? &mask : NULL;
        struct measurement clean = { 0 }, noisy = { 0 };
        assert_int_equal(measurement_make(&clean, task->name, 0, 0, 5, &img, hole, NULL), ST_OK);
        assert_int_equal(measurement_make(&noisy, task->name, -1, 0, 5, &img, hole, NULL), ST_OK);
        const size_t n = (size_t)clean.width * clean.height * clean.channels;
        double sum2 = 0;
        for (size_t i = 0; i < n; i++)
            sum2 += pow((double)noisy.y[i] - clean.y[i], 2);
        const double noise = sqrt(sum2 / (double)n);
        assert_true(task->sigma > 0 ? fabs(noise / task->sigma - 1) < 0.08 : noise == 0);
        if (hole) assert_true(clean.y[0] == 0);
        assert_int_equal(clean.channels, o->is_gray ? 1 : 3);
        assert_int_equal(clean.width, 64 / o->scale);
        struct restoration_setup s = setup((enum task_id)t, 32, 8);
        struct restoration *r = NULL;
        s.y = &noisy;
        s.mask = hole;
        assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
        restoration_free(r);
        measurement_done(&clean);
        measurement_done(&noisy);
        image_done(&mask);
    }
    image_done(&img);
}

/* A level that is given is the operator's; one that it cannot have is refused by name. */
static void a_measurement_has_the_level_asked_for(void **state)
{
    (void)state;
    struct image img = image(40, 40, 3, 8, 1);
    struct measurement own = { 0 }, same = { 0 }, other = { 0 };
    struct error err = { 0 };
    assert_int_equal(measurement_make(&own, "deblur", 0, 0, 1, &img, NULL, NULL), ST_OK);
    assert_int_equal(measurement_make(&same, "deblur", 0, 3, 1, &img, NULL, NULL), ST_OK);
    assert_int_equal(measurement_make(&other, "deblur", 0, 1.5, 1, &img, NULL, NULL), ST_OK);
    const size_t bytes = (size_t)40 * 40 * 3 * sizeof(float);
    assert_memory_equal(own.y, same.y, bytes);
    assert_true(memcmp(own.y, other.y, bytes) != 0);
    measurement_done(&same);
    assert_int_equal(measurement_make(&same, "deblur", 0, 8, 1, &img, NULL, &err),
                     ST_BAD_PARAMETER);
    assert_non_null(strstr(err.detail, "level = 8 is not in 0.5..7.5"));
    err = (struct error){ 0 };
    assert_int_equal(measurement_make(&same, "sr2", 0, 8, 1, &img, NULL, &err), ST_BAD_PARAMETER);
    assert_non_null(strstr(err.detail, "sr2 has no level"));
    assert_null(same.y);
    measurement_done(&own);
    measurement_done(&other);
    image_done(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_operators_are_what_they_are_defined_to_be),
        cmocka_unit_test(the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts),
        cmocka_unit_test(the_tables_fit_one_another),
        cmocka_unit_test(taps_sum_to_one_and_have_the_deviation_asked_for),
        cmocka_unit_test(enlarging_has_half_pixel_centres_and_clamped_edges),
        cmocka_unit_test(a_measurement_is_a_x_plus_noise),
        cmocka_unit_test(a_measurement_has_the_level_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
