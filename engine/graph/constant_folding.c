#include "engine/graph/constant_folding.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/graph/op_make.h"

/* The values of every embedding node for every set, in the back end's memory: node i at values +
 * at[i], [conditions][c]. */
struct embeddings {
    struct backend *b;
    const struct graph *g;
    const struct param_source *src;
    const struct condition *conditions;
    uint32_t n_conditions;
    float *values;
    size_t *at;           /* [nodes], elements */
    struct tensor *views; /* [nodes], of one set at a time */
};

/* Moves the view of a node to its value for set k. */
static void choose_set(struct embeddings *e, int32_t node, uint32_t k)
{
    if (node == NODE_NONE) return;
    const struct node *n = &e->g->nodes[node];
    e->views[node] = op_view(n, e->values + e->at[node] + (size_t)k * n->c, n->c, 1, DT_F32);
}

static enum status label_of(const struct condition *c, const struct param_desc *d, uint32_t *label,
                            struct error *err)
{
    if (c->label < 0 || (uint32_t)c->label >= d->shape[0])
        return error_set(err, ST_BAD_PARAMETER, "label %d is not one of the %u classes",
                         (int)c->label, d->shape[0]);
    *label = (uint32_t)c->label;
    return ST_OK;
}

/* One node for every set. Its weights are freed before those of the next are loaded. */
static enum status run_node(struct embeddings *e, int32_t i, struct error *err)
{
    const struct node *n = &e->g->nodes[i];
    float scalar = 0;
    uint32_t label = 0;
    struct row_values values = { .label = &label };
    struct op_maker maker = { .b = e->b, .g = e->g, .src = e->src, .rows = 1, .dtype = DT_F32 };
    struct op_step st = { 0 };
    enum status s = ST_OK;
    values.scalar[n->scalar] = &scalar;
    for (uint32_t k = 0; !s && k < e->n_conditions; k++) {
        choose_set(e, n->in[0], k);
        choose_set(e, n->in[1], k);
        choose_set(e, i, k);
        op_connect(&st, e->g, i, e->views, &values);
        scalar = condition_scalar(&e->conditions[k], n->scalar);
        if (n->op == OP_LABEL)
            s = label_of(&e->conditions[k], &e->g->params[n->weight], &label, err);
        if (!s && k == 0) s = op_make(&st, &maker, i, err);
        if (!s) s = op_run(e->b, &st, err);
    }
    op_release(&st, e->b);
    return s;
}

static void embeddings_done(struct embeddings *e)
{
    if (e->b) e->b->ops->device.free(e->b, e->values);
    free(e->at);
    free(e->views);
}

static enum status compute_embeddings(struct embeddings *e, struct error *err)
{
    size_t total = 0;
    e->at = calloc(e->g->n_nodes, sizeof *e->at);
    e->views = calloc(e->g->n_nodes, sizeof *e->views);
    if (!e->at || !e->views) return error_set(err, ST_NO_MEMORY_NOW, "no memory for embeddings");
    for (uint32_t i = 0; i < e->g->n_nodes; i++) {
        if (!e->g->nodes[i].is_embedding) continue;
        e->at[i] = total;
        total += (size_t)e->g->nodes[i].c * e->n_conditions;
        total = (total + 15) / 16 * 16;
    }
    if (total == 0) return ST_OK;
    void *memory = NULL;
    enum status s = e->b->ops->device.alloc(e->b, total * sizeof *e->values, &memory, err);
    e->values = memory;
    for (uint32_t i = 0; !s && i < e->g->n_nodes; i++)
        if (e->g->nodes[i].is_embedding) s = run_node(e, (int32_t)i, err);
    return s;
}

/* gamma' = gamma (1 + scale), beta' = beta (1 + scale) + shift */
static enum status fold_norm(struct folded *f, const struct embeddings *e, const struct node *n,
                             int32_t to, struct error *err)
{
    size_t c = n->c;
    float *ss = malloc(2 * c * e->n_conditions * sizeof *ss);
    float *gamma = NULL, *beta = NULL;
    f->gamma[to] = malloc(c * e->n_conditions * sizeof **f->gamma);
    f->beta[to] = malloc(c * e->n_conditions * sizeof **f->beta);
    enum status s = ST_OK;
    if (!ss || !f->gamma[to] || !f->beta[to]) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for folded constants");
        goto done;
    }
    s = param_load(e->src, &e->g->params[n->weight], &gamma, err);
    if (s) goto done;
    s = param_load(e->src, &e->g->params[n->bias], &beta, err);
    if (s) goto done;
    s = device_copy_out(e->b, ss, e->values + e->at[n->in[1]], 2 * c * e->n_conditions * sizeof *ss,
                        err);
    if (s) goto done;
    for (size_t k = 0; k < e->n_conditions; k++)
        for (size_t i = 0; i < c; i++) {
            double scale = 1.0 + (double)ss[2 * c * k + i];
            f->gamma[to][c * k + i] = (float)(gamma[i] * scale);
            f->beta[to][c * k + i] = (float)(beta[i] * scale + (double)ss[2 * c * k + c + i]);
        }
done:
    free(ss);
    free(gamma);
    free(beta);
    return s;
}

/* bias' = bias + e */
static enum status fold_bias(struct folded *f, const struct embeddings *e, const struct node *conv,
                             int32_t embedding, int32_t to, struct error *err)
{
    size_t c = conv->c;
    float *bias = NULL;
    f->beta[to] = malloc(c * e->n_conditions * sizeof **f->beta);
    if (!f->beta[to]) return error_set(err, ST_NO_MEMORY_NOW, "no memory for folded constants");
    enum status s = param_load(e->src, &e->g->params[conv->bias], &bias, err);
    if (!s)
        s = device_copy_out(e->b, f->beta[to], e->values + e->at[embedding],
                            c * e->n_conditions * sizeof *bias, err);
    for (size_t k = 0; !s && k < e->n_conditions; k++)
        for (size_t i = 0; i < c; i++)
            f->beta[to][c * k + i] += bias[i];
    free(bias);
    return s;
}

static bool folds_into_bias(const struct graph *g, const struct node *add)
{
    const struct node *conv = &g->nodes[add->in[0]];
    return conv->op == OP_CONV && conv->bias != NODE_NONE && !conv->tap[0] &&
           graph_uses(g, add->in[0]) == 1;
}

void fold_order_biases(struct graph *g)
{
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct node *add = &g->nodes[i];
        if (add->op != OP_ADD_CHANNEL || !folds_into_bias(g, add) || graph_uses(g, add->in[1]) != 1)
            continue;
        add->bias = g->nodes[add->in[0]].bias;
        g->nodes[add->in[0]].bias = NODE_NONE;
    }
}

static int32_t moved(const int32_t *to, int32_t node)
{
    return node == NODE_NONE ? NODE_NONE : to[node];
}

/* Copies the nodes that remain, in order; to[i] is the new node that computes old node i's
 * value. */
static enum status rewrite(struct folded *f, const struct embeddings *e, int32_t *to,
                           struct error *err)
{
    const struct graph *g = e->g;
    f->g->n_nodes = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct node n = g->nodes[i];
        enum status s = ST_OK;
        to[i] = NODE_NONE;
        if (n.is_embedding) continue;
        if (n.op == OP_ADD_CHANNEL) {
            if (!folds_into_bias(g, &n))
                return error_set(err, ST_UNSUPPORTED,
                                 "an embedding is added to a %s output: it cannot be folded",
                                 op_name(g->nodes[n.in[0]].op));
            to[i] = to[n.in[0]];
            memcpy(f->g->nodes[to[i]].tap, n.tap, sizeof n.tap);
            s = fold_bias(f, e, &g->nodes[n.in[0]], n.in[1], to[i], err);
            if (s) return s;
            continue;
        }
        to[i] = (int32_t)f->g->n_nodes++;
        if (n.op == OP_GROUP_NORM && n.in[1] != NODE_NONE) {
            s = fold_norm(f, e, &n, to[i], err);
            if (s) return s;
        }
        n.in[0] = moved(to, n.in[0]);
        n.in[1] = moved(to, n.in[1]);
        n.residual = moved(to, n.residual);
        f->g->nodes[to[i]] = n;
    }
    f->g->input = to[g->input];
    f->g->output = to[g->output];
    return ST_OK;
}

enum status fold_init(struct folded *out, struct backend *b, const struct graph *g,
                      const struct param_source *src, const struct condition *conditions,
                      uint32_t n_conditions, struct error *err)
{
    struct folded f = { .conditions = n_conditions };
    struct embeddings e = {
        .b = b, .g = g, .src = src, .conditions = conditions, .n_conditions = n_conditions
    };
    int32_t *to = calloc(g->n_nodes, sizeof *to);
    f.g = graph_copy(g);
    f.gamma = calloc(g->n_nodes, sizeof *f.gamma);
    f.beta = calloc(g->n_nodes, sizeof *f.beta);
    enum status s = ST_OK;
    if (!to || !f.g || !f.gamma || !f.beta) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to fold %u nodes", g->n_nodes);
        goto done;
    }
    s = compute_embeddings(&e, err);
    if (s) goto done;
    s = rewrite(&f, &e, to, err);
    if (s) goto done;
    *out = f;
    f = (struct folded){ 0 };
done:
    fold_done(&f);
    embeddings_done(&e);
    free(to);
    return s;
}

void fold_done(struct folded *f)
{
    for (uint32_t i = 0; f->g && i < f->g->n_nodes; i++) {
        if (f->gamma) free(f->gamma[i]);
        if (f->beta) free(f->beta[i]);
    }
    free(f->gamma);
    free(f->beta);
    graph_free(f->g);
    *f = (struct folded){ 0 };
}
