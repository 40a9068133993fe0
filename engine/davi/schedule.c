/* The constants of diffusion and bridge: arithmetic in double. */
#include "engine/davi/schedule.h"

#include <math.h>

/* DAVI's betas are quadratic: linear in their square roots. */
static double beta_at(enum schedule_kind kind, int i)
{
    const double first = 1e-4, last = 0.02, at = (double)i / (SCHEDULE_STEPS - 1);
    if (kind == SCHEDULE_LINEAR) return first + (last - first) * at;
    double root = sqrt(first) + (sqrt(last) - sqrt(first)) * at;
    return root * root;
}

void schedule_init(struct schedule *s, enum schedule_kind kind)
{
    double product = 1;
    for (int i = 0; i < SCHEDULE_STEPS; i++) {
        double before = product;
        s->beta[i] = beta_at(kind, i);
        product *= 1 - s->beta[i];
        s->alpha_bar[i] = product;
        s->snr[i] = sqrt(product) / sqrt(1 - product);
        s->posterior_var[i] = s->beta[i] * (1 - before) / (1 - product);
    }
    s->posterior_var[0] = s->posterior_var[1];

    /* The bridge's betas are those of the first half, then the same ones mirrored. */
    double forward = 0, backward = 0;
    for (int i = 0; i < SCHEDULE_STEPS; i++) {
        int mirror = SCHEDULE_STEPS - 1 - i;
        double b = s->beta[i < mirror ? i : mirror];
        forward += b;
        backward += b; /* symmetric: the sum from the far end is the same series */
        s->std_fwd[i] = sqrt(forward);
        s->std_bwd[mirror] = sqrt(backward);
    }
    for (int i = 0; i < SCHEDULE_STEPS; i++) {
        double f = s->std_fwd[i] * s->std_fwd[i], b = s->std_bwd[i] * s->std_bwd[i];
        s->mu_x0[i] = b / (f + b);
        s->mu_x1[i] = f / (f + b);
        s->std_sb[i] = s->std_fwd[i] * s->std_bwd[i] / sqrt(f + b);
    }
}

struct sampler_constants sampler_constants_of(enum schedule_kind kind)
{
    double product = 1, forward = 0;
    for (int i = 0; i < SCHEDULE_STEPS; i++) {
        int mirror = SCHEDULE_STEPS - 1 - i;
        product *= 1 - beta_at(kind, i);
        forward += beta_at(kind, i < mirror ? i : mirror);
    }
    return (struct sampler_constants){ .noise_gain = 1 - product, .eps_gain = sqrt(forward) };
}
