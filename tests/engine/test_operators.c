/* The measurement operators, their transposes, and simulated measurements. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/engine/restorations.h"

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

static void the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts(void **state)
{
    (void)state;
    static const struct extent sizes[] = {
        { 8, 8, 3 }, { 61, 13, 3 }, { 9, 130, 3 }, { 67, 50, 3 }
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct extent x_size = sizes[i];
        const size_t px = (size_t)x_size.w * x_size.h, n = px * x_size.c;
        float *x = malloc(n * sizeof *x), *back = malloc(n * sizeof *back);
        float *ax = malloc(n * sizeof *ax), *y = malloc(n * sizeof *y),
              *again = malloc(n * sizeof *again);
        uint8_t *kept = malloc(px);
        for (size_t p = 0; p < px; p++)
            kept[p] = p % 3 != 0;
        for (int t = 0; t < TASK_COUNT; t++) {
            const enum operator_kind op = task_table[t].op;
            const struct extent m = operator_extent(op, x_size);
            const size_t n_y = (size_t)m.w * m.h * m.c;
            float *scratch = malloc(operator_scratch_floats(op, x_size) * sizeof *scratch);
            fill_random(x, n, 1 + i);
            fill_random(y, n_y, 100 + i);
            operator_apply(op, x_size, kept, x, ax, scratch);
            operator_transpose(op, x_size, kept, y, back, scratch);
            double left = dot(ax, y, n_y), right = dot(x, back, n);
            if (!(fabs(left - right) < 1e-5 * sqrt(dot(ax, ax, n_y) * dot(y, y, n_y))))
                fail_msg("%s: <Ax, y> = %g, <x, A^T y> = %g", task_table[t].name, left, right);
            bool has_pinv = operator_pinv(op, x_size, kept, ax, back);
            assert_int_equal(has_pinv, op != OPERATOR_BLUR);
            if (has_pinv) { /* A A^+ A = A */
                operator_apply(op, x_size, kept, back, again, scratch);
                for (size_t k = 0; k < n_y; k++)
                    assert_true(fabsf(again[k] - ax[k]) < 1e-5f);
            }
            free(scratch);
        }
        free(x);
        free(back);
        free(ax);
        free(y);
        free(again);
        free(kept);
    }
}

static void a_measurement_is_a_x_plus_noise(void **state)
{
    (void)state;
    struct image img = picture(64, 64, 3, 8, 1);
    for (int t = 0; t < TASK_COUNT; t++) {
        const struct task_desc *task = &task_table[t];
        struct image mask = { 0 };
        assert_int_equal(image_init(&mask, 64, 64, 1, 8, NULL), ST_OK);
        memset(mask.pixels, 255, 64 * 10);
        const struct image *hole = task->op == OPERATOR_MASK ? &mask : NULL;
        struct measurement clean = { 0 }, noisy = { 0 };
        assert_int_equal(measurement_make(&clean, task->name, 0, 5, &img, hole, NULL), ST_OK);
        assert_int_equal(measurement_make(&noisy, task->name, -1, 5, &img, hole, NULL), ST_OK);
        const size_t n = (size_t)clean.width * clean.height * clean.channels;
        double sum2 = 0;
        for (size_t i = 0; i < n; i++)
            sum2 += pow((double)noisy.y[i] - clean.y[i], 2);
        assert_true(fabs(sqrt(sum2 / (double)n) / task->sigma - 1) < 0.08);
        if (hole) assert_true(clean.y[0] == 0);
        if (task->op == OPERATOR_GRAY) assert_int_equal(clean.channels, 1);
        if (task->op == OPERATOR_POOL4) assert_int_equal(clean.width, 16);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts),
        cmocka_unit_test(a_measurement_is_a_x_plus_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
