#include "engine/train/denoising.h"

static double mean(const double *v, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += v[i];
    return sum / n;
}

enum status learn_to_denoise(struct trainable *net, const struct denoising *a,
                             struct denoising_report *out, struct error *err)
{
    const uint32_t rows = tape_rows(net->tape);
    const size_t px = trainable_px(net);
    struct denoising_constants constants[MOST_ROWS];
    if (net->g->nodes[net->g->output].c != OUTPUT_CHANNELS)
        return error_set(err, ST_BAD_FILE,
                         "a network without a learned variance cannot be trained");
    enum status s = losses_check_rows(rows, err);
    if (!s) s = diffuse(net->b, a->schedule, rows, px, a->t, a->x0, a->noise, a->x_t, err);
    if (!s) s = trainable_run(net, a->x_t, &(struct row_conditions){ .t = a->t }, a->y, err);
    if (s) return s;
    struct denoising_report r;
    denoising_constants_of(a->schedule, a->t, rows, constants);
    s = net->b->ops->losses->hybrid(net->b,
                                    &(struct hybrid_args){ .rows = rows,
                                                           .px = px,
                                                           .constants = constants,
                                                           .x0 = a->x0,
                                                           .x_t = a->x_t,
                                                           .noise = a->noise,
                                                           .out = a->y,
                                                           .scale = a->share / rows,
                                                           .dout = a->dy,
                                                           .mse = r.row_mse,
                                                           .vb = r.row_vb },
                                    err);
    if (s) return s;
    r.mse = mean(r.row_mse, rows);
    r.vb = mean(r.row_vb, rows);
    const struct upstream_gradient upstream = { net->g->output, a->dy };
    s = tape_backward(net->tape, &upstream, 1, net->gradients, NULL, err);
    if (!s) *out = r;
    return s;
}
