/* engine/train/losses.c: the consistency of every operator, on the CPU and in double; and that a
 * back end without an op is refused where a run needs the op. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/train/losses.h"
#include "tests/engine/two_back_ends.h"

enum { ROWS = 3, W = 13, H = 9, PX = W * H, COUNT = ROWS * PX * LOSS_CHANNELS };

/* The CPU by the loops of engine/davi/operators, the reference by its own ops. */
static void the_consistency_of_every_operator(void **state)
{
    (void)state;
    const double levels[ROWS] = { 0.7, 3, 1.5 };
    float *pred = floats(COUNT, 1), *y = floats(COUNT, 2);
    uint8_t *observed_mask = mask_of((size_t)ROWS * PX);
    static float taps[ROWS * BLUR_TAPS];
    for (int i = 0; i < TASK_COUNT; i++) {
        const enum operator_kind op = task_table[i].op;
        float *scratch = malloc(consistency_scratch(op, ROWS, W, H) * sizeof *scratch);
        assert_non_null(scratch);
        for (int way = 0; way < TEAMS; way++) {
            const struct near near = { "consistency", way, 2e-6, 0 };
            float *gradient = floats(COUNT, 3), *want_gradient = floats(COUNT, 3);
            const struct consistency c = { .op = op,
                                           .rows = ROWS,
                                           .w = W,
                                           .h = H,
                                           .pred = pred,
                                           .y = y,
                                           .observed_mask = observed_mask,
                                           .level = task_table[i].level,
                                           .levels = way ? levels : NULL,
                                           .scratch = scratch,
                                           .taps = taps };
            double got = 1, want = 1;
            EXPECT_OK(consistency_loss(cpu[way], &c, &got, gradient, &err));
            EXPECT_OK(consistency_loss(reference, &c, &want, want_gradient, &err));
            assert_true(fabs(got - want) <= 1e-6 * want);
            assert_true((want == 0) == !operator_of(op)->transpose);
            floats_near(&near, "gradient", gradient, want_gradient, COUNT);
            free(gradient);
            free(want_gradient);
        }
        free(scratch);
    }
    free(pred);
    free(y);
    free(observed_mask);
}

/* <A x, y> = <x, A^T y>, of the reference. */
static void the_adjoint_is_that_of_the_operator(void **state)
{
    (void)state;
    static float taps[ROWS * BLUR_TAPS];
    float *x = floats(COUNT, 1), *y = floats(COUNT, 2), *ax = floats(COUNT, 3);
    float *aty = floats(COUNT, 4);
    uint8_t *observed_mask = mask_of((size_t)ROWS * PX);
    const struct rows_operator plain = { .rows = ROWS, .w = W, .h = H, .scale = 1 };
    struct rows_operator all[] = { plain, plain, plain, plain, plain, plain };
    all[1].scale = 2;
    all[2].scale = 4;
    all[3].is_gray = true;
    all[4].observed_mask = observed_mask;
    all[5].taps = taps;
    for (uint32_t n = 0; n < ROWS; n++)
        for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
            taps[(size_t)n * BLUR_TAPS + BLUR_REACH + i] =
                0.3f * expf(-0.1f * (float)((n + 1) * i * i));
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        const struct rows_operator *a = &all[k];
        const size_t count = (size_t)ROWS * (W / a->scale) * (H / a->scale) * (a->is_gray ? 1 : 3);
        double left = 0, right = 0;
        EXPECT_OK(reference->ops->losses->operate(reference, a, x, ax, &err));
        EXPECT_OK(reference->ops->losses->adjoint(reference, a, y, aty, &err));
        for (size_t i = 0; i < count; i++)
            left += (double)ax[i] * (double)y[i];
        for (size_t i = 0; i < COUNT; i++)
            right += (double)x[i] * (double)aty[i];
        assert_true(fabs(left - right) < 1e-5 * fmax(fabs(left), 1));
    }
    free(x);
    free(y);
    free(ax);
    free(aty);
    free(observed_mask);
}

/* ---- a back end that lacks ops ---- */

static void refused(struct backend *b, unsigned needs, const char *op)
{
    struct error why = { 0 };
    assert_int_equal(losses_check(b, needs, &why), ST_UNSUPPORTED);
    if (!strstr(why.detail, "back end half") || !strstr(why.detail, op))
        fail_msg("%s: no word of %s", why.detail, op);
}

static void accepted(struct backend *b, unsigned needs)
{
    struct error why = { 0 };
    if (losses_check(b, needs, &why)) fail_msg("%s", why.detail);
}

static void a_back_end_without_an_op_is_refused_where_it_is_needed(void **state)
{
    (void)state;
    const unsigned all = NEED_SHEETS * 2 - 1, direct = NEED_ANSWERS | NEED_GRADIENTS;
    struct backend_ops ops = *cpu[0]->ops;
    struct loss_ops losses = *ops.losses;
    struct backend half = { &ops };
    ops.device.name = "half";
    accepted(&half, all);
    ops.losses = &losses;
    losses.energy = NULL;
    refused(&half, all, "energy");
    refused(&half, direct | NEED_ENERGY, "energy");
    accepted(&half, direct | NEED_REGRESSION);
    accepted(&half, NEED_DENOISING);
    losses.hybrid = NULL;
    refused(&half, NEED_DENOISING, "hybrid");
    refused(&half, NEED_DAVI, "hybrid");
    accepted(&half, direct | NEED_REGRESSION);
    losses = *cpu[0]->ops->losses;
    ops.device.host_memory = false; /* then the host's operators are no help */
    refused(&half, NEED_ADJOINT, "operate");
    losses.operate = reference->ops->losses->operate;
    refused(&half, NEED_ADJOINT, "adjoint");
    losses.adjoint = reference->ops->losses->adjoint;
    accepted(&half, all);
    ops.losses = NULL;
    refused(&half, NEED_DENOISING, "diffuse");
    refused(&half, direct, "bridge");
    ops.gradients = NULL;
    refused(&half, NEED_DENOISING, "gradients");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_consistency_of_every_operator),
        cmocka_unit_test(the_adjoint_is_that_of_the_operator),
        cmocka_unit_test(a_back_end_without_an_op_is_refused_where_it_is_needed),
    };
    const int opened = open_all();
    if (opened) return opened;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_all();
    return failed;
}
