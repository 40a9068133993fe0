/* The small networks of archs.h on a back end (back_end.h says which), folded and unfolded, pass
 * after pass with other conditions, against the reference in double: where passes are recorded, what
 * is sent before each is found again in a replay. As test_backend_ops.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "tests/engine/archs.h"
#include "tests/engine/ways.h"

enum { ROWS = 3, PASSES = 4, CONDITIONS = 5 };
static uint64_t seed = 7;
static const struct param_source hashes = { hash_param_load, &seed };
static const struct condition conditions[CONDITIONS] = {
    { 999, 2, 20, 300 }, { 3, 0, 401.5f, 0 }, { 500, 4, 0, 99 }, { 999, 1, 20, 0 }, { 0, 3, 7, 300 }
};

/* What the rows of pass k are told. */
struct told {
    float t[ROWS], sigma[ROWS], level[ROWS];
    uint32_t label[ROWS], condition[ROWS];
};

static struct told told_in(int pass)
{
    struct told a;
    for (int i = 0; i < ROWS; i++) {
        a.condition[i] = (uint32_t)(i + 2 * pass) % CONDITIONS;
        const struct condition *c = &conditions[a.condition[i]];
        a.t[i] = c->t;
        a.sigma[i] = c->sigma;
        a.level[i] = c->level;
        a.label[i] = (uint32_t)c->label;
    }
    return a;
}

struct net {
    struct graph *g;
    float *x, *want[PASSES];
    size_t x_count, y_count; /* of all rows */
};

static struct program *program_on(struct backend *b, const struct net *n, enum dtype dtype,
                                  bool folded)
{
    const struct program_options o = { .dtype = dtype,
                                       .conditions = folded ? conditions : NULL,
                                       .n_conditions = CONDITIONS };
    struct program *p = NULL;
    EXPECT_OK(program_new(&p, b, n->g, &hashes, &o, &err));
    return p;
}

/* y: [ROWS], host */
static void run(struct backend *b, struct program *p, const struct net *n, int pass, float *y)
{
    const struct told a = told_in(pass);
    float *dx = bytes_to_device(b, n->x, n->x_count * sizeof *n->x),
          *dy = bytes_to_device(b, y, n->y_count * sizeof *y);
    const struct program_io io = { .x = dx,
                                   .y = dy,
                                   .t = a.t,
                                   .sigma = a.sigma,
                                   .level = a.level,
                                   .label = a.label,
                                   .condition = a.condition };
    EXPECT_OK(program_run(p, &io, ROWS, &err));
    bytes_from_device(b, dx, NULL, 0);
    bytes_from_device(b, dy, y, n->y_count * sizeof *y);
}

static struct net net_of(const struct named_arch *a)
{
    struct net n = { 0 };
    EXPECT_OK(unet_build(&n.g, &a->arch, a->h, a->w, &err));
    n.x_count = (size_t)ROWS * a->h * a->w * arch_input_channels(&a->arch);
    n.y_count = (size_t)ROWS * a->h * a->w * n.g->nodes[n.g->output].c;
    n.x = malloc(n.x_count * sizeof *n.x);
    assert_non_null(n.x);
    hash_values("x", 1, n.x, n.x_count);
    struct program *p = program_on(reference, &n, DT_F32, false);
    for (int pass = 0; pass < PASSES; pass++) {
        n.want[pass] = malloc(n.y_count * sizeof *n.x);
        assert_non_null(n.want[pass]);
        run(reference, p, &n, pass, n.want[pass]);
    }
    program_free(p);
    return n;
}

static void net_done(struct net *n)
{
    graph_free(n->g);
    free(n->x);
    for (int pass = 0; pass < PASSES; pass++)
        free(n->want[pass]);
}

static double l2_off(const float *got, const float *want, size_t count)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)got[i] - (double)want[i];
        off += d * d;
        all += (double)want[i] * (double)want[i];
    }
    assert_true(isfinite(off)); /* fmax() passes over a NaN */
    return sqrt(off / all);
}

static void networks_agree_batch_after_batch(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        float *y = calloc(n.y_count, sizeof *y);
        assert_non_null(y);
        for (size_t k = 0; k < n_ways; k++)
            for (int folded = 0; folded < 2; folded++) {
                struct program *p = program_on(ways[k].b, &n, ways[k].dtype, folded);
                double worst = 0;
                for (int pass = 0; pass < PASSES; pass++) {
                    run(ways[k].b, p, &n, pass, y);
                    worst = fmax(worst, l2_off(y, n.want[pass], n.y_count));
                }
                print_message("%s, %s, %s: off by %.1e\n", archs[i].name, ways[k].name,
                              folded ? "folded" : "unfolded", worst);
                assert_true(worst <= (ways[k].dtype == DT_F32    ? 1e-5
                                      : ways[k].dtype == DT_BF16 ? 2e-2
                                                                 : 5e-3));
                program_free(p);
            }
        free(y);
        net_done(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_agree_batch_after_batch),
    };
    return run_on_all_ways(tests, sizeof tests / sizeof *tests);
}
