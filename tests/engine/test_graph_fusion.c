/* Fused programs on back ends made of the reference's ops: fusion changes no byte of what a network
 * computes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/small_net.h"

/* The ops as the program would have asked for them; a block's skip last, where another's memory
 * would no longer be free. */
static const struct backend_ops *unfused;
static unsigned resampled_norms, siblings;

static enum status resampling_norm(struct backend *b, const struct group_norm_args *a,
                                   struct error *err)
{
    struct group_norm_args norm = *a;
    if (!a->resample) return unfused->net.group_norm(b, a, err);
    const size_t count = (size_t)a->x.n * a->x.h * a->x.w * a->x.c;
    assert_ptr_not_equal(a->x.data, a->y.data);
    norm.resample = RESAMPLE_NONE;
    norm.y = a->x;
    norm.y.ld = a->x.c;
    norm.y.data = malloc(count * sizeof(float));
    assert_non_null(norm.y.data);
    enum status s = unfused->net.group_norm(b, &norm, err);
    const bool is_up = a->resample == RESAMPLE_UP;
    if (!s) s = (is_up ? unfused->net.upsample : unfused->net.downsample)(b, &norm.y, &a->y, err);
    if (!s && a->x_too)
        s = (is_up ? unfused->net.upsample : unfused->net.downsample)(b, &a->x, a->x_too, err);
    free(norm.y.data);
    resampled_norms++;
    siblings += a->x_too != NULL;
    return s;
}

/* Makes the program for the back end's ops of now, and runs it. y: as n->y */
static void run(struct net *n, bool folded, float *y)
{
    struct program *p = program_of(
        n, (struct program_options){ .conditions = folded ? conditions : NULL, .n_conditions = 3 });
    const struct program_io io = { .x = n->x,
                                   .y = y,
                                   .t = t,
                                   .sigma = sigma,
                                   .level = level,
                                   .label = label,
                                   .condition = condition };
    assert_int_equal(program_run(p, &io, ROWS, NULL), ST_OK);
    program_free(p);
}

static void norms_that_resample_change_no_byte(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        struct backend_ops ops = *n.b->ops;
        unfused = n.b->ops;
        ops.net.norm_resamples = true;
        ops.net.group_norm = resampling_norm;
        float *fused = malloc(ROWS * n.y_row * sizeof *fused);
        assert_non_null(fused);
        for (int folded = 0; folded < 2; folded++) {
            run(&n, folded, n.y);
            n.b->ops = &ops;
            resampled_norms = siblings = 0;
            run(&n, folded, fused);
            n.b->ops = unfused;
            assert_true((resampled_norms > 0) == archs[i].arch.resblock_updown);
            assert_int_equal(siblings, resampled_norms);
            assert_memory_equal(fused, n.y, ROWS * n.y_row * sizeof *fused);
        }
        free(fused);
        net_done(&n);
    }
}

/* A back end that can fuse a norm into a convolution, made of the reference's ops: it also keeps
 * the moments of what it writes, and finds in those of what it reads the sums of x. */
enum { MAX_PLANS = 256 };
static struct {
    const struct conv_plan *plan;
    struct prologue_desc desc;
} prologues[MAX_PLANS];
static unsigned n_plans, fused_norms, read_moments;

static bool every_prologue(struct backend *b, const struct conv_desc *d)
{
    (void)b;
    (void)d;
    return true;
}

static enum status plan_with_prologue(struct backend *b, const struct conv_desc *d,
                                      const float *weight, const float *bias,
                                      struct conv_plan **out, struct error *err)
{
    struct conv_desc inner = *d;
    if (d->prologue.norm) inner.x_ld = d->ic; /* of the feature map in between */
    inner.prologue = (struct prologue_desc){ 0 };
    assert_true(n_plans < MAX_PLANS);
    enum status s = unfused->net.conv_plan(b, &inner, weight, bias, out, err);
    prologues[n_plans].plan = *out;
    prologues[n_plans++].desc = d->prologue;
    return s;
}

static void sums_of(const struct tensor *x, uint32_t n, uint32_t c, double sums[2])
{
    sums[0] = sums[1] = 0;
    for (size_t i = 0; i < (size_t)x->h * x->w; i++) {
        const double v =
            (double)((const float *)x->data)[((size_t)n * x->h * x->w + i) * x->ld + c];
        sums[0] += v;
        sums[1] += v * v;
    }
}

static void expect_moments(const struct tensor *x, const struct prologue_args *a)
{
    if (!a->in[0].data) return;
    for (uint32_t n = 0; n < x->n; n++)
        for (uint32_t c = 0; c < x->c; c++) {
            const struct moments *m = &a->in[c >= a->split];
            const uint32_t k = c < a->split ? c : c - a->split;
            double sums[2];
            sums_of(x, n, c, sums);
            assert_true(m->data[2 * n * m->ld + k] == sums[0]);
            assert_true(m->data[(2 * n + 1) * m->ld + k] == sums[1]);
        }
    read_moments++;
}

static void keep_moments(const struct tensor *y, const struct moments *out)
{
    for (uint32_t n = 0; out->data && n < y->n; n++)
        for (uint32_t c = 0; c < y->c; c++) {
            double sums[2];
            sums_of(y, n, c, sums);
            out->data[2 * n * out->ld + c] = sums[0];
            out->data[(2 * n + 1) * out->ld + c] = sums[1];
        }
}

static struct tensor tight(const struct tensor *like, uint32_t h, uint32_t w)
{
    struct tensor y = *like;
    y.h = h;
    y.w = w;
    y.ld = y.c;
    y.data = malloc((size_t)y.n * h * w * y.c * sizeof(float));
    assert_non_null(y.data);
    return y;
}

static enum status conv_after_norm(struct backend *b, struct conv_plan *p, const struct tensor *x,
                                   const struct prologue_args *a, const struct tensor *residual,
                                   const struct tensor *y, const uint32_t *set, struct error *err)
{
    unsigned at = 0;
    while (at < n_plans && prologues[at].plan != p)
        at++;
    assert_true(at < n_plans);
    const struct prologue_desc *d = &prologues[at].desc;
    struct tensor normed = { 0 }, resampled = { 0 };
    enum status s = ST_OK;
    if (d->norm) {
        const bool is_up = d->resample == RESAMPLE_UP;
        expect_moments(x, a);
        normed = tight(x, x->h, x->w);
        const struct group_norm_args norm = { .x = *x,
                                              .y = normed,
                                              .groups = d->groups,
                                              .eps = d->eps,
                                              .gamma = a->gamma,
                                              .beta = a->beta,
                                              .condition = a->condition,
                                              .scale_shift = a->scale_shift,
                                              .silu = d->silu };
        s = unfused->net.group_norm(b, &norm, err);
        if (d->resample) {
            resampled = is_up ? tight(x, 2 * x->h, 2 * x->w) : tight(x, x->h / 2, x->w / 2);
            if (!s)
                s = (is_up ? unfused->net.upsample : unfused->net.downsample)(b, &normed,
                                                                              &resampled, err);
        }
        x = d->resample ? &resampled : &normed;
        fused_norms++;
    }
    if (!s) s = unfused->net.conv(b, p, x, residual, y, set, err);
    if (!s) keep_moments(y, &a->out);
    free(normed.data);
    free(resampled.data);
    return s;
}

static void norms_in_prologues_change_no_byte(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        struct backend_ops ops = *n.b->ops;
        float *fused = malloc(ROWS * n.y_row * sizeof *fused);
        assert_non_null(fused);
        unfused = n.b->ops;
        ops.net.supports_prologue = every_prologue;
        ops.net.conv_plan = plan_with_prologue;
        ops.net.conv_with_prologue = conv_after_norm;
        for (int folded = 0; folded < 2; folded++) {
            run(&n, folded, n.y);
            n.b->ops = &ops;
            n_plans = fused_norms = read_moments = 0;
            run(&n, folded, fused);
            n.b->ops = unfused;
            assert_true(fused_norms > 0 && read_moments > 0);
            assert_memory_equal(fused, n.y, ROWS * n.y_row * sizeof *fused);
        }
        free(fused);
        net_done(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_that_resample_change_no_byte),
        cmocka_unit_test(norms_in_prologues_change_no_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
