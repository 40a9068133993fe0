/* schedule.h - the constants of diffusion and bridge (engine/README.md section 1).
 *
 * All in double, one table a schedule: DAVI's quadratic betas, or the linear ones of the original
 * priors. A model file names its own (struct model_info). Plain values: schedule_init fills them,
 * any thread reads them. A table is 72 KB: not for a small stack. */
#ifndef DAVID_DAVI_SCHEDULE_H
#define DAVID_DAVI_SCHEDULE_H

#include "proto/models/model_info.h"

enum { SCHEDULE_STEPS = 1000, SCHEDULE_LAST = SCHEDULE_STEPS - 1 };

struct schedule {
    double beta[SCHEDULE_STEPS];
    double alpha_bar[SCHEDULE_STEPS]; /* running product of 1 - beta */
    double snr[SCHEDULE_STEPS];       /* sqrt(alpha_bar) / sqrt(1 - alpha_bar): the ratio itself */
    double posterior_var[SCHEDULE_STEPS]; /* beta~, "clipped": entry 0 is entry 1's */
    /* the bridge between x (x0) and the network's input (x1) */
    double std_fwd[SCHEDULE_STEPS], std_bwd[SCHEDULE_STEPS], std_sb[SCHEDULE_STEPS];
    double mu_x0[SCHEDULE_STEPS], mu_x1[SCHEDULE_STEPS];
};

void schedule_init(struct schedule *s, enum schedule_kind kind);

/* The constants of the one-step sampler (engine/README.md section 3). */
struct sampler_constants {
    double noise_gain; /* 1 - alpha_bar[999]: multiplies h z */
    double eps_gain;   /* std_fwd[999]: multiplies the network's output */
};
struct sampler_constants sampler_constants_of(enum schedule_kind kind);

#endif
