/* small_net.h - the networks of archs.h as programs on the reference back end, with rows to run.
 *
 * For one test program each, after cmocka.h. */
#ifndef DAVID_TESTS_SMALL_NET_H
#define DAVID_TESTS_SMALL_NET_H

#include <stdlib.h>

#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "tests/engine/archs.h"

#define SMALL_NET_FN static inline __attribute__((unused))

enum { ROWS = 3 }; /* one more than a batch of the reference */
static uint64_t seed = 7;
static const struct param_source hashes = { hash_param_load, &seed };
static const struct condition conditions[] = { { 999, 2, 20, 300 },
                                               { 3, 0, 401.5, 0 },
                                               { 500, 4, 0, 99 } };
static const float t[ROWS] = { 999, 3, 500 }, sigma[ROWS] = { 20, 401.5, 0 },
                   level[ROWS] = { 300, 0, 99 };
static const uint32_t label[ROWS] = { 2, 0, 4 }, condition[ROWS] = { 0, 1, 2 };

struct net {
    struct backend *b;
    struct graph *g;
    float *x, *y;
    size_t px, x_row, y_row; /* of a row; elements */
};

SMALL_NET_FN struct net net_of(const struct named_arch *a)
{
    struct net n = { 0 };
    assert_int_equal(reference_backend_open(&n.b, NULL), ST_OK);
    assert_int_equal(unet_build(&n.g, &a->arch, a->h, a->w, NULL), ST_OK);
    n.px = (size_t)a->h * a->w;
    n.x_row = n.px * arch_input_channels(&a->arch);
    n.y_row = (size_t)a->h * a->w * n.g->nodes[n.g->output].c;
    n.x = malloc(ROWS * n.x_row * sizeof *n.x);
    n.y = malloc(ROWS * n.y_row * sizeof *n.y);
    assert_non_null(n.x);
    assert_non_null(n.y);
    hash_values("x", 1, n.x, ROWS * n.x_row);
    return n;
}

SMALL_NET_FN void net_done(struct net *n)
{
    free(n->x);
    free(n->y);
    graph_free(n->g);
    n->b->ops->device.close(n->b);
}

SMALL_NET_FN struct program *program_of(const struct net *n, struct program_options o)
{
    struct program *p = NULL;
    o.dtype = DT_F32;
    assert_int_equal(program_new(&p, n->b, n->g, &hashes, &o, NULL), ST_OK);
    return p;
}

#endif
