#include "engine/train/direct.h"

enum { COARSEST = 1 << (ENERGY_SCALES - 1) };

enum status direct_init(struct direct *out, const struct direct_options *o,
                        struct trainable *generator, struct error *err)
{
    const struct node *in = &generator->g->nodes[generator->g->input];
    struct backend *b = generator->b;
    struct direct d = { .o = *o, .w = in->w, .h = in->h };
    const uint32_t rows = tape_rows(generator->tape);
    if (o->energy > 0 && (rows % 2 || in->w % COARSEST || in->h % COARSEST))
        return error_set(
            err, ST_BAD_PARAMETER,
            "the energy score needs an even micro-batch, not %u, and crops of a multiple "
            "of %d px, not %u x %u",
            rows, COARSEST, in->w, in->h);
    enum status s = generator_init(&d.answer, generator, o->schedule, o->form, err);
    if (s) return s;
    void *memory = NULL;
    const size_t scratch = o->energy > 0 ? b->ops->losses->energy_scratch(in->w, in->h) : 0;
    s = b->ops->device.alloc(b, (d.answer.count + scratch) * sizeof(float), &memory, err);
    if (s) {
        generator_done(&d.answer);
        return s;
    }
    d.memory = d.d_pred = memory;
    d.scratch = d.d_pred + d.answer.count;
    for (uint32_t i = 0; i < MOST_ROWS; i++)
        d.t[i] = SCHEDULE_LAST;
    *out = d;
    return ST_OK;
}

void direct_done(struct direct *d)
{
    if (d->answer.net) d->answer.net->b->ops->device.free(d->answer.net->b, d->memory);
    generator_done(&d->answer);
    *d = (struct direct){ 0 };
}

/* The values of the objectives, and the sum of their weighted gradients in d->d_pred. */
static enum status compare(struct direct *d, const float *x, struct direct_report *r,
                           struct error *err)
{
    const struct generator *g = &d->answer;
    struct backend *b = g->net->b;
    const struct regression_args regression = { .kind = d->o.kind,
                                                .count = g->count,
                                                .pred = g->pred,
                                                .x = x,
                                                .weight = d->o.regression,
                                                .d_pred = d->d_pred };
    const struct energy_args energy = { .kind = d->o.distance,
                                        .rows = g->rows,
                                        .w = d->w,
                                        .h = d->h,
                                        .pred = g->pred,
                                        .x = x,
                                        .weights = d->o.scales,
                                        .weight = d->o.energy,
                                        .d_pred = d->d_pred,
                                        .scratch = d->scratch };
    enum status s = b->ops->gradients->fill(b, d->d_pred, g->count, 0, err);
    if (!s && d->o.regression > 0)
        s = b->ops->losses->regression(b, &regression, &r->regression, err);
    if (!s && d->o.energy > 0) s = b->ops->losses->energy(b, &energy, &r->energy, err);
    r->total = d->o.regression * r->regression + d->o.energy * r->energy;
    return s;
}

enum status direct_step(struct direct *d, const struct direct_rows *rows, double share,
                        struct direct_report *out, struct error *err)
{
    struct generator *g = &d->answer;
    struct generator_input in = {
        .y_in = rows->y_in, .z = rows->z, .row_h = rows->h, .told = rows->told
    };
    in.told.t = d->t;
    struct direct_report r = { 0 };
    enum status s = generator_predict(g, &in, err);
    if (!s) s = compare(d, rows->x, &r, err);
    if (!s) s = generator_gradient(g, d->t, d->d_pred, share, err);
    if (s) return s;
    const struct upstream_gradient upstream = { g->net->g->output, g->d_out };
    s = tape_backward(g->net->tape, &upstream, 1, g->net->gradients, NULL, err);
    if (!s) *out = r;
    return s;
}
