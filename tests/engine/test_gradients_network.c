/* Gradients of the small networks of archs.h: of the reference against finite differences of its own
 * forward pass, through cells of pixels and every embedding; of the CPU back end against the
 * reference. DAVID_CPU_ISA as in test_gradients_cpu.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/graph/backward.h"
#include "engine/graph/builder.h"
#include "engine/nets/unet.h"
#include "tests/engine/archs.h"
#include "tests/engine/two_back_ends.h"

enum { ROWS = 2 };
static uint64_t seed = 5;
static const struct param_source hashes = { hash_param_load, &seed };
static const float t[ROWS] = { 7, 500 }, sigma[ROWS] = { 50, 400 }, level[ROWS] = { 300, 100 };
static const uint32_t label[ROWS] = { 1, 4 };

struct net {
    const char *name;
    struct graph *g;
    struct param_layout layout;
    float *params, *x, *dy;
    size_t x_count, y_count; /* of all rows */
};

static struct net net_of(const struct named_arch *a)
{
    struct net n = { .name = a->name };
    EXPECT_OK(unet_build(&n.g, &a->arch, a->h, a->w, &err));
    EXPECT_OK(param_layout_init(&n.layout, n.g, &err));
    n.x_count = (size_t)ROWS * a->h * a->w * arch_input_channels(&a->arch);
    n.y_count = (size_t)ROWS * a->h * a->w * n.g->nodes[n.g->output].c;
    n.params = floats(n.layout.count, 1);
    n.x = floats(n.x_count, 2);
    n.dy = floats(n.y_count, 3);
    EXPECT_OK(params_load(reference, n.g, &n.layout, &hashes, n.params, &err));
    return n;
}

static void net_done(struct net *n)
{
    param_layout_done(&n->layout);
    graph_free(n->g);
    free(n->params);
    free(n->x);
    free(n->dy);
}

struct learned {
    float *y, *dx, *gradients;
};

static void forward(const struct net *n, struct tape *tape, float *y)
{
    const struct tape_input in = {
        .x = n->x, .t = t, .sigma = sigma, .level = level, .label = label
    };
    EXPECT_OK(tape_pack(tape, &err));
    EXPECT_OK(tape_forward(tape, &in, &err));
    EXPECT_OK(tape_value(tape, n->g->output, y, &err));
}

static struct learned learn(const struct net *n, struct backend *b, enum dtype dtype)
{
    const struct backward_options o = { .rows = ROWS, .dtype = dtype, .input_gradient = true };
    const struct upstream_gradient from = { n->g->output, n->dy };
    struct learned l = { floats(n->y_count, 4), floats(n->x_count, 5),
                         calloc(n->layout.count, sizeof(float)) };
    struct tape *tape = NULL;
    assert_non_null(l.gradients);
    EXPECT_OK(tape_new(&tape, b, n->g, n->params, &o, &err));
    forward(n, tape, l.y);
    EXPECT_OK(tape_backward(tape, &from, 1, l.gradients, l.dx, &err));
    tape_free(tape);
    return l;
}

static void learned_done(struct learned *l)
{
    free(l->y);
    free(l->dx);
    free(l->gradients);
}

/* ---- finite differences ---- */

/* The slope of sum(y dy) where `count` numbers at `at` move along `way`: central, of one step. */
static double slope(const struct net *n, struct tape *tape, float *at, const float *way,
                    size_t count, float step)
{
    float *was = malloc(count * sizeof *was), *y = malloc(n->y_count * sizeof *y);
    double sum[2] = { 0, 0 };
    assert_true(was && y);
    memcpy(was, at, count * sizeof *was);
    for (int down = 0; down < 2; down++) {
        for (size_t i = 0; i < count; i++)
            at[i] = was[i] + (down ? -step : step) * way[i];
        forward(n, tape, y);
        for (size_t i = 0; i < n->y_count; i++)
            sum[down] += (double)y[i] * (double)n->dy[i];
    }
    memcpy(at, was, count * sizeof *was);
    free(was);
    free(y);
    return (sum[0] - sum[1]) / (2 * (double)step);
}

/* How far the gradient is off along a direction of noise, relative to a typical sum of such products.
 * Slopes are extrapolated. size: of a typical number at `at`. */
static double off_by(const struct net *n, struct tape *tape, float *at, const float *gradient,
                     size_t count, float size)
{
    float *way = floats(count, 31);
    double have = 0, typical = 0;
    for (size_t i = 0; i < count; i++) {
        way[i] *= size;
        const double product = (double)gradient[i] * (double)way[i];
        have += product;
        typical += product * product;
    }
    const double coarse = slope(n, tape, at, way, count, 0.1f),
                 fine = slope(n, tape, at, way, count, 0.05f),
                 finest = slope(n, tape, at, way, count, 0.025f);
    const double a = (4 * fine - coarse) / 3, c = (4 * finest - fine) / 3;
    free(way);
    assert_true(typical > 0 && isfinite(have) && isfinite(c) && isfinite(a));
    return fabs(have - (16 * c - a) / 15) / sqrt(typical);
}

static void gradients_of_a_network_of_cells_are_its_slopes(void **state)
{
    (void)state;
    static const char *const tried[] = {
        "input_blocks.0.", "input_blocks.1.0.emb", "time_embed.", "sigma_embed.",
        "level_embed.",    "label_emb.",           "out."
    };
    struct net n = net_of(&archs[CELLS_ARCH]);
    const struct backward_options o = { .rows = ROWS, .dtype = DT_F32, .input_gradient = true };
    struct learned l = learn(&n, reference, DT_F32);
    struct tape *tape = NULL;
    EXPECT_OK(tape_new(&tape, reference, n.g, n.params, &o, &err));
    const char *name = "x";
    double worst = off_by(&n, tape, n.x, l.dx, n.x_count, 1);
    unsigned count = 1;
    for (uint32_t i = 0; i < n.g->n_params; i++) {
        const struct param_desc *d = &n.g->params[i];
        size_t k = 0;
        while (k < sizeof tried / sizeof *tried &&
               strncmp(d->name, tried[k], strlen(tried[k])) != 0)
            k++;
        if (k == sizeof tried / sizeof *tried) continue;
        const double fan_in = (double)d->count / d->shape[0];
        const double off =
            off_by(&n, tape, n.params + n.layout.offset[i], l.gradients + n.layout.offset[i],
                   d->count, (float)(1 / sqrt(fan_in > 1 ? fan_in : 4)));
        if (off > worst) name = d->name;
        worst = fmax(worst, off);
        count++;
    }
    print_message("%u slopes, worst off by %.2e (%s)\n", count, worst, name);
    assert_int_equal(count, 1 + 2 + 2 + 3 * 4 + 1 + 4);
    assert_true(worst <= 5e-4);
    tape_free(tape);
    learned_done(&l);
    net_done(&n);
}

/* ---- the CPU ---- */

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

static void networks_learn_as_the_reference_does(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        struct learned want = learn(&n, reference, DT_F32);
        for (int way = 0; way < TEAMS; way++) {
            struct learned got = learn(&n, cpu[way], DT_F32);
            const double y = l2_off(got.y, want.y, n.y_count),
                         dx = l2_off(got.dx, want.dx, n.x_count),
                         all = l2_off(got.gradients, want.gradients, n.layout.count);
            print_message("%s, %d threads: y %.1e, dx %.1e, gradients %.1e\n", n.name, way + 1, y,
                          dx, all);
            assert_true(y <= 1e-5 && dx <= 1e-5 && all <= 1e-5);
            learned_done(&got);
        }
        learned_done(&want);
        net_done(&n);
    }
}

/* ---- what a tape refuses ---- */

static void a_tape_needs_what_its_network_is_told(void **state)
{
    (void)state;
    struct net n = net_of(&archs[CELLS_ARCH]);
    const struct backward_options o = { .rows = ROWS, .dtype = DT_F32 };
    const struct tape_input whole = {
        .x = n.x, .t = t, .sigma = sigma, .level = level, .label = label
    };
    struct tape *tape = NULL;
    EXPECT_OK(tape_new(&tape, reference, n.g, n.params, &o, &err));
    EXPECT_OK(tape_pack(tape, &err));
    const float none[ROWS] = { 3, NAN };
    for (int i = 0; i < 4; i++) {
        struct tape_input in = whole;
        struct error e = { 0 };
        if (i < 2)
            in.sigma = i ? none : NULL;
        else
            in.level = i == 2 ? NULL : none;
        assert_int_equal(tape_forward(tape, &in, &e), ST_BAD_PARAMETER);
        assert_non_null(strstr(e.detail, i < 2 ? "finite sigma" : "finite level"));
    }
    EXPECT_OK(tape_forward(tape, &whole, &err));
    tape_free(tape);
    net_done(&n);
}

/* A permutation writes its input's gradient and cannot add to it: where another node has written
 * there before it, no tape is made. */
static void cells_whose_pixels_are_read_twice_are_refused(void **state)
{
    (void)state;
    for (int cells_first = 0; cells_first < 2; cells_first++) {
        struct builder b;
        struct graph *g = NULL;
        struct tape *tape = NULL;
        struct error e = { 0 };
        const struct backward_options o = { .rows = 1, .dtype = DT_F32, .input_gradient = true };
        const float none = 0;
        builder_init(&b);
        const int32_t x = build_input(&b, 4, 4, 3);
        const int32_t one = cells_first ? build_space_to_depth(&b, x, 2) : build_downsample(&b, x),
                      two = cells_first ? build_downsample(&b, x) : build_space_to_depth(&b, x, 2);
        const struct build_conv_args last = {
            .oc = 2, .kernel = 1, .stride = 1, .residual = NODE_NONE
        };
        const int32_t y = build_conv(&b, "last", build_concat(&b, one, two), &last);
        EXPECT_OK(builder_finish(&b, y, &g, &err));
        assert_int_equal(tape_new(&tape, reference, g, &none, &o, &e), /* reads no parameter yet */
                         cells_first ? ST_INTERNAL : ST_OK);
        if (cells_first) assert_non_null(strstr(e.detail, "SPACE_TO_DEPTH"));
        tape_free(tape);
        graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_a_network_of_cells_are_its_slopes),
        cmocka_unit_test(networks_learn_as_the_reference_does),
        cmocka_unit_test(a_tape_needs_what_its_network_is_told),
        cmocka_unit_test(cells_whose_pixels_are_read_twice_are_refused),
    };
    int code = open_all();
    if (code) return code;
    code = cmocka_run_group_tests(tests, NULL, NULL);
    close_all();
    return code;
}
