/* What constants are folded for: every sigma and level that a request can ask finds one that is near. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/davi/conditions.h"

static struct model_info info_of(bool sigma_cond, bool level_cond, bool class_cond)
{
    struct model_info info = { .n_tasks = 3 };
    info.arch.sigma_cond = sigma_cond;
    info.arch.level_cond = level_cond;
    info.arch.class_cond = class_cond;
    info.tasks[0] = (struct model_task){
        .name = "denoise", .sigma = 0.2, .sigma_range = { 0.02, 0.4 }, .label = class_cond ? 3 : -1
    };
    info.tasks[1] = (struct model_task){ .name = "deblur",
                                         .sigma = 0.05,
                                         .sigma_range = { 0.02, 0.2 },
                                         .level = 3,
                                         .level_range = { 1, 4 },
                                         .label = class_cond ? 0 : -1 };
    info.tasks[2] = (struct model_task){
        .name = "sr4", .sigma = 0.05, .sigma_range = { 0.05, 0.05 }, .label = class_cond ? 1 : -1
    };
    return info;
}

static struct condition found(const struct conditions *c, const struct model_info *info,
                              uint32_t task, double sigma, double level)
{
    const uint32_t i = conditions_find(c, info, task, sigma, level);
    assert_true(i < c->n);
    return c->all[i];
}

static void what_is_told_is_near_what_was_asked(void **state)
{
    (void)state;
    const struct model_info info = info_of(true, true, true);
    struct conditions c = { 0 };
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    for (uint32_t task = 0; task < info.n_tasks; task++) {
        const struct model_task *t = &info.tasks[task];
        for (int i = 0; i <= 200; i++)
            for (int k = 0; k <= 20; k++) {
                const double sigma =
                    t->sigma_range[0] + (t->sigma_range[1] - t->sigma_range[0]) * i / 200;
                const double level =
                    t->level_range[0] + (t->level_range[1] - t->level_range[0]) * k / 20;
                const struct condition at = found(&c, &info, task, sigma, level);
                assert_int_equal(at.label, t->label);
                assert_true(at.t == 999.0f);
                assert_true(fabs((double)at.sigma / (1000 * sigma) - 1) < 0.051);
                assert_true(fabs((double)(at.level - told_level(t->name, level))) <=
                            (double)told_level(t->name, 1) *
                                    (t->level_range[1] - t->level_range[0]) / (2 * LEVEL_STEPS) +
                                1e-3);
            }
        /* The ends themselves are told as they are. */
        for (int end = 0; end < 2; end++) {
            const struct condition at =
                found(&c, &info, task, t->sigma_range[end], t->level_range[end]);
            assert_true(fabs((double)at.sigma - 1000 * t->sigma_range[end]) < 1e-3);
            assert_true(fabs((double)(at.level - told_level(t->name, t->level_range[end]))) < 1e-3);
        }
    }
    assert_true(c.n < 800); /* the constants of each are kept */
    conditions_done(&c);
}

static void tasks_that_the_network_cannot_tell_apart_share_one(void **state)
{
    (void)state;
    struct model_info info = info_of(false, false, false);
    struct conditions c = { 0 };
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.all[0].label, -1);
    for (uint32_t task = 0; task < info.n_tasks; task++)
        assert_int_equal(conditions_find(&c, &info, task, 0.1, 2), 0);
    conditions_done(&c);
    info = info_of(false, false, true);
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    assert_int_equal(c.n, 3);
    for (uint32_t task = 0; task < info.n_tasks; task++)
        assert_int_equal(found(&c, &info, task, 0.1, 2).label, info.tasks[task].label);
    conditions_done(&c);
}

static void a_network_that_is_told_one_of_the_two_has_a_grid_of_that(void **state)
{
    (void)state;
    struct model_info info = info_of(true, false, true);
    struct conditions c = { 0 };
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    assert_true(found(&c, &info, 1, 0.1, 1).level == found(&c, &info, 1, 0.1, 4).level);
    assert_true(found(&c, &info, 1, 0.02, 1).sigma < found(&c, &info, 1, 0.2, 1).sigma);
    conditions_done(&c);
    info = info_of(false, true, true);
    assert_int_equal(conditions_init(&c, &info, NULL), ST_OK);
    assert_true(found(&c, &info, 1, 0.02, 1).level < found(&c, &info, 1, 0.02, 4).level);
    assert_true(found(&c, &info, 1, 0.02, 1).sigma == found(&c, &info, 1, 0.2, 1).sigma);
    conditions_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_told_is_near_what_was_asked),
        cmocka_unit_test(tasks_that_the_network_cannot_tell_apart_share_one),
        cmocka_unit_test(a_network_that_is_told_one_of_the_two_has_a_grid_of_that),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
