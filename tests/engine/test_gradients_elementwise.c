/* The rest of the CPU back end's training ops against those in double: embeddings, walks over an image, PatchGAN's norms, and
 * the optimiser. As test_gradients_cpu.c otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/engine/two_back_ends.h"

/* ---- embeddings ---- */

struct embedding_result {
    struct tensor y, dx;
    float *dweight, *dbias;
};

static const uint32_t labels[3] = { 2, 0, 2 };

static void run_embeddings(struct backend *b, struct embedding_result *linear,
                           struct embedding_result *rest, uint32_t ic, uint32_t oc, bool add)
{
    const struct gradient_ops *ops = b->ops->gradients;
    const uint32_t in[4] = { 3, 1, 1, ic }, out[4] = { 3, 1, 1, oc };
    float *weight = floats((size_t)ic * oc, 1), *bias = floats(oc, 2);
    struct tensor x = image(DT_F32, in, 0, 3), dy = image(DT_F32, out, 0, 4);
    struct tensor g = image(DT_F32, in, 0, 5);
    *linear = (struct embedding_result){ image(DT_F32, out, 0, 6), image(DT_F32, in, 0, 7),
                                         floats((size_t)ic * oc, 8), floats(oc, 9) };
    EXPECT_OK(ops->linear(b, weight, bias, &x, &linear->y, &err));
    struct into dx = { linear->dx, add };
    EXPECT_OK(ops->linear_gradient(b, weight, &x, &dy, &dx, linear->dweight, linear->dbias, &err));
    dx.dst.data = NULL; /* not wanted */
    EXPECT_OK(ops->linear_gradient(b, weight, &x, &dy, &dx, linear->dweight, NULL, &err));
    EXPECT_OK(ops->linear_gradient(b, weight, &x, &dy, &dx, NULL, NULL, &err));

    *rest = (struct embedding_result){ image(DT_F32, in, 0, 10), image(DT_F32, in, 0, 11),
                                       floats((size_t)3 * ic, 12), NULL };
    for (size_t i = 0; i < (size_t)3 * ic; i++)
        ((float *)x.data)[i] *= 20; /* SiLU's whole range */
    struct into to = { rest->dx, add }, over = { rest->y, false };
    EXPECT_OK(ops->silu_gradient(b, &x, &g, &to, &err));
    EXPECT_OK(ops->copy_into(b, &g, &over, &err));
    EXPECT_OK(ops->silu_gradient(b, &x, &rest->y, &over, &err)); /* in place */
    EXPECT_OK(ops->label_gradient(b, labels, &g, rest->dweight, &err));
    free(weight);
    free(bias);
    free(x.data);
    free(dy.data);
    free(g.data);
}

static void embedding_done(struct embedding_result *r)
{
    free(r->y.data);
    free(r->dx.data);
    free(r->dweight);
    free(r->dbias);
}

static void embeddings_agree(void **state)
{
    (void)state;
    for (uint32_t ic = 1; ic < 90; ic += 37)
        for (int add = 0; add < 2; add++) {
            uint32_t oc = 2 * ic + 1;
            struct embedding_result want[2], got[2];
            run_embeddings(reference, &want[0], &want[1], ic, oc, add);
            for (int way = 0; way < TEAMS; way++) {
                const struct near k = { "embeddings", way, 2e-6, 0 };
                run_embeddings(cpu[way], &got[0], &got[1], ic, oc, add);
                images_near(&k, "linear", &got[0].y, &want[0].y);
                images_near(&k, "linear's dx", &got[0].dx, &want[0].dx);
                floats_near(&k, "linear's dweight", got[0].dweight, want[0].dweight,
                            (size_t)ic * oc);
                floats_near(&k, "linear's dbias", got[0].dbias, want[0].dbias, oc);
                images_near(&k, "silu in place", &got[1].y, &want[1].y);
                images_near(&k, "silu", &got[1].dx, &want[1].dx);
                floats_near(&k, "label", got[1].dweight, want[1].dweight, (size_t)3 * ic);
                embedding_done(&got[0]);
                embedding_done(&got[1]);
            }
            embedding_done(&want[0]);
            embedding_done(&want[1]);
        }
}

/* ---- walks over an image ---- */

enum elementwise { UP, DOWN, PASS, TO_F32, SUMS, LEAKY, LEAKY_GRADIENT, LEAKY_IN_PLACE, WALKS };
static const char *const elementwise_names[WALKS] = { "upsample",     "downsample", "pass",
                                                      "pass to F32",  "sums",       "leaky ReLU",
                                                      "its gradient", "in place" };

static struct tensor run_elementwise(struct backend *b, enum dtype t, enum elementwise what,
                                     uint32_t c, bool add)
{
    const struct gradient_ops *ops = b->ops->gradients;
    const uint32_t small[4] = { 2, 6, 10, c }, large[4] = { 2, 12, 20, c }, one[4] = { 2, 1, 1, c };
    struct tensor x = image(t, what == UP ? large : small, 3, 1);
    struct tensor sign = image(t, small, 1, 2);
    struct tensor y = image(what == TO_F32 || what == SUMS ? DT_F32 : t,
                            what == DOWN   ? large
                            : what == SUMS ? one
                                           : small,
                            what == SUMS ? 0 : 5, 3);
    struct into to = { y, add };
    switch (what) {
    case UP: EXPECT_OK(ops->upsample_gradient(b, &x, &to, &err)); break;
    case DOWN: EXPECT_OK(ops->downsample_gradient(b, &x, &to, &err)); break;
    case PASS:
    case TO_F32: EXPECT_OK(ops->copy_into(b, &x, &to, &err)); break;
    case SUMS: EXPECT_OK(ops->channel_sums(b, &x, &to, &err)); break;
    case LEAKY: EXPECT_OK(ops->leaky_relu(b, &x, 0.25f, &y, &err)); break;
    case LEAKY_GRADIENT: EXPECT_OK(ops->leaky_relu_gradient(b, &sign, 0.25f, &x, &to, &err)); break;
    default:
        to.add = false;
        EXPECT_OK(ops->leaky_relu(b, &y, 0.25f, &y, &err));
        EXPECT_OK(ops->leaky_relu_gradient(b, &sign, 0.25f, &y, &to, &err));
        break;
    }
    free(x.data);
    free(sign.data);
    return y;
}

static void elementwise_loops_agree(void **state)
{
    (void)state;
    static const uint32_t widths[] = { 1, 3, 16, 45 };
    for (int what = 0; what < WALKS; what++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (int add = 0; add < 2; add++) {
                struct tensor want =
                    run_elementwise(reference, DT_F32, (enum elementwise)what, widths[i], add);
                for (int way = 0; way < WAYS; way++) {
                    const struct near k = { elementwise_names[what], way, 1e-6, 8e-3 };
                    struct tensor got = run_elementwise(cpu[way], dtype_of(way),
                                                        (enum elementwise)what, widths[i], add);
                    images_near(&k, "y", &got, &want);
                    free(got.data);
                }
                free(want.data);
            }
}

/* ---- batch norm ---- */

struct batch_result {
    double sums[2][45], dsums[2][45];
    struct tensor y, dx;
    float *dgamma, *dbeta;
};

/* As if another process had the same rows: its sums are added, and the count is doubled. */
static void add_sibling(double *sums, uint32_t c)
{
    for (uint32_t i = 0; i < 2 * c; i++)
        sums[i] *= 2;
}

static void run_batch(struct backend *b, enum dtype t, struct batch_result *r,
                      const uint32_t shape[4], bool add, bool in_place)
{
    const struct gradient_ops *ops = b->ops->gradients;
    uint32_t c = shape[3];
    float *gamma = floats(c, 1), *beta = floats(c, 2);
    struct tensor x = image(t, shape, 2, 3), dy = image(t, shape, 2, 4);
    *r = (struct batch_result){ .y = image(t, shape, 2, 5),
                                .dx = image(t, shape, 2, 6),
                                .dgamma = floats(c, 7),
                                .dbeta = floats(c, 8) };
    struct batch_norm_args a = {
        x, gamma, beta, r->sums[0], 2.0 * shape[0] * shape[1] * shape[2], 1e-5f
    };
    EXPECT_OK(ops->batch_norm_sums(b, &x, r->sums[0], &err));
    add_sibling(r->sums[0], c);
    EXPECT_OK(ops->batch_norm(b, &a, &r->y, &err));
    EXPECT_OK(ops->batch_norm_gradient_sums(b, &a, &dy, r->dsums[0], r->dgamma, r->dbeta, &err));
    add_sibling(r->dsums[0], c);
    struct into dx = { in_place ? dy : r->dx, add };
    EXPECT_OK(ops->batch_norm_gradient(b, &a, &dy, r->dsums[0], &dx, &err));
    free(in_place ? r->dx.data : dy.data);
    r->dx = dx.dst;
    free(gamma);
    free(beta);
    free(x.data);
}

static void batch_done(struct batch_result *r)
{
    free(r->y.data);
    free(r->dx.data);
    free(r->dgamma);
    free(r->dbeta);
}

static void batch_norms_agree(void **state)
{
    (void)state;
    static const uint32_t shapes[][4] = { { 2, 1, 1, 5 }, { 3, 9, 7, 45 }, { 2, 60, 50, 32 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int how = 0; how < 3; how++) {
            struct batch_result want, got;
            run_batch(reference, DT_F32, &want, shapes[i], how == 1, how == 2);
            for (int way = 0; way < WAYS; way++) {
                const struct near k = { "batch norm", way, 1e-5, 1e-2 };
                run_batch(cpu[way], dtype_of(way), &got, shapes[i], how == 1, how == 2);
                images_near(&k, "y", &got.y, &want.y);
                images_near(&k, "dx", &got.dx, &want.dx);
                floats_near(&k, "dgamma", got.dgamma, want.dgamma, shapes[i][3]);
                floats_near(&k, "dbeta", got.dbeta, want.dbeta, shapes[i][3]);
                batch_done(&got);
            }
            batch_done(&want);
        }
}

/* ---- the optimiser ---- */

enum { COUNT = 9001 };

static void run_optimiser(struct backend *b, float *out[5], double *squares)
{
    const struct gradient_ops *ops = b->ops->gradients;
    float *g = floats(COUNT, 1);
    for (uint64_t i = 0; i < 4; i++)
        out[i] = floats(COUNT, 2 + i);
    memset(out[1], 0, COUNT * sizeof *g);
    memset(out[2], 0, COUNT * sizeof *g);
    for (uint64_t step = 1; step < 4; step++) {
        struct adamw_args a = {
            out[0], out[1], out[2], g, COUNT, 1e-2, 0.9, 0.999, 1e-8, 0.01, step
        };
        EXPECT_OK(ops->adamw(b, &a, &err));
        EXPECT_OK(ops->scale(b, g, COUNT, 0.5f, &err));
    }
    EXPECT_OK(ops->average(b, out[3], out[0], COUNT, 0.75f, &err));
    EXPECT_OK(ops->sum_squares(b, out[0], COUNT, squares, &err));
    EXPECT_OK(ops->fill(b, g, COUNT, 0.125f, &err));
    out[4] = g;
}

static void the_optimisers_loops_agree(void **state)
{
    (void)state;
    static const char *const names[5] = { "parameters", "m", "v", "average", "fill" };
    float *want[5], *got[5];
    double squares, mine;
    run_optimiser(reference, want, &squares);
    for (int way = 0; way < TEAMS; way++) {
        const struct near k = { "optimiser", way, 1e-6, 0 };
        run_optimiser(cpu[way], got, &mine);
        for (int i = 0; i < 5; i++) {
            floats_near(&k, names[i], got[i], want[i], COUNT);
            free(got[i]);
        }
        assert_true(fabs(mine - squares) <= 1e-6 * squares);
    }
    for (int i = 0; i < 5; i++)
        free(want[i]);
}

static void a_nan_shows_in_the_sum_of_squares(void **state)
{
    (void)state;
    float *v = floats(COUNT, 1);
    double sum = 0;
    v[COUNT - 1] = NAN;
    EXPECT_OK(cpu[1]->ops->gradients->sum_squares(cpu[1], v, COUNT, &sum, &err));
    assert_true(isnan(sum));
    v[COUNT - 1] = INFINITY;
    EXPECT_OK(cpu[1]->ops->gradients->sum_squares(cpu[1], v, COUNT, &sum, &err));
    assert_true(isinf(sum));
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings_agree),
        cmocka_unit_test(elementwise_loops_agree),
        cmocka_unit_test(batch_norms_agree),
        cmocka_unit_test(the_optimisers_loops_agree),
        cmocka_unit_test(a_nan_shows_in_the_sum_of_squares),
    };
    int cannot = open_all();
    if (cannot) return cannot;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    close_all();
    return failed;
}
