/* Every gradient of the reference back end against finite differences of its forward pass: of a random weighing of the
 * outputs, by each input in turn, central and twice extrapolated. The differences are taken of float32 storage, so they have
 * four digits; a wrong formula has none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend.h"
#include "engine/graph/backend/gradients.h"

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)

enum { MOST_INPUTS = 6, MOST_TRIED = 40 };
static const double tolerance = 5e-4;

static struct error err;
static struct backend *b;
static const struct gradient_ops *ops;

/* Numbers in [-1, 1) that depend on nothing but their place. */
static float noise(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static float *floats(size_t count, uint64_t seed)
{
    float *v = malloc(count * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < count; i++)
        v[i] = noise(seed * 1000003 + i);
    return v;
}

/* One op on one shape: its inputs, and what the op says are their gradients. `forward` fills y from x. */
struct trial {
    const char *name;
    void *shape;
    int inputs;
    size_t count[MOST_INPUTS], outputs;
    float *x[MOST_INPUTS],
        *g[MOST_INPUTS]; /* g: first noise, then noise + gradient where it adds */
    float *before[MOST_INPUTS];
    float *y, *weight;
    void (*forward)(struct trial *t);
};

static void input(struct trial *t, size_t count, float scale)
{
    int i = t->inputs++;
    t->count[i] = count;
    t->x[i] = floats(count, (uint64_t)i + 1);
    for (size_t k = 0; k < count; k++)
        t->x[i][k] *= scale;
    t->g[i] = floats(count, (uint64_t)i + 11);
    t->before[i] = floats(count, (uint64_t)i + 11);
}

static void output(struct trial *t, size_t count)
{
    t->outputs = count;
    t->y = floats(count, 21);
    t->weight = floats(count, 22);
}

static double loss(struct trial *t)
{
    double sum = 0;
    t->forward(t);
    for (size_t i = 0; i < t->outputs; i++)
        sum += (double)t->y[i] * (double)t->weight[i];
    return sum;
}

static double slope(struct trial *t, float *x, float step)
{
    float at = *x, up = at + step, down = at - step;
    *x = up;
    double above = loss(t);
    *x = down;
    double below = loss(t);
    *x = at;
    return (above - below) / ((double)up - (double)down);
}

/* added[i]: the op added to what was in g[i]; it wrote over it otherwise. */
static void check(struct trial *t, const bool *added)
{
    for (int i = 0; i < t->inputs; i++) {
        double worst = 0, most = 0;
        size_t tried = t->count[i] < MOST_TRIED ? t->count[i] : MOST_TRIED;
        for (size_t k = 0; k < tried; k++) {
            size_t at = k * t->count[i] / tried;
            double coarse = slope(t, t->x[i] + at, 0.1f), fine = slope(t, t->x[i] + at, 0.05f);
            double finest = slope(t, t->x[i] + at, 0.025f);
            double a = (4 * fine - coarse) / 3, c = (4 * finest - fine) / 3;
            double want = (16 * c - a) / 15;
            double have = (double)t->g[i][at] - (added[i] ? (double)t->before[i][at] : 0.0);
            worst = fmax(worst, fabs(have - want));
            most = fmax(most, fabs(want));
        }
        if (!(worst <= tolerance * most))
            fail_msg("%s, input %d: off by %.3g of %.3g", t->name, i, worst, most);
    }
}

static void trial_done(struct trial *t)
{
    for (int i = 0; i < t->inputs; i++) {
        free(t->x[i]);
        free(t->g[i]);
        free(t->before[i]);
    }
    free(t->y);
    free(t->weight);
}

static struct tensor image(float *data, uint32_t n, uint32_t h, uint32_t w, uint32_t c)
{
    return (struct tensor){ data, DT_F32, n, h, w, c, c };
}

/* ---- convolution: inputs x, weight, bias ---- */

struct conv_shape {
    const char *name;
    uint32_t n, h, w, ic, oc, kernel, stride;
    bool add;
    struct trained_conv *conv;
};

static struct tensor conv_output(const struct conv_shape *c, float *data)
{
    uint32_t border = 2 * (c->kernel / 2);
    return image(data, c->n, (c->h + border - c->kernel) / c->stride + 1,
                 (c->w + border - c->kernel) / c->stride + 1, c->oc);
}

static void conv_forward(struct trial *t)
{
    struct conv_shape *c = t->shape;
    struct tensor x = image(t->x[0], c->n, c->h, c->w, c->ic), y = conv_output(c, t->y);
    EXPECT_OK(ops->conv_pack(b, c->conv, t->x[1], t->x[2], &err));
    EXPECT_OK(ops->conv(b, c->conv, &x, NULL, &y, &err));
}

static void convolutions(void **state)
{
    (void)state;
    struct conv_shape shapes[] = {
        { "conv 1x1", 2, 3, 4, 5, 3, 1, 1, false, NULL },
        { "conv 1x1, added", 1, 3, 4, 5, 3, 1, 1, true, NULL },
        { "conv 3x3", 2, 4, 5, 3, 2, 3, 1, false, NULL },
        { "conv 3x3, one pixel", 1, 1, 1, 3, 2, 3, 1, true, NULL },
        { "conv 3x3, stride 2", 2, 6, 4, 3, 2, 3, 2, false, NULL },
        { "conv 3x3, stride 2, odd", 1, 5, 7, 2, 3, 3, 2, true, NULL },
        { "conv 4x4", 1, 5, 6, 2, 3, 4, 1, false, NULL },
        { "conv 4x4, stride 2", 2, 8, 6, 3, 2, 4, 2, false, NULL },
        { "conv 4x4, stride 2, odd", 1, 7, 5, 2, 2, 4, 2, true, NULL },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct conv_shape *c = &shapes[i];
        struct trial t = { .name = c->name, .shape = c, .forward = conv_forward };
        struct trained_conv_desc d = { .h = c->h,
                                       .w = c->w,
                                       .ic = c->ic,
                                       .oc = c->oc,
                                       .kernel = c->kernel,
                                       .stride = c->stride,
                                       .dtype = DT_F32,
                                       .x_ld = c->ic,
                                       .y_ld = c->oc,
                                       .dy_ld = c->oc,
                                       .dx_ld = c->ic,
                                       .dx_add = c->add };
        EXPECT_OK(ops->conv_new(b, &d, &c->conv, &err));
        input(&t, (size_t)c->n * c->h * c->w * c->ic, 1);
        input(&t, (size_t)c->oc * c->ic * c->kernel * c->kernel, 1);
        input(&t, c->oc, 1);
        struct tensor y = conv_output(c, NULL);
        output(&t, (size_t)y.n * y.h * y.w * y.c);
        struct tensor x = image(t.x[0], c->n, c->h, c->w, c->ic), dx = x, dy = y;
        dx.data = t.g[0];
        dy.data = t.weight;
        EXPECT_OK(ops->conv_pack(b, c->conv, t.x[1], t.x[2], &err));
        EXPECT_OK(ops->conv_data(b, c->conv, &dy, &dx, &err));
        EXPECT_OK(ops->conv_weights(b, c->conv, &x, &dy, t.g[1], t.g[2], &err));
        check(&t, (bool[]){ c->add, true, true });
        ops->conv_free(b, c->conv);
        trial_done(&t);
    }
}

static void a_residual_is_added(void **state)
{
    (void)state;
    struct trained_conv_desc d = { 2, 3, 4, 4, 1, 1, DT_F32, 4, 4, 4, 4, 4, false };
    struct trained_conv *c = NULL;
    EXPECT_OK(ops->conv_new(b, &d, &c, &err));
    float *w = floats(16, 1), *bias = floats(4, 2), *in = floats(24, 3), *r = floats(24, 4);
    float *alone = floats(24, 5);
    struct tensor x = image(in, 1, 2, 3, 4), y = image(alone, 1, 2, 3, 4);
    struct tensor residual = image(r, 1, 2, 3, 4);
    EXPECT_OK(ops->conv_pack(b, c, w, bias, &err));
    EXPECT_OK(ops->conv(b, c, &x, NULL, &y, &err));
    for (int i = 0; i < 24; i++)
        alone[i] += r[i];
    EXPECT_OK(ops->conv(b, c, &x, &residual, &residual, &err));
    for (int i = 0; i < 24; i++)
        assert_true(fabsf(alone[i] - r[i]) < 1e-6f);
    ops->conv_free(b, c);
    float *const all[] = { w, bias, in, r, alone };
    for (int i = 0; i < 5; i++)
        free(all[i]);
}

/* ---- embeddings ---- */

enum { ROWS = 3, IC = 7, OC = 5 };

static void linear_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], ROWS, 1, 1, IC), y = image(t->y, ROWS, 1, 1, OC);
    EXPECT_OK(ops->linear(b, t->x[1], t->x[2], &x, &y, &err));
}

static void linear_layers(void **state)
{
    for (int add = 0; add < 2; add++) {
        struct trial t = { .name = "linear", .forward = linear_forward };
        input(&t, (size_t)ROWS * IC, 1);
        input(&t, (size_t)OC * IC, 1);
        input(&t, OC, 1);
        output(&t, (size_t)ROWS * OC);
        struct tensor x = image(t.x[0], ROWS, 1, 1, IC), dy = image(t.weight, ROWS, 1, 1, OC);
        struct into dx = { image(t.g[0], ROWS, 1, 1, IC), add };
        EXPECT_OK(ops->linear_gradient(b, t.x[1], &x, &dy, &dx, t.g[1], t.g[2], &err));
        check(&t, (bool[]){ add, true, true });
        trial_done(&t);
    }
    (void)state;
}

static void silu_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], ROWS, 1, 1, IC), y = image(t->y, ROWS, 1, 1, IC);
    EXPECT_OK(b->ops->net.silu(b, &x, &y, &err));
}

static void silus(void **state)
{
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct trial t = { .name = "silu", .forward = silu_forward };
        input(&t, (size_t)ROWS * IC, 4);
        output(&t, (size_t)ROWS * IC);
        struct tensor x = image(t.x[0], ROWS, 1, 1, IC), dy = image(t.weight, ROWS, 1, 1, IC);
        struct into dx = { image(t.g[0], ROWS, 1, 1, IC), add };
        EXPECT_OK(ops->silu_gradient(b, &x, &dy, &dx, &err));
        check(&t, (bool[]){ add });
        trial_done(&t);
    }
}

static const uint32_t labels[ROWS] = { 2, 0, 2 };

static void label_forward(struct trial *t)
{
    struct tensor y = image(t->y, ROWS, 1, 1, IC);
    EXPECT_OK(b->ops->net.label(b, t->x[0], labels, &y, &err));
}

static void label_tables(void **state)
{
    (void)state;
    struct trial t = { .name = "label", .forward = label_forward };
    input(&t, (size_t)4 * IC, 1);
    output(&t, (size_t)ROWS * IC);
    struct tensor dy = image(t.weight, ROWS, 1, 1, IC);
    EXPECT_OK(ops->label_gradient(b, labels, &dy, t.g[0], &err));
    check(&t, (bool[]){ true });
    trial_done(&t);
}

/* ---- group norm: inputs x, gamma, beta, scale and shift ---- */

struct norm_shape {
    const char *name;
    uint32_t n, h, w, c, groups;
    bool scale_shift, silu, add;
};

static void norm_args(struct trial *t, struct group_norm_args *a, struct tensor *ss)
{
    const struct norm_shape *s = t->shape;
    *a = (struct group_norm_args){ .x = image(t->x[0], s->n, s->h, s->w, s->c),
                                   .y = image(t->y, s->n, s->h, s->w, s->c),
                                   .groups = s->groups,
                                   .eps = 1e-5f,
                                   .gamma = t->x[1],
                                   .beta = t->x[2],
                                   .silu = s->silu };
    if (!s->scale_shift) return;
    *ss = image(t->x[3], s->n, 1, 1, 2 * s->c);
    a->scale_shift = ss;
}

static void norm_forward(struct trial *t)
{
    struct group_norm_args a;
    struct tensor ss;
    norm_args(t, &a, &ss);
    EXPECT_OK(b->ops->net.group_norm(b, &a, &err));
}

static void group_norms(void **state)
{
    (void)state;
    struct norm_shape shapes[] = {
        { "group norm", 2, 3, 4, 8, 4, false, false, false },
        { "group norm, silu", 2, 3, 4, 8, 4, false, true, true },
        { "group norm, scale and shift", 2, 4, 3, 6, 2, true, false, true },
        { "group norm, scale, shift, silu", 2, 4, 3, 6, 3, true, true, false },
        { "group norm, one channel a group", 1, 3, 3, 4, 4, true, true, false },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct norm_shape *s = &shapes[i];
        struct trial t = { .name = s->name, .shape = s, .forward = norm_forward };
        size_t count = (size_t)s->n * s->h * s->w * s->c;
        input(&t, count, 2);
        input(&t, s->c, 1);
        input(&t, s->c, 1);
        if (s->scale_shift) input(&t, (size_t)s->n * 2 * s->c, 1);
        output(&t, count);
        struct group_norm_gradient_args a = { 0 };
        struct tensor ss;
        norm_args(&t, &a.forward, &ss);
        a.dy = image(t.weight, s->n, s->h, s->w, s->c);
        a.dx = (struct into){ image(t.g[0], s->n, s->h, s->w, s->c), s->add };
        a.dgamma = t.g[1];
        a.dbeta = t.g[2];
        if (s->scale_shift)
            a.dscale_shift = (struct into){ image(t.g[3], s->n, 1, 1, 2 * s->c), s->add };
        EXPECT_OK(ops->group_norm_gradient(b, &a, &err));
        check(&t, (bool[]){ s->add, true, true, s->add });
        trial_done(&t);
    }
}

static void a_norms_gradient_may_take_its_outputs_place(void **state)
{
    (void)state;
    float *x = floats(48, 1), *gamma = floats(8, 2), *beta = floats(8, 3), *dy = floats(48, 4);
    float *dx = floats(48, 5);
    struct group_norm_gradient_args a = {
        .forward = { .x = image(x, 1, 2, 3, 8), .groups = 2, .eps = 1e-5f, .silu = true },
        .dy = image(dy, 1, 2, 3, 8),
        .dx = { image(dx, 1, 2, 3, 8), false },
    };
    a.forward.gamma = gamma;
    a.forward.beta = beta;
    EXPECT_OK(ops->group_norm_gradient(b, &a, &err));
    float *again = floats(48, 4); /* what was in dy is lost */
    memcpy(dy, again, 48 * sizeof *dy);
    free(again);
    a.dx.dst = a.dy;
    EXPECT_OK(ops->group_norm_gradient(b, &a, &err));
    assert_memory_equal(dx, dy, 48 * sizeof *dx);
    float *const all[] = { x, gamma, beta, dy, dx };
    for (int i = 0; i < 5; i++)
        free(all[i]);
}

/* ---- attention ---- */

struct attention_shape {
    const char *name;
    uint32_t n, h, w, heads, ch;
    bool new_order;
    struct attention_plan *plan;
};

static void attention_forward(struct trial *t)
{
    const struct attention_shape *s = t->shape;
    uint32_t c = s->heads * s->ch;
    struct tensor qkv = image(t->x[0], s->n, s->h, s->w, 3 * c);
    struct tensor y = image(t->y, s->n, s->h, s->w, c);
    EXPECT_OK(b->ops->net.attention(b, s->plan, &qkv, &y, &err));
}

static void attentions(void **state)
{
    (void)state;
    struct attention_shape shapes[] = {
        { "attention", 2, 3, 2, 2, 4, false, NULL },
        { "attention, new order", 1, 2, 4, 3, 3, true, NULL },
        { "attention of one pixel", 1, 1, 1, 1, 4, false, NULL },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct attention_shape *s = &shapes[i];
        uint32_t c = s->heads * s->ch;
        struct trial t = { .name = s->name, .shape = s, .forward = attention_forward };
        struct attention_desc d = { s->h, s->w, s->heads, s->ch, s->new_order, DT_F32, 3 * c, c };
        struct trained_attention *a = NULL;
        EXPECT_OK(b->ops->net.attention_plan(b, &d, &s->plan, &err));
        EXPECT_OK(ops->attention_new(b, &d, &a, &err));
        input(&t, (size_t)s->n * s->h * s->w * 3 * c, 2);
        output(&t, (size_t)s->n * s->h * s->w * c);
        struct tensor qkv = image(t.x[0], s->n, s->h, s->w, 3 * c), dqkv = qkv;
        struct tensor dy = image(t.weight, s->n, s->h, s->w, c);
        dqkv.data = t.g[0];
        EXPECT_OK(ops->attention_gradient(b, a, &qkv, &dy, &dqkv, &err));
        check(&t, (bool[]){ false });
        b->ops->net.attention_plan_free(b, s->plan);
        ops->attention_free(b, a);
        trial_done(&t);
    }
}

/* ---- walks over an image ---- */

static void up_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], 2, 3, 2, 3), y = image(t->y, 2, 6, 4, 3);
    EXPECT_OK(b->ops->net.upsample(b, &x, &y, &err));
}

static void down_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], 2, 6, 4, 3), y = image(t->y, 2, 3, 2, 3);
    EXPECT_OK(b->ops->net.downsample(b, &x, &y, &err));
}

static void add_channel_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], 2, 3, 2, 3), e = image(t->x[1], 2, 1, 1, 3);
    struct tensor y = image(t->y, 2, 3, 2, 3);
    EXPECT_OK(b->ops->net.add_channel(b, &x, &e, &y, &err));
}

static void elementwise(void **state)
{
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct trial up = { .name = "upsample", .forward = up_forward };
        input(&up, 36, 1);
        output(&up, 144);
        struct tensor dy = image(up.weight, 2, 6, 4, 3);
        struct into dx = { image(up.g[0], 2, 3, 2, 3), add };
        EXPECT_OK(ops->upsample_gradient(b, &dy, &dx, &err));
        check(&up, (bool[]){ add });
        trial_done(&up);

        struct trial down = { .name = "downsample", .forward = down_forward };
        input(&down, 144, 1);
        output(&down, 36);
        dy = image(down.weight, 2, 3, 2, 3);
        dx = (struct into){ image(down.g[0], 2, 6, 4, 3), add };
        EXPECT_OK(ops->downsample_gradient(b, &dy, &dx, &err));
        check(&down, (bool[]){ add });
        trial_done(&down);

        struct trial sum = { .name = "add_channel", .forward = add_channel_forward };
        input(&sum, 36, 1);
        input(&sum, 6, 1);
        output(&sum, 36);
        dy = image(sum.weight, 2, 3, 2, 3);
        dx = (struct into){ image(sum.g[0], 2, 3, 2, 3), add };
        struct into de = { image(sum.g[1], 2, 1, 1, 3), add };
        EXPECT_OK(ops->copy_into(b, &dy, &dx, &err));
        EXPECT_OK(ops->channel_sums(b, &dy, &de, &err));
        check(&sum, (bool[]){ add, add });
        trial_done(&sum);
    }
}

/* ---- PatchGAN ---- */

enum { BATCH_PIXELS = 2 * 3 * 4, BATCH_CHANNELS = 3 };

static void batch_norm_of(struct trial *t, struct batch_norm_args *a, double *sums)
{
    *a = (struct batch_norm_args){ .x = image(t->x[0], 2, 3, 4, BATCH_CHANNELS),
                                   .gamma = t->x[1],
                                   .beta = t->x[2],
                                   .sums = sums,
                                   .count = BATCH_PIXELS,
                                   .eps = 1e-5f };
    EXPECT_OK(ops->batch_norm_sums(b, &a->x, sums, &err));
}

static void batch_norm_forward(struct trial *t)
{
    struct batch_norm_args a;
    double sums[2 * BATCH_CHANNELS];
    struct tensor y = image(t->y, 2, 3, 4, BATCH_CHANNELS);
    batch_norm_of(t, &a, sums);
    EXPECT_OK(ops->batch_norm(b, &a, &y, &err));
}

static void batch_norms(void **state)
{
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct trial t = { .name = "batch norm", .forward = batch_norm_forward };
        struct batch_norm_args a;
        double sums[2 * BATCH_CHANNELS], dsums[2 * BATCH_CHANNELS];
        input(&t, (size_t)BATCH_PIXELS * BATCH_CHANNELS, 2);
        input(&t, BATCH_CHANNELS, 1);
        input(&t, BATCH_CHANNELS, 1);
        output(&t, (size_t)BATCH_PIXELS * BATCH_CHANNELS);
        batch_norm_of(&t, &a, sums);
        struct tensor dy = image(t.weight, 2, 3, 4, BATCH_CHANNELS);
        struct into dx = { image(t.g[0], 2, 3, 4, BATCH_CHANNELS), add };
        EXPECT_OK(ops->batch_norm_gradient_sums(b, &a, &dy, dsums, t.g[1], t.g[2], &err));
        EXPECT_OK(ops->batch_norm_gradient(b, &a, &dy, dsums, &dx, &err));
        check(&t, (bool[]){ add, true, true });
        trial_done(&t);
    }
}

static void leaky_forward(struct trial *t)
{
    struct tensor x = image(t->x[0], 1, 2, 3, 5), y = image(t->y, 1, 2, 3, 5);
    EXPECT_OK(ops->leaky_relu(b, &x, 0.2f, &y, &err));
}

static void leaky_relus(void **state)
{
    (void)state;
    for (int add = 0; add < 2; add++) {
        struct trial t = { .name = "leaky relu", .forward = leaky_forward };
        input(&t, 30, 1);
        output(&t, 30);
        for (int i = 0; i < 30; i++) /* away from the kink */
            t.x[0][i] += t.x[0][i] > 0 ? 0.2f : -0.2f;
        leaky_forward(&t);
        struct tensor y = image(t.y, 1, 2, 3, 5), dy = image(t.weight, 1, 2, 3, 5);
        struct into dx = { image(t.g[0], 1, 2, 3, 5), add };
        EXPECT_OK(ops->leaky_relu_gradient(b, &y, 0.2f, &dy, &dx, &err));
        check(&t, (bool[]){ add });
        trial_done(&t);
    }
}

/* ---- the optimiser ---- */

/* Two steps worked out by hand from the formula of engine/README.md section 5, p = 1, g = 0.5 and -0.25. */
static void adamw_takes_the_published_step(void **state)
{
    (void)state;
    float p = 1, m = 0, v = 0, g = 0.5f;
    struct adamw_args a = { &p, &m, &v, &g, 1, 0.1, 0.9, 0.999, 1e-8, 0.01, 1 };
    EXPECT_OK(ops->adamw(b, &a, &err));
    assert_true(fabs((double)p - (0.999 - 0.1)) <
                1e-6); /* the first step is lr, whatever the gradient */
    g = -0.25f;
    a.step = 2;
    EXPECT_OK(ops->adamw(b, &a, &err));
    double m2 = (0.9 * 0.05 - 0.1 * 0.25) / 0.19;
    double v2 = (0.999 * 0.00025 + 0.001 * 0.0625) / (1 - 0.999 * 0.999);
    assert_true(fabs((double)p - (0.899 * 0.999 - 0.1 * m2 / (sqrt(v2) + 1e-8))) < 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions),
        cmocka_unit_test(a_residual_is_added),
        cmocka_unit_test(linear_layers),
        cmocka_unit_test(silus),
        cmocka_unit_test(label_tables),
        cmocka_unit_test(group_norms),
        cmocka_unit_test(a_norms_gradient_may_take_its_outputs_place),
        cmocka_unit_test(attentions),
        cmocka_unit_test(elementwise),
        cmocka_unit_test(batch_norms),
        cmocka_unit_test(leaky_relus),
        cmocka_unit_test(adamw_takes_the_published_step),
    };
    if (reference_backend_open(&b, &err)) return 1;
    ops = b->ops->gradients;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    b->ops->device.close(b);
    return failed;
}
