#include "engine/train/direct.h"

#include <string.h>

enum { COARSEST = 1 << (ENERGY_SCALES - 1) };

enum status direct_init(struct direct *out, const struct direct_options *o,
                        struct trainable *generator, struct error *err)
{
    const struct node *in = &generator->g->nodes[generator->g->input];
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
    s = generator->b->ops->device.alloc(
        generator->b, (d.answer.count + energy_scratch(in->w, in->h)) * sizeof(float), &memory,
        err);
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
    if (s) return s;
    const struct answers a = { g->rows, d->w, d->h, g->pred, rows->x };
    memset(d->d_pred, 0, g->count * sizeof *d->d_pred);
    if (d->o.regression > 0)
        r.regression = regression_loss(&a, d->o.kind, d->o.regression, d->d_pred);
    if (d->o.energy > 0)
        r.energy = energy_loss(&a, d->o.distance, d->o.scales, d->o.energy, d->d_pred, d->scratch);
    r.total = d->o.regression * r.regression + d->o.energy * r.energy;
    generator_gradient(g, d->t, d->d_pred, share);
    const struct upstream_gradient upstream = { g->net->g->output, g->d_out };
    s = tape_backward(g->net->tape, &upstream, 1, g->net->gradients, NULL, err);
    if (!s) *out = r;
    return s;
}
