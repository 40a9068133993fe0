/* The memory plan, checked by brute force: the arena is played through with a note in every element of who wrote it last. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/fusion.h"
#include "engine/graph/plan.h"
#include "engine/nets/unet.h"
#include "tests/engine/archs.h"

struct arena {
    const struct graph *g;
    const struct plan *plan;
    uint32_t rows;
    size_t cells; /* of 2 bytes */
    int32_t *owner;
};

/* Every cell of a node's value: is it (still) its own? Or: it becomes its own. */
static size_t visit(struct arena *a, int32_t node, bool claim)
{
    const struct node *n = &a->g->nodes[node];
    const struct place *at = &a->plan->places[node];
    size_t width = n->is_embedding ? 2 : 1, strangers = 0;
    assert_int_equal(at->offset_bytes % (2 * width), 0);
    for (size_t i = 0; i < (size_t)a->rows * n->h * n->w; i++)
        for (size_t c = 0; c < n->c * width; c++) {
            size_t cell = at->offset_bytes / 2 + i * at->ld * width + c;
            assert_true(cell < a->cells);
            if (claim) a->owner[cell] = node;
            /* After its concat, a value that stands in the joined image is part of it. */
            else if (a->owner[cell] != node &&
                     (at->slice_of == NODE_NONE || a->owner[cell] != at->slice_of))
                strangers++;
        }
    return strangers;
}

static bool is_sibling(const struct graph *g, int32_t node)
{
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].sibling == node) return true;
    return false;
}

static void play(const struct graph *g, const struct plan_options *o)
{
    struct plan plan = { 0 };
    assert_int_equal(plan_init(&plan, g, o, NULL), ST_OK);
    assert_true(plan.arena_bytes < plan.sum_bytes);
    struct arena a = { g, &plan, o->rows, plan.arena_bytes / 2, NULL };
    a.owner = malloc(a.cells * sizeof *a.owner);
    assert_non_null(a.owner);
    for (size_t i = 0; i < a.cells; i++)
        a.owner[i] = NODE_NONE;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        if (n->fused || is_sibling(g, (int32_t)i)) continue;
        const int32_t in[] = { n->in[0], n->in[1], n->residual };
        for (int k = 0; k < 3; k++)
            if (in[k] != NODE_NONE) assert_int_equal(visit(&a, in[k], false), 0);
        (void)visit(&a, (int32_t)i, true);
        if (n->sibling != NODE_NONE) (void)visit(&a, n->sibling, true);
    }
    assert_int_equal(visit(&a, g->output, false), 0);
    for (uint32_t i = 0; o->keep_taps && i < g->n_nodes; i++)
        if (g->nodes[i].tap[0]) assert_int_equal(visit(&a, (int32_t)i, false), 0);
    free(a.owner);
    plan_done(&plan);
}

static struct graph *built(const struct unet_arch *arch, uint32_t h, uint32_t w)
{
    struct graph *g = NULL;
    assert_int_equal(unet_build(&g, arch, h, w, NULL), ST_OK);
    return g;
}

static void fuse_resamplings(struct graph *g)
{
    const struct backend_ops ops = { .net = { .norm_resamples = true } };
    struct backend b = { .ops = &ops };
    graph_fuse(g, &b, DT_BF16);
}

static void no_live_value_is_overwritten(void **state)
{
    (void)state;
    for (int i = 0; i <= N_ARCHS; i++) {
        struct graph *g =
            i < N_ARCHS ? built(&archs[i].arch, archs[i].h, archs[i].w) : built(&ffhq256, 32, 64);
        for (unsigned k = 0; k < 16; k++) {
            if (k == 8) fuse_resamplings(g);
            struct plan_options o = { .rows = k & 1 ? 3 : 1,
                                      .dtype = DT_BF16,
                                      .keep_taps = (k & 2) != 0,
                                      .join = (k & 4) != 0 };
            play(g, &o);
        }
        graph_free(g);
    }
}

static void every_skip_stands_in_its_concat(void **state)
{
    (void)state;
    struct graph *g = built(&ffhq256, 32, 32);
    struct plan plan = { 0 };
    struct plan_options o = { .rows = 1, .dtype = DT_F32, .join = true };
    assert_int_equal(plan_init(&plan, g, &o, NULL), ST_OK);
    unsigned concats = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        if (n->op != OP_CONCAT) continue;
        concats++;
        for (int k = 0; k < 2; k++) {
            const struct place *at = &plan.places[n->in[k]];
            size_t channel = k ? g->nodes[n->in[0]].c : 0;
            assert_int_equal(at->slice_of, i);
            assert_int_equal(at->ld, n->c);
            assert_int_equal(at->offset_bytes, plan.places[i].offset_bytes + 4 * channel);
        }
    }
    assert_int_equal(concats, 12);
    plan_done(&plan);
    graph_free(g);
}

/* What is left to resample are the images that no norm has made, those that blocks skip with: a norm does that too. */
static void a_norm_takes_the_resampling_behind_it(void **state)
{
    (void)state;
    struct graph *g = built(&ffhq256, 64, 64);
    fuse_resamplings(g);
    unsigned taken[3] = { 0 }, left = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = &g->nodes[i];
        if (n->fused) {
            assert_int_equal(graph_uses(g, (int32_t)i), 0);
            continue;
        }
        if (n->op == OP_UPSAMPLE || n->op == OP_DOWNSAMPLE) {
            assert_true(is_sibling(g, (int32_t)i));
            left++;
        }
        if (n->op != OP_GROUP_NORM) continue;
        const struct node *x = &g->nodes[n->in[0]];
        taken[n->resample]++;
        assert_true((n->sibling != NODE_NONE) == (n->resample != RESAMPLE_NONE));
        if (n->sibling != NODE_NONE) {
            assert_int_equal(g->nodes[n->sibling].in[0], n->in[0]);
            assert_int_equal(g->nodes[n->sibling].h, n->h);
        }
        assert_int_equal(n->c, x->c);
        assert_int_equal(n->resample == RESAMPLE_DOWN ? 2 * n->h : n->h,
                         n->resample == RESAMPLE_UP ? 2 * x->h : x->h);
    }
    assert_int_equal(taken[RESAMPLE_UP], 5);
    assert_int_equal(taken[RESAMPLE_DOWN], 5);
    assert_int_equal(left, 10);
    graph_free(g);
}

static void networks_have_the_published_size(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct graph *g = built(&archs[i].arch, archs[i].h, archs[i].w);
        if (archs[i].params) assert_int_equal(graph_param_count(g), archs[i].params);
        graph_free(g);
    }
    struct graph *g = built(&ffhq256, 256, 256);
    assert_int_equal(graph_param_count(g), 93563910);
    assert_int_equal((graph_flop(g) + 500000000) / 1000000000, 388);
    graph_free(g);
}

static void networks_that_cannot_be_are_refused(void **state)
{
    (void)state;
    struct graph *g = NULL;
    struct error err = { 0 };
    struct unet_arch a = ffhq256;
    assert_int_equal(unet_build(&g, &a, 48, 64, &err), ST_BAD_PARAMETER);
    assert_int_equal(unet_build(&g, &a, 0, 64, NULL), ST_BAD_PARAMETER);
    a.num_channels = 100;
    assert_int_equal(unet_build(&g, &a, 64, 64, NULL), ST_BAD_FILE);
    a = ffhq256;
    a.patch = 2;
    assert_int_equal(unet_build(&g, &a, 32, 64, NULL), ST_BAD_PARAMETER);
    a.patch = 0;
    assert_int_equal(unet_build(&g, &a, 64, 64, NULL), ST_BAD_FILE);
    a = ffhq256;
    a.num_head_channels = 60;
    assert_int_equal(unet_build(&g, &a, 64, 64, NULL), ST_BAD_FILE);
    a = ffhq256;
    a.class_cond = true;
    assert_int_equal(unet_build(&g, &a, 64, 64, NULL), ST_BAD_FILE);
    a = ffhq256;
    a.num_res_blocks = 1000;
    assert_int_equal(unet_build(&g, &a, 64, 64, NULL), ST_BAD_FILE);
    assert_null(g);
    assert_non_null(strstr(err.detail, "divisible by 32"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_live_value_is_overwritten),
        cmocka_unit_test(every_skip_stands_in_its_concat),
        cmocka_unit_test(a_norm_takes_the_resampling_behind_it),
        cmocka_unit_test(networks_have_the_published_size),
        cmocka_unit_test(networks_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
