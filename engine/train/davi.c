#include "engine/train/davi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"

/* ---- making and freeing ---- */

const char *generator_probe(const struct graph *g)
{
    const char *last = NULL;
    long most = -1;
    for (uint32_t i = 0; i < g->n_params; i++) {
        const char *name = g->params[i].name, prefix[] = "output_blocks.";
        char *end = NULL;
        if (strncmp(name, prefix, sizeof prefix - 1) != 0) continue;
        long block = strtol(name + sizeof prefix - 1, &end, 10);
        if (block <= most || strcmp(end, ".0.out_layers.3.weight") != 0) continue;
        most = block;
        last = name;
    }
    return last;
}

static enum status find_blocks(struct davi *d, struct error *err)
{
    const struct graph *g = d->discriminator->g;
    size_t at = 0;
    for (uint32_t k = 0; k < PATCHGAN_BLOCKS; k++) {
        char tap[TAP_NAME_MAX];
        (void)snprintf(tap, sizeof tap, "model%u", k);
        d->block[k] = graph_tap(g, tap);
        if (d->block[k] == NODE_NONE)
            return error_set(err, ST_INTERNAL, "the discriminator has no %s", tap);
        const struct node *n = &g->nodes[d->block[k]];
        d->block_count[k] = (size_t)d->rows * n->h * n->w * n->c;
        d->block_at[k] = at;
        at += d->block_count[k];
    }
    return ST_OK;
}

static enum status check(const struct davi *d, struct error *err)
{
    enum { NETWORKS = 4 };
    const struct trainable *nets[NETWORKS] = { d->teacher, d->score, d->generator,
                                               d->discriminator };
    for (int i = 0; i < NETWORKS; i++) {
        const struct node *in = &nets[i]->g->nodes[nets[i]->g->input];
        if (tape_rows(nets[i]->tape) != d->rows || in->h != d->h || in->w != d->w)
            return error_set(err, ST_INTERNAL, "networks for different images");
        if (i < 3 && nets[i]->g->nodes[nets[i]->g->output].c != OUTPUT_CHANNELS)
            return error_set(err, ST_BAD_FILE,
                             "a network without a learned variance cannot be trained");
    }
    if (!generator_probe(d->generator->g))
        return error_set(err, ST_BAD_FILE, "the generator has no output_blocks");
    return ST_OK;
}

static enum status take_memory(struct davi *d, struct error *err)
{
    const size_t blocks = d->block_at[PATCHGAN_BLOCKS - 1] + d->block_count[PATCHGAN_BLOCKS - 1];
    size_t scratch = 0; /* enough for every task */
    for (int i = 0; i < TASK_COUNT; i++) {
        size_t n = consistency_scratch(task_table[i].op, d->rows, d->w, d->h);
        if (n > scratch) scratch = n;
    }
    const struct {
        float **to;
        size_t count;
    } parts[] = { { &d->x_t, d->count },         { &d->d_ikl, d->count },
                  { &d->d_con, d->count },       { &d->d_truth, d->count },
                  { &d->d_gan, d->count },       { &d->y, 2 * d->count },
                  { &d->y_theta, 2 * d->count }, { &d->dy, 2 * d->count },
                  { &d->true_blocks, blocks },   { &d->pred_blocks, blocks },
                  { &d->d_blocks, blocks },      { &d->d_probe, d->probe_count },
                  { &d->scratch, scratch } };
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        total += (parts[i].count + 15) / 16 * 16;
    void *memory = NULL;
    struct backend *b = d->generator->b;
    d->taps = malloc((size_t)d->rows * BLUR_TAPS * sizeof *d->taps);
    if (!d->taps)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for the taps of %u rows", d->rows);
    enum status s = b->ops->device.alloc(b, total * sizeof(float), &memory, err);
    if (s) return s;
    d->memory = memory;
    float *at = memory;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].to = at;
        at += (parts[i].count + 15) / 16 * 16;
    }
    return ST_OK;
}

enum status davi_init(struct davi *out, const struct davi_options *o, struct trainable *teacher,
                      struct trainable *score, struct trainable *generator,
                      struct trainable *discriminator, struct error *err)
{
    const struct node *in = &generator->g->nodes[generator->g->input];
    struct davi d = { .o = *o,
                      .teacher = teacher,
                      .score = score,
                      .generator = generator,
                      .discriminator = discriminator,
                      .rows = tape_rows(generator->tape),
                      .h = in->h,
                      .w = in->w };
    d.count = (size_t)d.rows * d.h * d.w * LOSS_CHANNELS;
    enum status s = check(&d, err);
    if (!s) s = find_blocks(&d, err);
    if (s) return s;
    const char *probe = generator_probe(generator->g);
    for (uint32_t i = 0; i < generator->g->n_params; i++)
        if (strcmp(generator->g->params[i].name, probe) == 0)
            d.probe_count = generator->g->params[i].count;
    s = generator_init(&d.answer, generator, o->schedule, o->form, err);
    if (!s) s = take_memory(&d, err);
    if (s)
        davi_done(&d);
    else
        *out = d;
    return s;
}

void davi_done(struct davi *d)
{
    generator_done(&d->answer);
    if (d->generator) d->generator->b->ops->device.free(d->generator->b, d->memory);
    free(d->taps);
    *d = (struct davi){ 0 };
}

void davi_choose(struct davi *d, const struct task_desc *task)
{
    d->o.op = task->op;
    d->o.level = task->level;
    d->o.h = task->h;
    d->o.weight_con = task->weight_con;
    d->o.reg_coeff = task->reg_coeff;
}

/* ---- the bridge ---- */

void bridge_input(enum operator_kind op, uint32_t side, const float *y, float *y_in)
{
    const struct extent m = operator_extent(op, (struct extent){ side, side, LOSS_CHANNELS });
    const struct extract_args a = { .m = { .pixels = y,
                                           .w = m.w,
                                           .h = m.h,
                                           .channels = m.c,
                                           .depth = 32,
                                           .y_channels = m.c,
                                           .scale = operator_of(op)->scale },
                                    .out_w = side,
                                    .out_h = side,
                                    .tile = side,
                                    .y_in = y_in };
    (void)cpu_images.extract(NULL, &a, NULL); /* it cannot fail */
}

static enum status predict(struct davi *d, const struct davi_rows *rows,
                           const struct davi_draws *draws, struct error *err)
{
    struct generator_input in = { .x = rows->x, .y_in = rows->y_in, .z = draws->z, .h = d->o.h };
    in.told = draws->told;
    in.told.t = draws->t_bridge;
    return generator_predict(&d->answer, &in, err);
}

/* ---- the score and the discriminator ---- */

/* Adds the hinge loss of true images (sign 1) or of predictions (sign -1), and its gradients. */
static enum status discriminate(struct davi *d, const float *images, double sign, double share,
                                double *loss, struct error *err)
{
    struct trainable *net = d->discriminator;
    const int last = PATCHGAN_BLOCKS - 1;
    double value;
    enum status s = trainable_run(net, images, &(struct row_conditions){ 0 }, d->pred_blocks, err);
    if (!s)
        s = net->b->ops->losses->hinge(net->b, d->pred_blocks, d->block_count[last], sign, share,
                                       d->d_blocks, &value, err);
    if (s) return s;
    *loss += value;
    const struct upstream_gradient upstream = { d->block[last], d->d_blocks };
    return tape_backward(net->tape, &upstream, 1, net->gradients, NULL, err);
}

enum status davi_score_step(struct davi *d, const struct davi_rows *rows,
                            const struct davi_draws *draws, double share, struct score_report *out,
                            struct error *err)
{
    struct score_report r = { .discriminator = 0 };
    enum status s = predict(d, rows, draws, err);
    if (s) return s;
    s = learn_to_denoise(d->score,
                         &(struct denoising){ .schedule = d->o.schedule,
                                              .x0 = d->answer.pred,
                                              .noise = draws->noise,
                                              .t = draws->t,
                                              .share = share,
                                              .x_t = d->x_t,
                                              .y = d->y,
                                              .dy = d->dy },
                         &r.denoising, err);
    if (!s) s = discriminate(d, rows->x, 1, share, &r.discriminator, err);
    if (!s) s = discriminate(d, d->answer.pred, -1, share, &r.discriminator, err);
    if (!s) *out = r;
    return s;
}

/* ---- the generator ---- */

static enum status read_blocks(struct davi *d, const float *images, float *to, struct error *err)
{
    struct trainable *net = d->discriminator;
    enum status s = tape_forward(net->tape, &(struct tape_input){ .x = images }, err);
    for (int k = 0; !s && k < PATCHGAN_BLOCKS; k++)
        s = tape_value(net->tape, d->block[k], to + d->block_at[k], err);
    return s;
}

/* -mean D(pred), and mean |D_k(pred) - D_k(x)| over the first four blocks; their gradient to
 * d_gan. */
static enum status adversarial(struct davi *d, const float *x, struct generator_report *r,
                               struct error *err)
{
    const int last = PATCHGAN_BLOCKS - 1;
    struct backend *b = d->discriminator->b;
    const struct loss_ops *ops = b->ops->losses;
    struct upstream_gradient upstream[PATCHGAN_BLOCKS];
    enum status s = read_blocks(d, x, d->true_blocks, err);
    if (!s) s = read_blocks(d, d->answer.pred, d->pred_blocks, err);
    r->features = 0;
    for (int k = 0; !s && k < PATCHGAN_BLOCKS; k++) {
        const size_t at = d->block_at[k], count = d->block_count[k];
        double value = 0;
        upstream[k] = (struct upstream_gradient){ d->block[k], d->d_blocks + at };
        if (k == last) {
            s = ops->adversarial(b, d->pred_blocks + at, count, d->d_blocks + at, &r->adversarial,
                                 err);
            continue;
        }
        s = ops->features(b, d->pred_blocks + at, d->true_blocks + at, count, d->d_blocks + at,
                          &value, err);
        r->features += value;
    }
    if (s) return s;
    return tape_backward(d->discriminator->tape, upstream, PATCHGAN_BLOCKS, NULL, d->d_gan, err);
}

static void sum_over_group(const struct davi *d, double *values, size_t count)
{
    if (d->o.process_group.sum) d->o.process_group.sum(d->o.process_group.ctx, values, count);
}

static double processes_of(const struct davi *d)
{
    return d->o.process_group.sum ? d->o.process_group.processes : 1;
}

/* The root of the sum of squares of d_probe, of its sum over all processes: the sum is taken piece
 * by piece. */
static enum status norm_over_group(struct davi *d, double *norm, struct error *err)
{
    enum { PIECE = 1024 };
    float values[PIECE];
    double sums[PIECE], squares = 0;
    for (size_t i = 0; i < d->probe_count;) {
        const size_t n = d->probe_count - i < PIECE ? d->probe_count - i : PIECE;
        enum status s =
            device_copy_out(d->generator->b, values, d->d_probe + i, n * sizeof *values, err);
        if (s) return s;
        for (size_t k = 0; k < n; k++)
            sums[k] = (double)values[k];
        sum_over_group(d, sums, n);
        for (size_t k = 0; k < n; k++)
            squares += sums[k] * sums[k];
        i += n;
    }
    *norm = sqrt(squares);
    return ST_OK;
}

/* The norm of a term's gradient by the probe's weight; the gradient is the mean over all processes'
 * images. */
static enum status probe_norm(struct davi *d, const uint32_t *t_bridge, const float *d_pred,
                              double *norm, struct error *err)
{
    struct trainable *net = d->generator;
    const struct upstream_gradient upstream = { net->g->output, d->answer.d_out };
    enum status s = generator_gradient(&d->answer, t_bridge, d_pred, 1, err);
    if (!s) s = net->b->ops->gradients->fill(net->b, d->d_probe, d->probe_count, 0, err);
    if (!s) s = tape_probe(net->tape, &upstream, 1, d->d_probe, err);
    if (!s) s = norm_over_group(d, norm, err);
    *norm /= processes_of(d);
    return s;
}

static double clip(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v;
}

/* The field of the two scores at the noised prediction. */
static enum status ikl(struct davi *d, const struct davi_draws *draws, double *value,
                       struct error *err)
{
    const size_t px = (size_t)d->h * d->w;
    const struct row_conditions at = { .t = draws->t };
    struct backend *b = d->generator->b;
    const struct ikl_args a = { .rows = d->rows,
                                .px = px,
                                .out_psi = d->y,
                                .out_theta = d->y_theta,
                                .pred = d->answer.pred,
                                .field = d->d_ikl };
    enum status s =
        diffuse(b, d->o.schedule, d->rows, px, draws->t, d->answer.pred, draws->noise, d->x_t, err);
    if (!s) s = trainable_run(d->teacher, d->x_t, &at, d->y_theta, err);
    if (!s) s = trainable_run(d->score, d->x_t, &at, d->y, err);
    return s ? s : b->ops->losses->ikl(b, &a, value, err);
}

static enum status consistency(struct davi *d, const struct davi_rows *rows, double *value,
                               struct error *err)
{
    const struct consistency c = { .op = d->o.op,
                                   .rows = d->rows,
                                   .w = d->w,
                                   .h = d->h,
                                   .pred = d->answer.pred,
                                   .y = rows->y,
                                   .observed_mask = rows->observed_mask,
                                   .level = d->o.level,
                                   .levels = rows->levels,
                                   .scratch = d->scratch,
                                   .taps = d->taps };
    return consistency_loss(d->generator->b, &c, value, d->d_con, err);
}

static enum status truth(struct davi *d, const struct davi_rows *rows, double *value,
                         struct error *err)
{
    struct backend *b = d->generator->b;
    struct truth_args a = { .rows = d->rows,
                            .px = (size_t)d->h * d->w,
                            .pred = d->answer.pred,
                            .x = rows->x,
                            .observed_mask = rows->observed_mask,
                            .dpred = d->d_truth };
    enum status s = ST_OK;
    if (a.observed_mask) {
        s = b->ops->losses->count_observed(b, a.observed_mask, d->rows * a.px, &a.observed, err);
        if (!s) sum_over_group(d, &a.observed, 1);
    }
    a.observed /= processes_of(d);
    return s ? s : b->ops->losses->truth(b, &a, value, err);
}

/* The weighted gradient of all terms through the generator; x_t holds it. */
static enum status backward(struct davi *d, const uint32_t *t_bridge, double lambda, double share,
                            struct error *err)
{
    struct trainable *net = d->generator;
    const float *const terms[WEIGHTED_TERMS] = { d->d_ikl, d->d_con, d->d_truth, d->d_gan };
    const float weights[WEIGHTED_TERMS] = { 1, (float)d->o.weight_con, (float)d->o.reg_coeff,
                                            (float)lambda };
    const struct upstream_gradient upstream = { net->g->output, d->answer.d_out };
    enum status s =
        net->b->ops->losses->weighted_sum(net->b, terms, weights, d->count, d->x_t, err);
    if (!s) s = generator_gradient(&d->answer, t_bridge, d->x_t, share, err);
    return s ? s : tape_backward(net->tape, &upstream, 1, net->gradients, NULL, err);
}

enum status davi_generator_step(struct davi *d, const struct davi_rows *rows,
                                const struct davi_draws *draws, double share,
                                struct generator_report *out, struct error *err)
{
    struct generator_report r = { 0 };
    double of_truth = 0, of_gan = 0;
    enum status s = predict(d, rows, draws, err);
    if (!s) s = ikl(d, draws, &r.ikl, err);
    if (!s) s = consistency(d, rows, &r.consistency, err);
    if (!s) s = truth(d, rows, &r.truth, err);
    if (!s) s = adversarial(d, rows->x, &r, err);
    if (!s) s = probe_norm(d, draws->t_bridge, d->d_truth, &of_truth, err);
    if (!s) s = probe_norm(d, draws->t_bridge, d->d_gan, &of_gan, err);
    if (s) return s;
    r.lambda = clip(of_truth / (of_gan + 1e-4), 0.01, 10);
    r.total = r.ikl + d->o.weight_con * r.consistency + d->o.reg_coeff * r.truth +
              r.lambda * (r.adversarial + r.features);
    s = backward(d, draws->t_bridge, r.lambda, share, err);
    if (!s) *out = r;
    return s;
}
