#include "engine/train/generator.h"

#include <math.h>

enum { COLORS = 3, WITH_NOISE = 6 };

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
    if (rows > MOST_ROWS)
        return error_set(err, ST_BAD_PARAMETER, "a micro-batch of %u rows; the most is %d", rows,
                         MOST_ROWS);
    for (uint32_t i = 0; i < rows && told->t; i++)
        times[i] = (float)told->t[i];
    struct tape_input in = { .x = x,
                             .t = told->t ? times : NULL,
                             .sigma = told->sigma,
                             .level = told->level,
                             .label = told->label };
    enum status s = tape_forward(l->tape, &in, err);
    return s ? s : tape_value(l->tape, l->g->output, y, err);
}

enum status generator_init(struct generator *out, struct trainable *net, const struct schedule *s,
                           struct generator_form form, struct error *err)
{
    const struct node *input = &net->g->nodes[net->g->input];
    const size_t px = trainable_px(net);
    struct generator g = { .net = net,
                           .schedule = s,
                           .form = form,
                           .rows = tape_rows(net->tape),
                           .out_channels = net->g->nodes[net->g->output].c };
    g.count = g.rows * px * COLORS;
    if (input->c != (form.noise_channels ? WITH_NOISE : COLORS) || g.out_channels < COLORS)
        return error_set(err, ST_INTERNAL, "a generator of %u channels in and %u out", input->c,
                         g.out_channels);
    const size_t in_count = form.noise_channels ? 2 * g.count : 0;
    const size_t out_count = g.rows * px * g.out_channels;
    void *memory = NULL;
    enum status status = net->b->ops->device.alloc(
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

/* One row: x_q, and beside it or in it the noise. */
static void take_input(struct generator *g, const struct generator_input *in, uint32_t row)
{
    const struct schedule *s = g->schedule;
    const size_t each = g->count / g->rows, first = row * each;
    const uint32_t t = in->told.t[row];
    const float of_x = (float)s->mu_x0[t], of_y = (float)s->mu_x1[t];
    const double h = in->row_h ? in->row_h[row] : in->h;
    const float of_z = in->z ? (float)((1 - s->alpha_bar[t]) * h) : 0;
    for (size_t i = first; i < first + each; i++)
        g->x_q[i] = in->x ? of_x * in->x[i] + of_y * in->y_in[i] : in->y_in[i];
    if (!g->form.noise_channels) {
        for (size_t i = first; in->z && i < first + each; i++)
            g->x_q[i] = g->x_q[i] + of_z * in->z[i];
        return;
    }
    for (size_t i = first; i < first + each; i++) {
        float *to = g->input + i / COLORS * WITH_NOISE + i % COLORS;
        to[0] = g->x_q[i];
        to[COLORS] = in->z ? of_z * in->z[i] : 0;
    }
}

enum status generator_predict(struct generator *g, const struct generator_input *in,
                              struct error *err)
{
    const size_t each = g->count / g->rows;
#pragma omp parallel for schedule(static)
    for (uint32_t n = 0; n < g->rows; n++)
        take_input(g, in, n);
    enum status s = trainable_run(g->net, g->input, &in->told, g->out, err);
    if (s) return s;
#pragma omp parallel for schedule(static)
    for (uint32_t n = 0; n < g->rows; n++) {
        const float by = (float)g->schedule->std_fwd[in->told.t[n]];
        for (size_t i = n * each; i < (n + 1) * each; i++) {
            const float v = g->x_q[i] - by * g->out[i / COLORS * g->out_channels + i % COLORS];
            g->pred[i] = g->form.linear_output ? v : tanhf(v);
        }
    }
    return ST_OK;
}

void generator_gradient(struct generator *g, const uint32_t *t, const float *d_pred, double by)
{
    const size_t each = g->count / g->rows;
#pragma omp parallel for schedule(static)
    for (uint32_t n = 0; n < g->rows; n++) {
        const float std = (float)(-by * g->schedule->std_fwd[t[n]]);
        for (size_t i = n * each; i < (n + 1) * each; i++) {
            float *to = g->d_out + i / COLORS * g->out_channels + i % COLORS;
            to[0] = std * d_pred[i];
            if (!g->form.linear_output) to[0] *= 1 - g->pred[i] * g->pred[i];
            if (g->out_channels > COLORS) to[COLORS] = 0;
        }
    }
}
