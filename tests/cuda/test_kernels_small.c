/* Embeddings and the sampler's own steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/philox.h"
#include "tests/cuda/conformance.h"

/* ---- embeddings ---- */

enum op { TIMESTEP, LABEL, LINEAR, SILU, ADD, OPS };
static const char *const op_names[OPS] = { "timestep", "label", "linear", "silu", "add" };

struct embedding {
    enum op op;
    uint32_t n, c, wide;
    float *x, *e, *weight, *bias, *t;
    uint32_t *label;
};

static void run_embedding(void *ctx, const struct tensor *y)
{
    const struct embedding *a = ctx;
    float *to = y->data;
    switch (a->op) {
    case TIMESTEP: EXPECT_LAUNCH(gpu_timestep(a->t, a->n, a->c, to, NULL)); break;
    case LABEL: EXPECT_LAUNCH(gpu_label(a->weight, a->label, a->n, a->c, to, NULL)); break;
    case LINEAR:
        EXPECT_LAUNCH(gpu_linear(a->weight, a->bias, a->x, to, a->n, a->c, a->wide, NULL));
        break;
    case SILU: EXPECT_LAUNCH(gpu_silu(a->x, to, (size_t)a->n * a->c, NULL)); break;
    case ADD: EXPECT_LAUNCH(gpu_add(a->x, a->e, to, (size_t)a->n * a->c, NULL)); break;
    case OPS: break;
    }
}

static void ask_oracle(const struct embedding *a, const struct tensor *y)
{
    struct tensor x = { a->x, DT_F32, a->n, 1, 1, a->c, a->c }, e = x;
    struct linear_plan *p = NULL;
    e.data = a->e;
    switch (a->op) {
    case TIMESTEP: EXPECT_OK(oracle->ops->net.timestep(oracle, a->t, y, &err)); break;
    case LABEL: EXPECT_OK(oracle->ops->net.label(oracle, a->weight, a->label, y, &err)); break;
    case LINEAR:
        EXPECT_OK(
            oracle->ops->net.linear_plan(oracle, a->c, a->wide, a->weight, a->bias, &p, &err));
        EXPECT_OK(oracle->ops->net.linear(oracle, p, &x, y, &err));
        oracle->ops->net.linear_plan_free(oracle, p);
        break;
    case SILU: EXPECT_OK(oracle->ops->net.silu(oracle, &x, y, &err)); break;
    case ADD: EXPECT_OK(oracle->ops->net.add(oracle, &x, &e, y, &err)); break;
    case OPS: break;
    }
}

static void embeddings_agree(void **state)
{
    (void)state;
    static const uint32_t widths[] = { 2, 30, 128, 515, 1024 }, labels[] = { 2, 0, 1 };
    static const float times[] = { 0, 17, 999 };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        struct embedding a = { .n = 3, .c = widths[i], .wide = widths[i] / 2 + 5 };
        a.x = floats((size_t)a.n * a.c, 1, 60, 0); /* the whole range of SiLU */
        a.e = floats((size_t)a.n * a.c, 2, 1, 0);
        a.weight =
            floats((size_t)a.c * (a.wide + 3), 3, 1, 0); /* used as a table: three rows and more */
        a.bias = floats(a.wide, 4, 1, 0);
        a.t = floats(3, 5, 0, 0);
        memcpy(a.t, times, sizeof times);
        a.label = words(labels, 3);
        for (int op = 0; op < OPS; op++) {
            a.op = (enum op)op;
            if (a.op == TIMESTEP && a.c % 2) continue;
            uint32_t c = a.op == LINEAR ? a.wide : a.c;
            struct tensor y = tensor_make(DT_F32, a.n, 1, 1, c, c, 6), want = tensor_copy(&y);
            ask_oracle(&a, &want);
            in_every_order(op_names[op], &y, run_embedding, &a);
            expect_near(op_names[op], &y, &want,
                        a.op == LABEL || a.op == ADD ? 0
                        : a.op == TIMESTEP           ? 1e-7
                                                     : 1e-6);
            tensor_free(&y);
            tensor_free(&want);
        }
        float *all[] = { a.x, a.e, a.weight, a.bias, a.t };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            free(all[k]);
        free(a.label);
    }
}

/* ---- noise ---- */

static const struct tile_position {
    uint32_t n, x0, y0, w, h, channels, stream, sample;
} places[] = {
    { 1, 0, 0, 64, 16, 3, 0, 0 }, { 2, 5, 1000, 131, 7, 1, 2, 9 },      { 1, 3, 2, 1, 1, 4, 1, 0 },
    { 3, 6, 0, 16, 5, 3, 0, 7 },  { 1, 4294967288u, 7, 8, 2, 3, 0, 1 },
};

static void run_normals(void *ctx, const struct tensor *y)
{
    struct gpu_normals a = *(const struct gpu_normals *)ctx;
    a.dst = y->data;
    EXPECT_LAUNCH(gpu_normals(&a, NULL));
}

/* Row r of a batch: its own seed, sample and position. */
static struct gpu_row row_of(const struct tile_position *p, uint32_t r)
{
    return (struct gpu_row){ .seed = 0x123456789abcdef0u + r * 0x100000001u,
                             .stream = p->stream,
                             .sample = p->sample + r,
                             .x0 = p->x0 - (r < p->x0 ? r : 0),
                             .y0 = p->y0 + 3 * r };
}

static void normals_agree_within_2e_6_wherever_they_begin(void **state)
{
    (void)state;
    double worst = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const struct tile_position *p = &places[i];
        struct gpu_row *rows = memory(p->n * sizeof *rows);
        for (uint32_t r = 0; r < p->n; r++)
            rows[r] = row_of(p, r);
        struct gpu_normals a = {
            .rows = rows, .n = p->n, .w = p->w, .h = p->h, .channels = p->channels
        };
        struct tensor y = tensor_make(DT_F32, p->n, p->h, p->w, p->channels, p->channels, 1);
        in_every_order("normals", &y, run_normals, &a);
        for (uint32_t r = 0; r < p->n; r++) {
            struct tensor row = tensor_row(&y, r), alone = tensor_copy(&row);
            struct gpu_normals one = a;
            one.rows = NULL;
            one.row = rows[r];
            run_normals(&one, &alone);
            expect_same("normals of a row alone", alone.data, row.data, tensor_bytes(&row));
            tensor_free(&alone);
            for (uint32_t yy = 0; yy < p->h; yy++)
                for (uint32_t x = 0; x < p->w; x++)
                    for (uint32_t c = 0; c < p->channels; c++) {
                        float want[4];
                        uint32_t at = rows[r].x0 + x;
                        philox_normals4(want, rows[r].seed, rows[r].stream, rows[r].sample, c,
                                        at / 4, rows[r].y0 + yy);
                        float got = ((float *)row.data)[((size_t)yy * p->w + x) * p->channels + c];
                        worst = fmax(worst, fabs((double)got - (double)want[at % 4]));
                    }
        }
        free(rows);
        tensor_free(&y);
    }
    print_message("largest difference of normals: %.2e\n", worst);
    assert_true(worst <= 2e-6);
}

/* ---- sampler input and output ---- */

struct step {
    struct tensor x, eps;
    const struct gpu_row *rows;
    float hz, std;
    bool in_place, linear;
};

static void run_in(void *ctx, const struct tensor *y)
{
    const struct step *s = ctx;
    const float *x = s->in_place ? y->data : s->x.data;
    EXPECT_LAUNCH(gpu_sampler_in(x, s->eps.data, s->rows, s->hz, y->data, y->n,
                                 (size_t)y->h * y->w * 3, NULL));
}

static void run_join(void *ctx, const struct tensor *y)
{
    const struct step *s = ctx;
    EXPECT_LAUNCH(gpu_sampler_join(s->x.data, s->eps.data, s->rows, s->hz, y->data, y->n,
                                   (size_t)y->h * y->w, NULL));
}

static void run_out(void *ctx, const struct tensor *y)
{
    const struct step *s = ctx;
    EXPECT_LAUNCH(gpu_sampler_out(s->in_place ? y : &s->x, &s->eps, s->std, s->linear, y, NULL));
}

static void the_sampler_adds_noise_of_each_row(void **state)
{
    (void)state;
    for (uint32_t w = 7; w <= 8; w++)
        for (int mode = 0; mode < 4; mode++) {
            struct step s = { tensor_make(DT_F32, 3, 5, w, 3, 3, 1),
                              tensor_make(DT_F32, 3, 5, w, 3, 3, 2),
                              NULL,
                              0.3f,
                              0,
                              mode % 2 == 1,
                              false };
            struct gpu_row *rows = memory(3 * sizeof *rows);
            for (uint32_t r = 0; r < 3; r++)
                rows[r].hz = 0.1f * (float)(r + 1);
            if (mode >= 2) s.rows = rows;
            struct tensor y = tensor_copy(&s.x), want = tensor_copy(&s.x);
            for (uint32_t r = 0; r < 3; r++) {
                struct tensor x = tensor_row(&s.x, r), z = tensor_row(&s.eps, r),
                              to = tensor_row(&want, r);
                EXPECT_OK(oracle->ops->net.sampler_in(oracle, x.data, z.data,
                                                      mode >= 2 ? rows[r].hz : 0.3f, to.data,
                                                      (size_t)5 * w * 3, &err));
            }
            in_every_order("sampler_in", &y, run_in, &s);
            expect_near("sampler_in", &y, &want, 2e-7);
            struct tensor *all[] = { &s.x, &s.eps, &y, &want };
            for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                tensor_free(all[i]);
            free(rows);
        }
}

static void the_sampler_sets_noise_beside_each_row(void **state)
{
    (void)state;
    for (uint32_t w = 7; w <= 60; w += 53)
        for (int by_row = 0; by_row < 2; by_row++) {
            struct step s = { .x = tensor_make(DT_F32, 3, 5, w, 3, 3, 1),
                              .eps = tensor_make(DT_F32, 3, 5, w, 3, 3, 2),
                              .hz = 0.3f };
            struct gpu_row *rows = memory(3 * sizeof *rows);
            for (uint32_t r = 0; r < 3; r++)
                rows[r].hz = 0.1f * (float)(r + 1);
            if (by_row) s.rows = rows;
            struct tensor y = tensor_make(DT_F32, 3, 5, w, 6, 6, 3), want = tensor_copy(&y);
            for (uint32_t r = 0; r < 3; r++) {
                struct tensor x = tensor_row(&s.x, r), z = tensor_row(&s.eps, r),
                              to = tensor_row(&want, r);
                EXPECT_OK(oracle->ops->net.sampler_join(oracle, x.data, z.data,
                                                        by_row ? rows[r].hz : 0.3f, to.data,
                                                        (size_t)5 * w, &err));
            }
            in_every_order("sampler_join", &y, run_join, &s);
            /* one multiplication each */
            expect_same("sampler_join", y.data, want.data, tensor_bytes(&y));
            struct tensor *all[] = { &s.x, &s.eps, &y, &want };
            for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                tensor_free(all[i]);
            free(rows);
        }
}

/* x: three channels, or the first three of six, in place where the noise is beside them. */
static void sampler_ends(enum dtype dt, bool in_place, bool linear, size_t x_ld)
{
    struct step s = { .x = tensor_make(DT_F32, 2, 5, 7, 3, x_ld, 1),
                      .eps = tensor_make(dt, 2, 5, 7, 3, 8, 2),
                      .std = linear ? 1.5f : 11.0f,
                      .in_place = in_place,
                      .linear = linear };
    struct tensor wide = tensor_wide(&s.eps),
                  y = in_place ? tensor_copy(&s.x) : tensor_make(DT_F32, 2, 5, 7, 3, 3, 4),
                  want = tensor_copy(&y);
    EXPECT_OK(oracle->ops->net.sampler_out(oracle, &s.x, &wide, s.std, linear, &want, &err));
    in_every_order("sampler_out", &y, run_out, &s);
    expect_near("sampler_out", &y, &want, 1e-6);
    unsigned clamped = 0;
    for (size_t i = 0; i < (size_t)2 * 5 * 7 * 3; i++)
        clamped += fabsf(((float *)y.data)[i / 3 * y.ld + i % 3]) >= 1;
    if (linear) assert_in_range(clamped, 20, 150);
    const float nan_value = NAN;
    dtype_from_f32((char *)s.eps.data + (8 * 10 + 1) * dtype_size(dt), dt, &nan_value, 1);
    run_out(&s, &y);
    assert_true(isnan(((float *)y.data)[10 * y.ld + 1]));
    assert_false(isnan(((float *)y.data)[10 * y.ld + 2]));
    struct tensor *all[] = { &s.x, &s.eps, &wide, &y, &want };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
}

static void the_sampler_ends_in_tanh_or_a_clamp_and_lets_no_nan_vanish(void **state)
{
    (void)state;
    for (int d = 0; d < 3; d++)
        for (int how = 0; how < 8; how++)
            sampler_ends(dtypes[d], how & 1, how & 2, how & 4 ? 6 : 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings_agree),
        cmocka_unit_test(normals_agree_within_2e_6_wherever_they_begin),
        cmocka_unit_test(the_sampler_adds_noise_of_each_row),
        cmocka_unit_test(the_sampler_sets_noise_beside_each_row),
        cmocka_unit_test(the_sampler_ends_in_tanh_or_a_clamp_and_lets_no_nan_vanish),
    };
    return RUN_TESTS("embeddings and sampler", tests);
}
