/* Regression and the energy score of the CPU: against plain loops in double, and their gradients
 * against finite differences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/graph/backend.h"
#include "engine/graph/backend/losses.h"
#include "engine/graph/philox.h"

enum { ROWS = 4, W = 16, H = 8, EACH = W * H * 3, COUNT = ROWS * EACH };

static struct backend *cpu;

struct images {
    float pred[COUNT], x[COUNT], d[COUNT];
    float scratch[5 * EACH];
};

/* Answers differ from the truth and from each other everywhere: no difference is near its kink. */
static struct images *make(void)
{
    struct images *p = calloc(1, sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < COUNT; i++) {
        float n[4];
        philox_normals4(n, 7, NOISE_TRAINING, 0, 0, (uint32_t)i, 0);
        p->pred[i] = 0.5f * n[0];
        p->x[i] = 0.5f * n[1];
    }
    for (size_t i = 0; i < COUNT / 2; i++) /* both rows of a pair have one truth */
        p->x[i / EACH * 2 * EACH + EACH + i % EACH] = p->x[i / EACH * 2 * EACH + i % EACH];
    return p;
}

/* The mean over s x s around pixel (x, y), channel c. */
static double mean_at(const float *v, int s, int x, int y, int c)
{
    double sum = 0;
    for (int i = 0; i < s * s; i++)
        sum += (double)v[((size_t)(y * s + i / s) * W + x * s + i % s) * 3 + c];
    return sum / (s * s);
}

static double plain_distance(const float *a, const float *b, int s, enum distance kind)
{
    double sum = 0;
    for (int y = 0; y < H / s; y++)
        for (int x = 0; x < W / s; x++) {
            double squares = 0;
            for (int c = 0; c < 3; c++) {
                double off = mean_at(a, s, x, y, c) - mean_at(b, s, x, y, c);
                squares += off * off;
                if (kind == DISTANCE_L1) sum += fabs(off) / 3;
            }
            if (kind == DISTANCE_NORM) sum += sqrt(squares);
        }
    return sum / (H / s * (W / s));
}

static const double weights[ENERGY_SCALES] = { 1, 0.5, 2, 0.25 };

static double plain_energy(const struct images *p, enum distance kind)
{
    double sum = 0;
    for (int pair = 0; pair < ROWS / 2; pair++)
        for (int k = 0; k < ENERGY_SCALES; k++) {
            const float *a = p->pred + (size_t)2 * pair * EACH, *b = a + EACH;
            const float *x = p->x + (size_t)2 * pair * EACH;
            int s = 1 << k;
            sum += weights[k] *
                   (0.5 * plain_distance(a, x, s, kind) + 0.5 * plain_distance(b, x, s, kind) -
                    0.5 * plain_distance(a, b, s, kind));
        }
    return sum / (ROWS / 2.0);
}

static double energy(struct images *p, enum distance kind, double weight)
{
    const struct energy_args a = { .kind = kind,
                                   .rows = ROWS,
                                   .w = W,
                                   .h = H,
                                   .pred = p->pred,
                                   .x = p->x,
                                   .weights = weights,
                                   .weight = weight,
                                   .d_pred = p->d,
                                   .scratch = p->scratch };
    double value = 0;
    assert_true(cpu->ops->losses->energy_scratch(W, H) <= sizeof p->scratch / sizeof *p->scratch);
    assert_int_equal(cpu->ops->losses->energy(cpu, &a, &value, NULL), ST_OK);
    return value;
}

static double regression(struct images *p, enum regression kind, double weight)
{
    const struct regression_args a = { kind, COUNT, p->pred, p->x, weight, p->d };
    double value = 0;
    assert_int_equal(cpu->ops->losses->regression(cpu, &a, &value, NULL), ST_OK);
    return value;
}

static void energy_is_that_of_plain_loops(void **state)
{
    (void)state;
    struct images *p = make();
    for (int kind = DISTANCE_L1; kind <= DISTANCE_NORM; kind++)
        assert_true(fabs(energy(p, (enum distance)kind, 1) - plain_energy(p, (enum distance)kind)) <
                    1e-6);
    free(p);
}

static void gradients_are_finite_differences(void **state)
{
    (void)state;
    const double step = 1e-4, weight = 3;
    struct images *p = make();
    for (int kind = DISTANCE_L1; kind <= DISTANCE_NORM; kind++) {
        memset(p->d, 0, sizeof p->d);
        energy(p, (enum distance)kind, weight);
        for (size_t i = 5; i < COUNT; i += 61) {
            const float was = p->pred[i];
            p->pred[i] = was + (float)step;
            const double up = plain_energy(p, (enum distance)kind);
            p->pred[i] = was - (float)step;
            const double down = plain_energy(p, (enum distance)kind);
            p->pred[i] = was;
            const double want = weight * (up - down) / (2 * step);
            assert_true(fabs((double)p->d[i] - want) < 2e-2 * weight * 8 / (W * H * 3.0));
        }
    }
    free(p);
}

static void regression_and_its_gradient(void **state)
{
    (void)state;
    struct images *p = make();
    double l1 = 0, l2 = 0;
    for (size_t i = 0; i < COUNT; i++) {
        const double off = (double)p->pred[i] - (double)p->x[i];
        l1 += fabs(off) / COUNT;
        l2 += off * off / COUNT;
    }
    assert_true(fabs(regression(p, REGRESSION_L1, 1) - l1) < 1e-6);
    for (size_t i = 0; i < COUNT; i += 37)
        assert_true(fabs((double)p->d[i] - (p->pred[i] > p->x[i] ? 1.0 : -1.0) / COUNT) < 1e-9);
    assert_true(fabs(regression(p, REGRESSION_L2, 2) - l2) < 1e-6);
    for (size_t i = 0; i < COUNT; i += 37) { /* added to what the first left */
        const double off = (double)p->pred[i] - (double)p->x[i];
        assert_true(fabs((double)p->d[i] - ((off > 0 ? 1 : -1) + 4 * off) / COUNT) < 1e-7);
    }
    free(p);
}

/* A strictly proper score: exact answers score 0, and two answers on either side of the truth score
 * less than two equal ones. */
static void energy_asks_for_spread(void **state)
{
    (void)state;
    struct images *p = make();
    memcpy(p->pred, p->x, sizeof p->pred);
    assert_true(energy(p, DISTANCE_L1, 1) == 0);
    for (size_t i = 0; i < COUNT; i++) /* both off by the same */
        p->pred[i] = p->x[i] + 0.1f;
    const double agreed = energy(p, DISTANCE_L1, 1);
    for (size_t i = 0; i < COUNT; i++) /* one off to each side */
        p->pred[i] = p->x[i] + (i / EACH % 2 ? 0.1f : -0.1f);
    assert_true(energy(p, DISTANCE_L1, 1) < 0.1 * agreed);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(energy_is_that_of_plain_loops),
        cmocka_unit_test(gradients_are_finite_differences),
        cmocka_unit_test(regression_and_its_gradient),
        cmocka_unit_test(energy_asks_for_spread),
    };
    if (cpu_backend_open(&cpu, 2, NULL)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cpu->ops->device.close(cpu);
    return failed;
}
