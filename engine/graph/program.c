#include "engine/graph/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/graph/absorb.h"
#include "engine/graph/device.h"
#include "engine/graph/fold.h"
#include "engine/graph/plan.h"

/* One node with everything its run needs: views into the arena, packed weights, constants. */
struct step {
    enum op op;
    struct tensor in[2], residual, y;
    bool has_in1, has_residual, silu;
    bool by_set; /* its constants differ from set to set */
    struct conv_plan *conv;
    struct linear_plan *linear;
    struct attention_plan *attention;
    void *gamma, *beta, *table; /* device memory */
    const struct step *norm;    /* CONV: the absorbed norm, whose constants its input stage takes */
    struct conv_stage stage;    /* CONV: what of it does not change from pass to pass */
    bool staged;
};

struct program {
    struct backend *b;
    struct graph *g; /* as it runs: folded or not */
    struct plan plan;
    struct step *steps; /* [g->n_nodes] */
    void *arena;
    double *moments; /* of the outputs that norms ask for, [rows][2][c] each; NULL: none are kept */
    size_t weight_bytes, moments_count;
    uint32_t rows; /* of the largest pass: what memory is taken for */
    uint32_t pass; /* of the pass that the views stand for */
    uint32_t sets; /* 0: unfolded */
    uint32_t classes;
    enum dtype dtype;
    bool keep_taps, time_ops;
    /* The pass's rows, filled up to `rows` where the last pass has fewer. */
    float *t;
    uint32_t *label, *set;
    uint64_t op_ns[OP_COUNT];
};

/* ---- making ---- */

struct making {
    struct program *p;
    const struct folded *folded; /* NULL: unfolded */
    const struct param_source *src;
    struct error *err;
};

static struct tensor view(const struct program *p, int32_t node)
{
    const struct node *n = &p->g->nodes[node];
    const struct place *at = &p->plan.places[node];
    return (struct tensor){ .data = (char *)p->arena + at->offset_bytes,
                            .dtype = n->is_embedding ? DT_F32 : p->dtype,
                            .n = p->rows,
                            .h = n->h,
                            .w = n->w,
                            .c = n->c,
                            .ld = at->ld };
}

static enum status upload(struct making *m, const float *values, size_t count, void **out)
{
    m->p->weight_bytes += count * sizeof *values;
    return device_upload(m->p->b, values, count * sizeof *values, out, m->err);
}

static enum status make_conv(struct making *m, struct step *st, int32_t i)
{
    struct program *p = m->p;
    const struct node *n = &p->g->nodes[i];
    const float *folded = m->folded ? m->folded->beta[i] : NULL;
    float *weight = NULL, *bias = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &weight, m->err);
    if (s) goto done;
    if (!folded) {
        s = param_load(m->src, &p->g->params[n->bias], &bias, m->err);
        if (s) goto done;
    }
    struct conv_desc d = { .h = st->in[0].h,
                           .w = st->in[0].w,
                           .ic = st->in[0].c,
                           .oc = n->c,
                           .kernel = n->kernel,
                           .stride = n->stride,
                           .sets = folded ? m->folded->sets : 1,
                           .dtype = p->dtype,
                           .x_ld = st->in[0].ld,
                           .y_ld = st->y.ld,
                           .r_ld = st->has_residual ? st->residual.ld : 0,
                           .input = absorbed_input(p->g, i),
                           .rows = p->rows };
    if (d.input.resample == RESAMPLE_UP) {
        d.h *= 2;
        d.w *= 2;
    } else if (d.input.resample == RESAMPLE_DOWN) {
        d.h /= 2;
        d.w /= 2;
    }
    st->by_set = folded != NULL;
    /* Where fewer output channels are wanted the weights' and bias's first rows are all that is read. */
    s = p->b->ops->conv_plan(p->b, &d, weight, folded ? folded : bias, &st->conv, m->err);
    if (!s)
        p->weight_bytes += p->b->ops->conv_plan_bytes
                               ? p->b->ops->conv_plan_bytes(st->conv)
                               : (size_t)d.oc * d.ic * d.kernel * d.kernel * dtype_size(p->dtype) +
                                     (size_t)d.sets * d.oc * sizeof *bias;
done:
    free(weight);
    free(bias);
    return s;
}

static enum status make_linear(struct making *m, struct step *st, const struct node *n)
{
    struct program *p = m->p;
    float *weight = NULL, *bias = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &weight, m->err);
    if (s) goto done;
    s = param_load(m->src, &p->g->params[n->bias], &bias, m->err);
    if (s) goto done;
    s = p->b->ops->linear_plan(p->b, st->in[0].c, n->c, weight, bias, &st->linear, m->err);
    p->weight_bytes += ((size_t)st->in[0].c + 1) * n->c * sizeof *weight;
done:
    free(weight);
    free(bias);
    return s;
}

static enum status make_norm(struct making *m, struct step *st, int32_t i)
{
    struct program *p = m->p;
    const struct node *n = &p->g->nodes[i];
    if (m->folded && m->folded->gamma[i]) {
        size_t count = (size_t)n->c * m->folded->sets;
        st->by_set = true;
        enum status s = upload(m, m->folded->gamma[i], count, &st->gamma);
        return s ? s : upload(m, m->folded->beta[i], count, &st->beta);
    }
    float *gamma = NULL, *beta = NULL;
    enum status s = param_load(m->src, &p->g->params[n->weight], &gamma, m->err);
    if (s) goto done;
    s = param_load(m->src, &p->g->params[n->bias], &beta, m->err);
    if (s) goto done;
    s = upload(m, gamma, n->c, &st->gamma);
    if (s) goto done;
    s = upload(m, beta, n->c, &st->beta);
done:
    free(gamma);
    free(beta);
    return s;
}

static enum status make_label(struct making *m, struct step *st, const struct node *n)
{
    const struct param_desc *d = &m->p->g->params[n->weight];
    float *table = NULL;
    enum status s = param_load(m->src, d, &table, m->err);
    if (s) return s;
    m->p->classes = d->shape[0];
    s = upload(m, table, d->count, &st->table);
    free(table);
    return s;
}

static enum status make_attention(struct making *m, struct step *st, const struct node *n)
{
    struct program *p = m->p;
    struct attention_desc d = { .h = n->h,
                                .w = n->w,
                                .heads = n->heads,
                                .head_channels = n->c / n->heads,
                                .new_order = n->new_order,
                                .dtype = p->dtype,
                                .qkv_ld = st->in[0].ld,
                                .y_ld = st->y.ld };
    return p->b->ops->attention_plan(p->b, &d, &st->attention, m->err);
}

static enum status make_step(struct making *m, int32_t i)
{
    struct program *p = m->p;
    struct step *st = &p->steps[i];
    const struct node *n = &p->g->nodes[i];
    st->op = n->op;
    st->silu = n->silu;
    if (n->absorbed) return n->op == OP_GROUP_NORM ? make_norm(m, st, i) : ST_OK;
    st->y = view(p, i);
    st->has_in1 = n->in[1] != NODE_NONE;
    st->has_residual = n->residual != NODE_NONE;
    if (n->in[0] != NODE_NONE) st->in[0] = view(p, n->in[0]);
    if (st->has_in1) st->in[1] = view(p, n->in[1]);
    if (st->has_residual) st->residual = view(p, n->residual);
    if (n->norm != NODE_NONE) st->norm = &p->steps[n->norm];
    switch (n->op) {
    case OP_CONV: return make_conv(m, st, i);
    case OP_LINEAR: return make_linear(m, st, n);
    case OP_GROUP_NORM: return make_norm(m, st, i);
    case OP_LABEL: return make_label(m, st, n);
    case OP_ATTENTION: return make_attention(m, st, n);
    default: return ST_OK;
    }
}

/* The first `channels` outputs are all that the caller wants of the last convolution. */
static enum status shrink_output(struct graph *g, uint32_t channels, struct error *err)
{
    struct node *n = &g->nodes[g->output];
    if (channels == 0 || channels == n->c) return ST_OK;
    if (n->op != OP_CONV || n->residual != NODE_NONE || channels > n->c)
        return error_set(err, ST_BAD_PARAMETER, "output_channels = %u of the %u of a %s node",
                         channels, n->c, op_name(n->op));
    n->c = channels;
    return ST_OK;
}

/* ---- moments ---- */

static struct moments *moments_of(struct program *p, int32_t node)
{
    return &p->steps[node].stage.out;
}

/* Room for the moments of a convolution's output, in elements from the start for now: the memory comes when all are known. */
static void keep_moments(struct program *p, int32_t node)
{
    struct moments *m = moments_of(p, node);
    if (m->ld) return;
    m->ld = p->g->nodes[node].c;
    p->moments_count += 2 * m->ld * p->rows;
}

/* The convolutions whose outputs a norm's input consists of: one, or two joined. 0: something else. */
static int sources_of(const struct graph *g, int32_t node, int32_t source[2])
{
    const struct node *n = &g->nodes[node];
    int count = n->op == OP_CONCAT ? 2 : 1;
    for (int k = 0; k < count; k++) {
        source[k] = count == 2 ? n->in[k] : node;
        if (g->nodes[source[k]].op != OP_CONV) return 0;
    }
    return count;
}

static enum status make_moments(struct making *m)
{
    struct program *p = m->p;
    const struct graph *g = p->g;
    int32_t source[2];
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != OP_CONV || g->nodes[i].norm == NODE_NONE) continue;
        for (int k = sources_of(g, g->nodes[i].in[0], source); k-- > 0;)
            keep_moments(p, source[k]);
    }
    if (p->moments_count == 0) return ST_OK;
    void *memory = NULL;
    enum status s = p->b->ops->alloc(p->b, p->moments_count * sizeof *p->moments, &memory, m->err);
    if (s) return s;
    double *at = p->moments = memory;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct moments *out = moments_of(p, (int32_t)i);
        if (!out->ld) continue;
        out->data = at;
        at += 2 * out->ld * p->rows;
    }
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        struct step *st = &p->steps[i];
        if (g->nodes[i].op != OP_CONV) continue;
        st->staged = st->stage.out.data || g->nodes[i].norm != NODE_NONE;
        if (g->nodes[i].norm == NODE_NONE) continue;
        st->stage.split = st->in[0].c;
        int count = sources_of(g, g->nodes[i].in[0], source);
        for (int k = 0; k < count; k++)
            st->stage.in[k] = *moments_of(p, source[k]);
        if (count == 2) st->stage.split = g->nodes[source[0]].c;
    }
    return ST_OK;
}

static enum status make(struct making *m, const struct program_options *o)
{
    struct program *p = m->p;
    struct error *err = m->err;
    enum status s = shrink_output(p->g, o->output_channels, err);
    if (s) return s;
    graph_absorb(p->g, p->b, p->dtype);
    struct plan_options po = {
        .rows = p->rows, .dtype = p->dtype, .keep_taps = o->keep_taps, .join = true
    };
    s = plan_init(&p->plan, p->g, &po, err);
    if (s) return s;
    p->steps = calloc(p->g->n_nodes, sizeof *p->steps);
    p->t = calloc(p->rows, sizeof *p->t);
    p->label = calloc(p->rows, sizeof *p->label);
    p->set = calloc(p->rows, sizeof *p->set);
    if (!p->steps || !p->t || !p->label || !p->set)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a program of %u nodes",
                         p->g->n_nodes);
    s = p->b->ops->alloc(p->b, p->plan.arena_bytes, &p->arena, err);
    for (uint32_t i = 0; !s && i < p->g->n_nodes; i++)
        s = make_step(m, (int32_t)i);
    return s ? s : make_moments(m);
}

static enum status program_of(struct program **out, struct backend *b, const struct graph *g,
                              const struct folded *folded, const struct param_source *src,
                              const struct program_options *o, uint32_t rows, struct error *err)
{
    struct program *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a program");
    p->b = b;
    p->rows = p->pass = rows;
    p->dtype = o->dtype;
    p->keep_taps = o->keep_taps;
    p->time_ops = o->time_ops;
    p->sets = folded ? folded->sets : 0;
    p->g = graph_copy(folded ? folded->g : g);
    struct making m = { p, folded, src, err };
    enum status s = p->g ? make(&m, o) : error_set(err, ST_NO_MEMORY_NOW, "no memory for a graph");
    if (!s) *out = p;
    if (s) program_free(p);
    return s;
}

enum status program_new(struct program **out, struct backend *b, const struct graph *g,
                        const struct param_source *src, const struct program_options *o,
                        struct error *err)
{
    if (!b->ops->has_dtype(b, o->dtype))
        return error_set(err, ST_UNSUPPORTED, "the back end %s cannot compute in %s", b->ops->name,
                         dtype_name(o->dtype));
    if (o->sets && o->n_sets == 0)
        return error_set(err, ST_BAD_PARAMETER, "a folded program needs at least one set");
    struct folded folded = { 0 };
    enum status s = ST_OK;
    if (o->sets) s = fold_init(&folded, b, g, src, o->sets, o->n_sets, err);
    /* Where the back end has passes of several sizes, the largest that finds memory. */
    uint32_t rows = b->ops->rows_per_pass(b);
    while (!s) {
        struct error why = { 0 };
        s = program_of(out, b, g, o->sets ? &folded : NULL, src, o, rows, &why);
        if (!s) break;
        uint32_t less = rows;
        if (s == ST_NO_MEMORY_NOW && rows > 1 && b->ops->pass_rows)
            less = b->ops->pass_rows(b, rows / 2);
        s = less < rows ? ST_OK : error_set(err, s, "%s", why.detail);
        rows = less;
    }
    fold_done(&folded);
    return s;
}

void program_free(struct program *p)
{
    if (!p) return;
    const struct backend_ops *ops = p->b->ops;
    if (ops->pass_forget) ops->pass_forget(p->b, p);
    for (uint32_t i = 0; p->steps && i < p->g->n_nodes; i++) {
        struct step *st = &p->steps[i];
        if (st->conv) ops->conv_plan_free(p->b, st->conv);
        if (st->linear) ops->linear_plan_free(p->b, st->linear);
        if (st->attention) ops->attention_plan_free(p->b, st->attention);
        ops->free(p->b, st->gamma);
        ops->free(p->b, st->beta);
        ops->free(p->b, st->table);
    }
    ops->free(p->b, p->arena);
    ops->free(p->b, p->moments);
    plan_done(&p->plan);
    graph_free(p->g);
    free(p->steps);
    free(p->t);
    free(p->label);
    free(p->set);
    free(p);
}

uint32_t program_rows(const struct program *p)
{
    return p->rows;
}

size_t program_bytes(const struct program *p)
{
    return p->plan.arena_bytes + p->weight_bytes + p->moments_count * sizeof *p->moments;
}

/* ---- running ---- */

static enum status run_norm(struct program *p, const struct step *st, struct error *err)
{
    struct group_norm_args a = { .x = st->in[0],
                                 .y = st->y,
                                 .groups = NORM_GROUPS,
                                 .eps = NORM_EPS,
                                 .gamma = st->gamma,
                                 .beta = st->beta,
                                 .set = st->by_set ? p->set : NULL,
                                 .scale_shift = st->has_in1 ? &st->in[1] : NULL,
                                 .silu = st->silu };
    return p->b->ops->group_norm(p->b, &a, err);
}

static enum status run_conv(struct program *p, const struct step *st, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    const struct tensor *residual = st->has_residual ? &st->residual : NULL;
    const uint32_t *set = st->by_set ? p->set : NULL;
    if (!st->staged) return ops->conv(p->b, st->conv, &st->in[0], residual, &st->y, set, err);
    struct conv_stage stage = st->stage;
    if (st->norm) {
        stage.gamma = st->norm->gamma;
        stage.beta = st->norm->beta;
        stage.set = st->norm->by_set ? p->set : NULL;
        stage.scale_shift = st->has_in1 ? &st->in[1] : NULL;
    }
    return ops->conv_staged(p->b, st->conv, &st->in[0], &stage, residual, &st->y, set, err);
}

static enum status run_step(struct program *p, const struct step *st, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    const struct tensor *x = &st->in[0], *other = &st->in[1], *y = &st->y;
    switch (st->op) {
    case OP_INPUT: return ST_OK; /* filled by program_run */
    case OP_TIMESTEP: return ops->timestep(p->b, p->t, y, err);
    case OP_LABEL: return ops->label(p->b, st->table, p->label, y, err);
    case OP_LINEAR: return ops->linear(p->b, st->linear, x, y, err);
    case OP_SILU: return ops->silu(p->b, x, y, err);
    case OP_ADD: return ops->add(p->b, x, other, y, err);
    case OP_ADD_CHANNEL: return ops->add_channel(p->b, x, other, y, err);
    case OP_CONV: return run_conv(p, st, err);
    case OP_GROUP_NORM: return run_norm(p, st, err);
    case OP_ATTENTION: return ops->attention(p->b, st->attention, x, y, err);
    case OP_UPSAMPLE: return ops->upsample(p->b, x, y, err);
    case OP_DOWNSAMPLE: return ops->downsample(p->b, x, y, err);
    case OP_CONCAT: return ops->concat(p->b, x, other, y, err);
    case OP_BATCH_NORM:
    case OP_LEAKY_RELU: /* of training alone */
    case OP_COUNT: break;
    }
    return error_set(err, ST_INTERNAL, "op %d", (int)st->op);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static enum status run_ops(struct program *p, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < p->g->n_nodes; i++) {
        if (p->g->nodes[i].absorbed) continue;
        uint64_t start = p->time_ops ? now_ns() : 0;
        s = run_step(p, &p->steps[i], err);
        if (!p->time_ops) continue;
        if (!s && ops->finish) s = ops->finish(p->b, err);
        p->op_ns[p->steps[i].op] += now_ns() - start;
    }
    return s;
}

/* Times of ops are those of ops, not of what was recorded of them. */
static enum status run_pass(struct program *p, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    const struct pass pass = { .key = p,
                               .rows = p->pass,
                               .t = p->sets ? NULL : p->t,
                               .label = p->classes ? p->label : NULL,
                               .set = p->sets ? p->set : NULL };
    bool is_replayed = false;
    if (!ops->pass_begin || p->time_ops) return run_ops(p, err);
    enum status s = ops->pass_begin(p->b, &pass, &is_replayed, err);
    if (s || is_replayed) return s;
    s = run_ops(p, err);
    enum status end = ops->pass_end(p->b, s == ST_OK, err);
    return s ? s : end;
}

/* The views of all steps stand for the first `rows` rows from now on. */
static void choose_pass(struct program *p, uint32_t rows)
{
    if (rows == p->pass) return;
    for (struct step *st = p->steps; st < p->steps + p->g->n_nodes; st++)
        st->in[0].n = st->in[1].n = st->residual.n = st->y.n = rows;
    p->pass = rows;
}

static struct tensor rows_of(struct tensor t, uint32_t first, uint32_t n)
{
    t.data = (char *)t.data + (size_t)first * t.h * t.w * t.ld * dtype_size(t.dtype);
    t.n = n;
    return t;
}

/* A tight F32 picture of the caller's, shaped as `like`. */
static struct tensor outside(const float *data, const struct tensor *like, uint32_t first,
                             uint32_t n)
{
    struct tensor t = *like;
    t.data = (void *)data;
    t.dtype = DT_F32;
    t.ld = t.c;
    return rows_of(t, first, n);
}

static enum status check_io(const struct program *p, const struct program_io *io, uint32_t rows,
                            struct error *err)
{
    for (uint32_t i = 0; i < rows; i++) {
        if (p->sets && io->set && io->set[i] >= p->sets)
            return error_set(err, ST_BAD_PARAMETER, "row %u asks for set %u of %u", i, io->set[i],
                             p->sets);
        if (p->sets == 0 && (!io->t || !isfinite(io->t[i])))
            return error_set(err, ST_BAD_PARAMETER, "row %u has no finite t", i);
        if (p->classes && (!io->label || io->label[i] >= p->classes))
            return error_set(err, ST_BAD_PARAMETER, "row %u has no label below %u", i, p->classes);
    }
    return ST_OK;
}

/* A pass has one of a few sizes; where fewer rows are left, the first is repeated and its copies are thrown away. */
static enum status load_pass(struct program *p, const struct program_io *io, uint32_t first,
                             uint32_t n, struct error *err)
{
    const struct tensor *in = &p->steps[p->g->input].y;
    struct tensor x = outside(io->x, in, first, n), y = rows_of(*in, 0, n);
    enum status s = p->b->ops->cast(p->b, &x, &y, err);
    for (uint32_t i = 0; !s && i < p->pass; i++) {
        uint32_t row = first + (i < n ? i : 0);
        if (p->sets) p->set[i] = io->set ? io->set[row] : 0;
        if (!p->sets) p->t[i] = io->t[row];
        if (p->classes) p->label[i] = io->label[row];
        if (i < n) continue;
        x = outside(io->x, in, first, 1);
        y = rows_of(*in, i, 1);
        s = p->b->ops->cast(p->b, &x, &y, err);
    }
    return s;
}

enum status program_run(struct program *p, const struct program_io *io, uint32_t rows,
                        struct error *err)
{
    enum status s = check_io(p, io, rows, err);
    for (uint32_t first = 0; !s && first < rows; first += p->rows) {
        uint32_t n = rows - first < p->rows ? rows - first : p->rows;
        uint32_t size = p->b->ops->pass_rows ? p->b->ops->pass_rows(p->b, n) : p->rows;
        choose_pass(p, size < p->rows ? size : p->rows);
        s = load_pass(p, io, first, n, err);
        if (s) break;
        s = run_pass(p, err);
        if (s) break;
        struct tensor x = rows_of(p->steps[p->g->output].y, 0, n);
        struct tensor y = outside(io->y, &x, first, n);
        s = p->b->ops->cast(p->b, &x, &y, err);
    }
    return s;
}

enum status program_tap(struct program *p, const char *tap, float *dst, size_t *count,
                        struct error *err)
{
    int32_t node = graph_tap(p->g, tap);
    if (node == NODE_NONE || !p->keep_taps)
        return error_set(err, ST_NOT_FOUND, "the program keeps no tap %s", tap);
    struct tensor x = p->steps[node].y;
    size_t n = (size_t)x.n * x.h * x.w * x.c;
    if (!dst) {
        *count = n;
        return ST_OK;
    }
    void *tight = NULL;
    enum status s = p->b->ops->alloc(p->b, n * sizeof *dst, &tight, err);
    if (s) return s;
    struct tensor y = outside(tight, &x, 0, x.n);
    s = p->b->ops->cast(p->b, &x, &y, err);
    if (!s) s = device_copy_out(p->b, dst, tight, n * sizeof *dst, err);
    if (!s) *count = n;
    p->b->ops->free(p->b, tight);
    return s;
}

void program_op_times(struct program *p, uint64_t *out_ns)
{
    memcpy(out_ns, p->op_ns, sizeof p->op_ns);
    memset(p->op_ns, 0, sizeof p->op_ns);
}
