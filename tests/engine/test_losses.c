/* Every loss op of the CPU against the one in double, values and gradients, with 1 to 3 threads and
 * on odd sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/train/losses.h"
#include "tests/engine/two_back_ends.h"

enum {
    ROWS = 3,
    W = 13,
    H = 9,
    PX = W * H,
    COUNT = ROWS * PX * LOSS_CHANNELS,
    OUT_COUNT = ROWS * PX * OUTPUT_CHANNELS
};

static const struct near kind = { .name = "losses", .f32 = 2e-6, .bf16 = 2e-6 };

/* Two results of one op: F32 on a CPU, the only dtype of losses, and double. Both arrays begin with
 * the same noise, for the gradients that are added. */
struct results {
    struct near near;
    float *got, *want;
    size_t count;
};

static struct results results(const char *name, int way, size_t count)
{
    struct results r = { .near = kind, .count = count };
    r.near.name = name;
    r.near.way = way;
    r.got = floats(count, 900);
    r.want = floats(count, 900);
    return r;
}

static void compare(struct results *r)
{
    floats_near(&r->near, "gradient or image", r->got, r->want, r->count);
    free(r->got);
    free(r->want);
}

static void values_near(const char *name, double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * fmax(fabs(want), 1e-6)))
        fail_msg("%s: %.12g, not %.12g", name, got, want);
}

static const struct loss_ops *ops_of(struct backend *b)
{
    return b->ops->losses;
}

/* ---- noise and denoising ---- */

static void noise_is_put_on_and_taken_off(void **state)
{
    (void)state;
    const float keep[ROWS] = { 0.9f, 0.5f, 0.01f }, add[ROWS] = { 0.1f, 0.8f, 0.99f };
    const double alpha_bar[ROWS] = { 0.99, 0.5, 0.001 };
    float *x0 = floats(COUNT, 1), *z = floats(COUNT, 2), *out = floats(OUT_COUNT, 3);
    for (int way = 0; way < TEAMS; way++) {
        struct results r = results("diffuse", way, COUNT), c = results("clean", way, COUNT);
        struct diffuse_args a = { ROWS, PX, keep, add, x0, z, r.got };
        struct clean_args k = { ROWS, PX, alpha_bar, x0, out, c.got };
        EXPECT_OK(ops_of(cpu[way])->diffuse(cpu[way], &a, &err));
        EXPECT_OK(ops_of(cpu[way])->clean(cpu[way], &k, &err));
        a.x_t = r.want;
        k.x0 = c.want;
        EXPECT_OK(ops_of(reference)->diffuse(reference, &a, &err));
        EXPECT_OK(ops_of(reference)->clean(reference, &k, &err));
        compare(&r);
        compare(&c);
    }
    free(x0);
    free(z);
    free(out);
}

/* t = 0, where the bound is a likelihood, once beside a step in the middle and the last. */
static void the_hybrid_loss(void **state)
{
    (void)state;
    const uint32_t t[ROWS] = { 0, 417, SCHEDULE_LAST };
    struct schedule *schedule = malloc(sizeof *schedule);
    struct denoising_constants constants[ROWS];
    assert_non_null(schedule);
    schedule_init(schedule, SCHEDULE_DAVI);
    denoising_constants_of(schedule, t, ROWS, constants);
    float *x0 = floats(COUNT, 1), *z = floats(COUNT, 2), *out = floats(OUT_COUNT, 3);
    float *x_t = floats(COUNT, 4);
    x0[0] = -1; /* the open ends of the range */
    x0[1] = 1;
    EXPECT_OK(diffuse(reference, schedule, ROWS, PX, t, x0, z, x_t, &err));
    for (int way = 0; way < TEAMS; way++) {
        struct results r = results("hybrid", way, OUT_COUNT);
        double mse[2][ROWS], vb[2][ROWS];
        struct hybrid_args a = { .rows = ROWS,
                                 .px = PX,
                                 .constants = constants,
                                 .x0 = x0,
                                 .x_t = x_t,
                                 .noise = z,
                                 .out = out,
                                 .scale = 0.7,
                                 .dout = r.got,
                                 .mse = mse[0],
                                 .vb = vb[0] };
        EXPECT_OK(ops_of(cpu[way])->hybrid(cpu[way], &a, &err));
        a.dout = r.want;
        a.mse = mse[1];
        a.vb = vb[1];
        EXPECT_OK(ops_of(reference)->hybrid(reference, &a, &err));
        for (int n = 0; n < ROWS; n++) {
            values_near("mse", mse[0][n], mse[1][n]);
            values_near("vb", vb[0][n], vb[1][n]);
            /* The variance's gradient by itself, row by row: it is small beside that of eps. */
            double off = 0, most = 1e-30;
            for (size_t i = (size_t)n * 2 * PX * 3; i < (size_t)(n + 1) * 2 * PX * 3; i++) {
                if (i % OUTPUT_CHANNELS < LOSS_CHANNELS) continue;
                off = fmax(off, fabs((double)r.got[i] - (double)r.want[i]));
                most = fmax(most, fabs((double)r.want[i]));
            }
            assert_true(most > 1e-30 && off <= 5e-5 * most);
        }
        compare(&r);
    }
    free(schedule);
    free(x0);
    free(z);
    free(out);
    free(x_t);
}

/* ---- the generator ---- */

static void the_input_of_the_generator(void **state)
{
    (void)state;
    const float of[3][ROWS] = { { 0.2f, 0.5f, 0.9f }, { 0.8f, 0.5f, 0.1f }, { 0.1f, 0.f, 0.3f } };
    float *x = floats(COUNT, 1), *y = floats(COUNT, 2), *z = floats(COUNT, 3);
    for (int way = 0; way < TEAMS; way++)
        for (int form = 0; form < 8; form++) {
            struct results q = results("bridge", way, COUNT);
            struct results j = results("bridge, joined", way, OUT_COUNT);
            struct bridge_args a = { .rows = ROWS,
                                     .px = PX,
                                     .of_x = of[0],
                                     .of_y = of[1],
                                     .of_z = of[2],
                                     .x = form & 1 ? x : NULL,
                                     .y_in = y,
                                     .z = form & 2 ? z : NULL,
                                     .x_q = q.got,
                                     .joined = form & 4 ? j.got : NULL };
            EXPECT_OK(ops_of(cpu[way])->bridge(cpu[way], &a, &err));
            a.x_q = q.want;
            if (a.joined) a.joined = j.want;
            EXPECT_OK(ops_of(reference)->bridge(reference, &a, &err));
            compare(&q);
            compare(&j);
        }
    free(x);
    free(y);
    free(z);
}

static void the_answer_and_its_gradient(void **state)
{
    (void)state;
    const float std[ROWS] = { 0.1f, 1.5f, 2.2f }, slope[ROWS] = { -0.1f, -1.5f, -2.2f };
    float *x_q = floats(COUNT, 1), *out = floats(OUT_COUNT, 2), *d_pred = floats(COUNT, 3);
    for (int way = 0; way < TEAMS; way++)
        for (int form = 0; form < 4; form++) {
            const uint32_t channels = form & 1 ? OUTPUT_CHANNELS : LOSS_CHANNELS;
            struct results p = results("answer", way, COUNT);
            struct results d = results("answer_gradient", way, (size_t)ROWS * PX * channels);
            struct answer_args a = { .rows = ROWS,
                                     .channels = channels,
                                     .px = PX,
                                     .is_linear = form & 2,
                                     .std = std,
                                     .x_q = x_q,
                                     .out = out,
                                     .pred = p.got };
            struct answer_gradient_args g = { .rows = ROWS,
                                              .channels = channels,
                                              .px = PX,
                                              .is_linear = form & 2,
                                              .slope = slope,
                                              .pred = p.got,
                                              .d_pred = d_pred,
                                              .d_out = d.got };
            EXPECT_OK(ops_of(cpu[way])->answer(cpu[way], &a, &err));
            EXPECT_OK(ops_of(cpu[way])->answer_gradient(cpu[way], &g, &err));
            a.pred = p.want;
            g.d_out = d.want;
            EXPECT_OK(ops_of(reference)->answer(reference, &a, &err));
            EXPECT_OK(ops_of(reference)->answer_gradient(reference, &g, &err));
            compare(&d);
            compare(&p);
        }
    free(x_q);
    free(out);
    free(d_pred);
}

/* ---- terms of the objective davi ---- */

static void the_integrated_kl(void **state)
{
    (void)state;
    float *psi = floats(OUT_COUNT, 1), *theta = floats(OUT_COUNT, 2), *pred = floats(COUNT, 3);
    for (int way = 0; way < TEAMS; way++) {
        struct results r = results("ikl", way, COUNT);
        struct ikl_args a = { ROWS, PX, psi, theta, pred, r.got };
        double got, want;
        EXPECT_OK(ops_of(cpu[way])->ikl(cpu[way], &a, &got, &err));
        a.field = r.want;
        EXPECT_OK(ops_of(reference)->ikl(reference, &a, &want, &err));
        values_near("ikl", got, want);
        compare(&r);
    }
    free(psi);
    free(theta);
    free(pred);
}

static void the_truth_with_and_without_a_hole(void **state)
{
    (void)state;
    float *pred = floats(COUNT, 1), *x = floats(COUNT, 2);
    uint8_t *observed_mask = mask_of((size_t)ROWS * PX), *hole = calloc((size_t)ROWS * PX, 1);
    const uint8_t *const masks[] = { NULL, observed_mask, hole };
    for (int way = 0; way < TEAMS; way++)
        for (int i = 0; i < 3; i++) {
            struct results r = results("truth", way, COUNT);
            struct truth_args a = { ROWS, PX, pred, x, masks[i], 0, r.got };
            double got, want, observed = 0;
            if (masks[i]) {
                EXPECT_OK(ops_of(cpu[way])->count_observed(cpu[way], masks[i], (size_t)ROWS * PX,
                                                           &a.observed, &err));
                EXPECT_OK(ops_of(reference)->count_observed(reference, masks[i], (size_t)ROWS * PX,
                                                            &observed, &err));
            }
            assert_true(a.observed == observed && (observed > 0) == (i == 1));
            EXPECT_OK(ops_of(cpu[way])->truth(cpu[way], &a, &got, &err));
            a.dpred = r.want;
            EXPECT_OK(ops_of(reference)->truth(reference, &a, &want, &err));
            values_near("truth", got, want);
            compare(&r);
        }
    free(pred);
    free(x);
    free(observed_mask);
    free(hole);
}

static void the_losses_of_the_discriminator(void **state)
{
    (void)state;
    const size_t count = 1027;
    float *d = floats(count, 1), *true_d = floats(count, 2);
    for (size_t i = 0; i < count; i++)
        d[i] *= 3;    /* on both sides of the hinge */
    true_d[5] = d[5]; /* a kink */
    for (int way = 0; way < TEAMS; way++)
        for (int side = -1; side <= 1; side += 2) {
            struct results h = results("hinge", way, count), f = results("features", way, count);
            struct results a = results("adversarial", way, count);
            struct backend *const both[] = { cpu[way], reference };
            double hinge[2], features[2], adversarial[2];
            for (int i = 0; i < 2; i++) {
                struct backend *b = both[i];
                EXPECT_OK(
                    ops_of(b)->hinge(b, d, count, side, 0.3, i ? h.want : h.got, &hinge[i], &err));
                EXPECT_OK(ops_of(b)->features(b, d, true_d, count, i ? f.want : f.got, &features[i],
                                              &err));
                EXPECT_OK(
                    ops_of(b)->adversarial(b, d, count, i ? a.want : a.got, &adversarial[i], &err));
            }
            values_near("hinge", hinge[0], hinge[1]);
            values_near("features", features[0], features[1]);
            values_near("adversarial", adversarial[0], adversarial[1]);
            compare(&h);
            compare(&f);
            compare(&a);
        }
    free(d);
    free(true_d);
}

static void gradients_are_weighted_and_added(void **state)
{
    (void)state;
    const float weights[WEIGHTED_TERMS] = { 1, 0.25f, 8, -0.01f };
    float *terms[WEIGHTED_TERMS];
    for (int k = 0; k < WEIGHTED_TERMS; k++)
        terms[k] = floats(COUNT, 1 + (uint64_t)k);
    for (int way = 0; way < TEAMS; way++) {
        struct results r = results("weighted_sum", way, COUNT);
        EXPECT_OK(ops_of(cpu[way])->weighted_sum(cpu[way], (const float *const *)terms, weights,
                                                 COUNT, r.got, &err));
        EXPECT_OK(ops_of(reference)->weighted_sum(reference, (const float *const *)terms, weights,
                                                  COUNT, r.want, &err));
        compare(&r);
    }
    for (int k = 0; k < WEIGHTED_TERMS; k++)
        free(terms[k]);
}

/* ---- objectives that compare answers with the truth alone ---- */

static void the_regression(void **state)
{
    (void)state;
    float *pred = floats(COUNT, 1), *x = floats(COUNT, 2);
    for (int way = 0; way < TEAMS; way++)
        for (int l2 = 0; l2 < 2; l2++) {
            struct results r = results("regression", way, COUNT);
            struct regression_args a = {
                l2 ? REGRESSION_L2 : REGRESSION_L1, COUNT, pred, x, 0.5 * COUNT, r.got
            };
            double got, want;
            EXPECT_OK(ops_of(cpu[way])->regression(cpu[way], &a, &got, &err));
            a.d_pred = r.want;
            EXPECT_OK(ops_of(reference)->regression(reference, &a, &want, &err));
            values_near("regression", got, want);
            compare(&r);
        }
    free(pred);
    free(x);
}

/* Sides that are odd multiples of 8. */
static void the_energy_score(void **state)
{
    (void)state;
    enum { PAIRED = 4, SIDE_W = 24, SIDE_H = 8, ALL = PAIRED * SIDE_W * SIDE_H * 3 };
    const double weights[ENERGY_SCALES] = { 1, 0.5, 2, 0.25 };
    float *pred = floats(ALL, 1), *x = floats(ALL, 2);
    for (int way = 0; way < TEAMS; way++)
        for (int norm = 0; norm < 2; norm++) {
            struct results r = results("energy", way, ALL);
            float *scratch = floats(ops_of(cpu[way])->energy_scratch(SIDE_W, SIDE_H), 3);
            struct energy_args a = { .kind = norm ? DISTANCE_NORM : DISTANCE_L1,
                                     .rows = PAIRED,
                                     .w = SIDE_W,
                                     .h = SIDE_H,
                                     .pred = pred,
                                     .x = x,
                                     .weights = weights,
                                     .weight = SIDE_W * SIDE_H,
                                     .d_pred = r.got,
                                     .scratch = scratch };
            double got, want;
            EXPECT_OK(ops_of(cpu[way])->energy(cpu[way], &a, &got, &err));
            a.d_pred = r.want;
            EXPECT_OK(ops_of(reference)->energy(reference, &a, &want, &err));
            values_near("energy", got, want);
            compare(&r);
            a.rows = 3; /* one answer has no other */
            assert_int_equal(ops_of(cpu[way])->energy(cpu[way], &a, &got, &err), ST_INTERNAL);
            err = (struct error){ 0 };
            free(scratch);
        }
    free(pred);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_is_put_on_and_taken_off),
        cmocka_unit_test(the_hybrid_loss),
        cmocka_unit_test(the_input_of_the_generator),
        cmocka_unit_test(the_answer_and_its_gradient),
        cmocka_unit_test(the_integrated_kl),
        cmocka_unit_test(the_truth_with_and_without_a_hole),
        cmocka_unit_test(the_losses_of_the_discriminator),
        cmocka_unit_test(gradients_are_weighted_and_added),
        cmocka_unit_test(the_regression),
        cmocka_unit_test(the_energy_score),
    };
    const int opened = open_all();
    if (opened) return opened;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_all();
    return failed;
}
