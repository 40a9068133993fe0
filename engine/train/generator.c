#include "engine/train/generator.h"

enum { WITH_NOISE = 2 * LOSS_CHANNELS };

size_t trainable_px(const struct trainable *l)
{
    const struct node *in = &l->g->nodes[l->g->input];
    return (size_t)in->h * in->w;
}

enum status trainable_run(struct trainable *l, const float *x, const struct row_conditions *told,
                          float *y, struct error *err)
{
    const uint32_t rows = tape_rows(l->tape);
    float times[MOST_ROWS];
    enum status s = losses_check_rows(rows, err);
    if (s) return s;
    for (uint32_t i = 0; i < rows && told->t; i++)
        times[i] = (float)told->t[i];
    struct tape_input in = { .x = x,
                             .t = told->t ? times : NULL,
                             .sigma = told->sigma,
                             .level = told->level,
                             .label = told->label };
    s = tape_forward(l->tape, &in, err);
    return s ? s : tape_value(l->tape, l->g->output, y, err);
}

enum status generator_init(struct generator *out, struct trainable *net, const struct schedule *s,
                           struct generator_form form, struct error *err)
{
    const struct node *input = &net->g->nodes[net->g->input];
    struct generator g = { .net = net,
                           .schedule = s,
                           .form = form,
                           .rows = tape_rows(net->tape),
                           .out_channels = net->g->nodes[net->g->output].c,
                           .px = trainable_px(net) };
    g.count = g.rows * g.px * LOSS_CHANNELS;
    if (input->c != (form.noise_channels ? WITH_NOISE : LOSS_CHANNELS) ||
        g.out_channels < LOSS_CHANNELS)
        return error_set(err, ST_INTERNAL, "a generator of %u channels in and %u out", input->c,
                         g.out_channels);
    enum status status = losses_check_rows(g.rows, err);
    if (status) return status;
    const size_t in_count = form.noise_channels ? 2 * g.count : 0;
    const size_t out_count = g.rows * g.px * g.out_channels;
    void *memory = NULL;
    status = net->b->ops->device.alloc(
        net->b, (2 * g.count + in_count + 2 * out_count) * sizeof(float), &memory, err);
    if (status) return status;
    g.memory = g.x_q = memory;
    g.pred = g.x_q + g.count;
    g.out = g.pred + g.count;
    g.d_out = g.out + out_count;
    g.input = form.noise_channels ? g.d_out + out_count : g.x_q;
    *out = g;
    return ST_OK;
}

void generator_done(struct generator *g)
{
    if (g->net) g->net->b->ops->device.free(g->net->b, g->memory);
    *g = (struct generator){ 0 };
}

static enum status write_input(struct generator *g, const struct generator_input *in,
                               struct error *err)
{
    const struct schedule *s = g->schedule;
    float of_x[MOST_ROWS], of_y[MOST_ROWS], of_z[MOST_ROWS];
    for (uint32_t n = 0; n < g->rows; n++) {
        const uint32_t t = in->told.t[n];
        const double h = in->row_h ? in->row_h[n] : in->h;
        of_x[n] = (float)s->mu_x0[t];
        of_y[n] = (float)s->mu_x1[t];
        of_z[n] = in->z ? (float)((1 - s->alpha_bar[t]) * h) : 0;
    }
    const struct bridge_args a = { .rows = g->rows,
                                   .px = g->px,
                                   .of_x = of_x,
                                   .of_y = of_y,
                                   .of_z = of_z,
                                   .x = in->x,
                                   .y_in = in->y_in,
                                   .z = in->z,
                                   .x_q = g->x_q,
                                   .joined = g->form.noise_channels ? g->input : NULL };
    return g->net->b->ops->losses->bridge(g->net->b, &a, err);
}

enum status generator_predict(struct generator *g, const struct generator_input *in,
                              struct error *err)
{
    float std[MOST_ROWS];
    enum status s = write_input(g, in, err);
    if (!s) s = trainable_run(g->net, g->input, &in->told, g->out, err);
    if (s) return s;
    for (uint32_t n = 0; n < g->rows; n++)
        std[n] = (float)g->schedule->std_fwd[in->told.t[n]];
    const struct answer_args a = { .rows = g->rows,
                                   .channels = g->out_channels,
                                   .px = g->px,
                                   .is_linear = g->form.linear_output,
                                   .std = std,
                                   .x_q = g->x_q,
                                   .out = g->out,
                                   .pred = g->pred };
    return g->net->b->ops->losses->answer(g->net->b, &a, err);
}

enum status generator_gradient(struct generator *g, const uint32_t *t, const float *d_pred,
                               double by, struct error *err)
{
    float slope[MOST_ROWS];
    for (uint32_t n = 0; n < g->rows; n++)
        slope[n] = (float)(-by * g->schedule->std_fwd[t[n]]);
    const struct answer_gradient_args a = { .rows = g->rows,
                                            .channels = g->out_channels,
                                            .px = g->px,
                                            .is_linear = g->form.linear_output,
                                            .slope = slope,
                                            .pred = g->pred,
                                            .d_pred = d_pred,
                                            .d_out = g->d_out };
    return g->net->b->ops->losses->answer_gradient(g->net->b, &a, err);
}
