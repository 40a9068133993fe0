/* Embeddings, noise and the sampler's steps of a back end against the naive ones in double, as test_backend_ops.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/ways.h"

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
    EXPECT_OK(b->ops->net.linear_plan(b, c, 2 * c, w.data, e.data, &p, &err));
    const struct tensor dx = to_device(b, &x), de = to_device(b, &e), dw = to_device(b, &w);
    struct tensor y[5];
    for (int i = 0; i < 5; i++)
        y[i] = to_device(b, &out[i]);
    EXPECT_OK(b->ops->net.linear(b, p, &dx, &y[0], &err));
    b->ops->net.linear_plan_free(b, p);
    EXPECT_OK(b->ops->net.timestep(b, t, &y[1], &err));
    EXPECT_OK(b->ops->net.label(b, dw.data, labels, &y[2], &err));
    EXPECT_OK(b->ops->net.silu(b, &dx, &y[3], &err));
    EXPECT_OK(b->ops->net.add(b, &dx, &de, &y[4], &err));
    for (int i = 0; i < 5; i++)
        from_device(b, &y[i], &out[i]);
    off_device(b, &dx);
    off_device(b, &de);
    off_device(b, &dw);
    free(x.data);
    free(e.data);
    free(w.data);
}

static void embeddings_agree(void **state)
{
    (void)state;
    static const char *const names[] = { "linear", "timestep", "label", "silu", "add" };
    for (uint32_t c = 2; c < 80; c += 26)
        for (size_t k = 0; k < n_ways; k++) {
            struct tensor got[5], want[5];
            if (ways[k].dtype != DT_F32) continue;
            for (uint64_t i = 0; i < 5; i++) {
                uint32_t wide = i == 0 ? 2 * c : c;
                got[i] = tensor_make(DT_F32, 3, 1, 1, wide, wide, i);
                want[i] = tensor_make(DT_F32, 3, 1, 1, wide, wide, i);
            }
            embeddings(ways[k].b, got, c);
            embeddings(reference, want, c);
            for (int i = 0; i < 5; i++) {
                expect_near(names[i], &ways[k], &got[i], &want[i], 2e-6);
                free(got[i].data);
                free(want[i].data);
            }
        }
}

/* ---- the sampler ---- */

/* Whatever a call was given on the host may change once it has returned, however many more are asked for before one is waited for. */
static void values_on_their_way_are_not_written_over(void **state)
{
    (void)state;
    enum { CALLS = 40, C = 32 };
    for (size_t k = 0; k < n_ways; k++) {
        struct backend *b = ways[k].b;
        if (ways[k].dtype != DT_F32) continue;
        struct tensor got = tensor_make(DT_F32, CALLS, 1, 1, C, C, 1),
                      want = tensor_make(DT_F32, CALLS, 1, 1, C, C, 2);
        float times[CALLS], t;
        for (int i = 0; i < CALLS; i++)
            times[i] = (float)(25 * i);
        const struct tensor all = to_device(b, &got);
        for (int i = 0; i < CALLS; i++) {
            struct tensor row = all;
            row.n = 1;
            row.data = (float *)all.data + (size_t)i * C;
            t = times[i];
            EXPECT_OK(b->ops->net.timestep(b, &t, &row, &err));
        }
        t = -1;
        from_device(b, &all, &got);
        EXPECT_OK(reference->ops->net.timestep(reference, times, &want, &err));
        expect_near("timesteps", &ways[k], &got, &want, 2e-6);
        free(got.data);
        free(want.data);
    }
}

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
        EXPECT_OK(reference->ops->net.normals(reference, &a, &err));
        for (size_t k = 0; k < n_ways; k++) {
            struct backend *b = ways[k].b;
            if (ways[k].dtype != DT_F32) continue;
            a.dst = bytes_to_device(b, got, count * sizeof *got);
            EXPECT_OK(b->ops->net.normals(b, &a, &err));
            bytes_from_device(b, a.dst, got, count * sizeof *got);
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
    for (size_t k = 0; k < n_ways; k++) {
        struct backend *b = ways[k].b;
        if (ways[k].dtype != DT_F32) continue;
        struct tensor x = tensor_make(DT_F32, 2, 5, 7, 3, 3, 1),
                      e = tensor_make(DT_F32, 2, 5, 7, 3, 6, 2);
        struct tensor in = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3),
                      out = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3),
                      want = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3);
        const struct tensor dx = to_device(b, &x), de = to_device(b, &e), din = to_device(b, &in),
                            dout = to_device(b, &out);
        EXPECT_OK(b->ops->net.sampler_in(b, dx.data, de.data, 0.3f, din.data, 210, &err));
        EXPECT_OK(b->ops->net.sampler_out(b, &dx, &de, 11.0f, false, &dout, &err));
        from_device(b, &din, &in);
        from_device(b, &dout, &out);
        EXPECT_OK(
            reference->ops->net.sampler_in(reference, x.data, e.data, 0.3f, want.data, 210, &err));
        expect_near("sampler_in", &ways[k], &in, &want, 2e-7);
        EXPECT_OK(reference->ops->net.sampler_out(reference, &x, &e, 11.0f, false, &want, &err));
        expect_near("sampler_out", &ways[k], &out, &want, 2e-6);
        ((float *)e.data)[6 * 10 + 1] = NAN;
        const struct tensor bad = to_device(b, &e);
        EXPECT_OK(b->ops->net.sampler_out(b, &dx, &bad, 11.0f, false, &dx, &err));
        from_device(b, &dx, &x);
        off_device(b, &de);
        off_device(b, &bad);
        assert_true(isnan(((float *)x.data)[31]));
        assert_false(isnan(((float *)x.data)[32]));
        struct tensor *all[] = { &x, &e, &in, &out, &want };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]->data);
    }
}

/* x0 of the first three of six channels of x, clamped. */
static void ends_linearly(const struct way *w, const struct tensor *x, struct tensor *e)
{
    struct backend *b = w->b;
    struct tensor out = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3),
                  want = tensor_make(DT_F32, 2, 5, 7, 3, 3, 3), three = *x;
    three.c = 3;
    struct tensor dx = to_device(b, x);
    const struct tensor de = to_device(b, e), dout = to_device(b, &out);
    dx.c = 3;
    EXPECT_OK(b->ops->net.sampler_out(b, &dx, &de, 1.5f, true, &dout, &err));
    from_device(b, &dout, &out);
    off_device(b, &de);
    EXPECT_OK(reference->ops->net.sampler_out(reference, &three, e, 1.5f, true, &want, &err));
    expect_near("sampler_out, linear", w, &out, &want, 2e-7);
    unsigned ends = 0;
    for (size_t i = 0; i < 210; i++)
        ends += fabsf(((float *)out.data)[i]) == 1;
    assert_in_range(ends, 20, 150);
    const float odd[] = { NAN, INFINITY, -INFINITY };
    memcpy((float *)e->data + 6 * 10, odd, sizeof odd);
    const struct tensor bad = to_device(b, e), again = to_device(b, &out);
    EXPECT_OK(b->ops->net.sampler_out(b, &dx, &bad, 1.5f, true, &again, &err));
    from_device(b, &again, &out);
    off_device(b, &bad);
    off_device(b, &dx);
    assert_true(isnan(((float *)out.data)[30]));
    assert_true(((float *)out.data)[31] == -1 && ((float *)out.data)[32] == 1);
    assert_false(isnan(((float *)out.data)[33]));
    free(out.data);
    free(want.data);
}

static void noise_stands_beside_and_a_linear_end_is_clamped(void **state)
{
    (void)state;
    for (size_t k = 0; k < n_ways; k++) {
        struct backend *b = ways[k].b;
        if (ways[k].dtype != DT_F32) continue;
        struct tensor y_in = tensor_make(DT_F32, 2, 5, 7, 3, 3, 1),
                      z = tensor_make(DT_F32, 2, 5, 7, 3, 3, 2),
                      x = tensor_make(DT_F32, 2, 5, 7, 6, 6, 3),
                      want = tensor_make(DT_F32, 2, 5, 7, 6, 6, 3),
                      e = tensor_make(DT_F32, 2, 5, 7, 3, 6, 4);
        const struct tensor dy = to_device(b, &y_in), dz = to_device(b, &z), dx = to_device(b, &x);
        EXPECT_OK(b->ops->net.sampler_join(b, dy.data, dz.data, 0.3f, dx.data, 70, &err));
        from_device(b, &dx, &x);
        off_device(b, &dy);
        off_device(b, &dz);
        EXPECT_OK(reference->ops->net.sampler_join(reference, y_in.data, z.data, 0.3f, want.data,
                                                   70, &err));
        expect_same_bytes("sampler_join", x.data, want.data, tensor_bytes(&x));
        ends_linearly(&ways[k], &x, &e);
        struct tensor *all[] = { &y_in, &z, &x, &want, &e };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]->data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings_agree),
        cmocka_unit_test(values_on_their_way_are_not_written_over),
        cmocka_unit_test(normals_agree_within_2e_6_wherever_they_begin),
        cmocka_unit_test(the_sampler_agrees_and_lets_no_nan_vanish),
        cmocka_unit_test(noise_stands_beside_and_a_linear_end_is_clamped),
    };
    return run_on_all_ways(tests, sizeof tests / sizeof *tests);
}
