/* losses.h - the ops of training beside the network's own (backend_ops.losses): noise on images,
 * the generator's input and answer, and every term of the objectives with its gradient
 * (engine/README.md sections 5 and 9).
 *
 * Images are F32 [rows][h][w][3] in units of [-1,1], tight, px = h w. A score network's output is
 * F32 [rows][h][w][6]: three channels of eps, three of v, the interpolation between two log
 * variances. Pointers are memory from `alloc`, except those marked host. A value is a double on the
 * host and valid when the op returns; the order of its sum is fixed. Gradients are written; where
 * `+=` stands they are added to what is there. Nothing allocates; threads and errors as in
 * backend.h. A back end may leave out any op (NULL): a run that needs it is refused before its
 * first step (engine/train/losses.h). */
#ifndef DAVID_GRAPH_BACKEND_LOSSES_H
#define DAVID_GRAPH_BACKEND_LOSSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/graph/backend/images.h"
#include "proto/error.h"

struct backend;

enum { LOSS_CHANNELS = 3, OUTPUT_CHANNELS = 6 };

/* ---- noise and denoising, section 5 ---- */

/* x_t = keep x0 + add noise, with sqrt(abar_t) and sqrt(1 - abar_t) of each row. */
struct diffuse_args {
    uint32_t rows;
    size_t px;
    const float *keep, *add; /* host [rows] */
    const float *x0, *noise; /* [rows][px][3] */
    float *x_t;              /* [rows][px][3] */
};

/* The inverse without noise: x0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t). */
struct clean_args {
    uint32_t rows;
    size_t px;
    const double *alpha_bar; /* host [rows] */
    const float *x_t;        /* [rows][px][3] */
    const float *out;        /* [rows][px][6] */
    float *x0;               /* [rows][px][3] */
};

/* Constants of one row's t: the two log variances that v interpolates, and the posterior mean's
 * factors. */
struct denoising_constants {
    /* t = 0: the bound is the likelihood of x0's bin, 2/255 wide, not a divergence. */
    bool is_first;
    double log_beta, log_tilde;
    double of_x0, of_xt;            /* mean = of_x0 x0 + of_xt x_t */
    double predict_xt, predict_eps; /* x0 = predict_xt x_t - predict_eps eps */
};

/* The hybrid loss: mean squared error of eps, and the variational bound in bits, in which eps is
 * constant. */
struct hybrid_args {
    uint32_t rows;
    size_t px;
    const struct denoising_constants *constants; /* host [rows] */
    const float *x0, *x_t, *noise;               /* [rows][px][3] */
    const float *out;                            /* [rows][px][6] */
    double scale;     /* of the gradient of the sum over rows of mse + vb */
    float *dout;      /* [rows][px][6] */
    double *mse, *vb; /* host [rows] */
};

/* ---- the generator, sections 5 and 9 ---- */

/* x_q = of_x x + of_y y_in (without x: y_in), then the noise of_z z: added to x_q, or as channels
 * 3..5 of `joined`. */
struct bridge_args {
    uint32_t rows;
    size_t px;
    const float *of_x, *of_y, *of_z; /* host [rows] */
    const float *x, *y_in, *z;       /* [rows][px][3]; x NULL: t is 999; z NULL: no noise */
    float *x_q;                      /* [rows][px][3] */
    float *joined; /* [rows][px][6]: x_q and the noise; NULL: the noise is added */
};

/* pred = tanh(x_q - std_fwd_t eps), or without tanh. */
struct answer_args {
    uint32_t rows, channels; /* channels of out: >= 3, the first three are eps */
    size_t px;
    bool is_linear;
    const float *std; /* host [rows]: std_fwd_t */
    const float *x_q; /* [rows][px][3] */
    const float *out; /* [rows][px][channels] */
    float *pred;      /* [rows][px][3] */
};

/* The gradient of eps: slope d_pred (1 - pred^2), or without the factor of tanh; the other channels
 * have none. */
struct answer_gradient_args {
    uint32_t rows, channels; /* 3 or 6 */
    size_t px;
    bool is_linear;
    const float *slope;         /* host [rows]: -std_fwd_t times the weight of the micro-batch */
    const float *pred, *d_pred; /* [rows][px][3] */
    float *d_out;               /* [rows][px][channels] */
};

/* ---- terms of the objective davi, section 5 ---- */

/* Integrated KL: field = (eps_theta - eps_psi) / count, value = mean of (eps_theta - eps_psi) pred;
 * count = rows px 3. */
struct ikl_args {
    uint32_t rows;
    size_t px;
    const float *out_psi, *out_theta; /* [rows][px][6] */
    const float *pred;                /* [rows][px][3] */
    float *field;                     /* [rows][px][3] */
};

/* A of `rows` images, linear (engine/README.md section 4): the means of blocks (scale > 1), gray, a
 * mask, a blur, or where no member says so the identity; at most one of these. y: [rows][h /
 * scale][w / scale][3], or of gray [rows][h][w][1]. */
struct rows_operator {
    uint32_t rows, w, h;          /* of x: [rows][h][w][3] */
    uint32_t scale;               /* means of scale x scale px: 1, 2 or 4 */
    bool is_gray;                 /* 0.3333 R + 0.3334 G + 0.3333 B */
    const uint8_t *observed_mask; /* [rows][h][w]: 0 where it is zero; NULL: no mask */
    const float *taps; /* host [rows][BLUR_TAPS]: separable, zeros beyond the edge; NULL: no blur */
    float *scratch;    /* [h][w][3] */
};

/* mean (x - pred)^2; with a mask a tenth of it plus the mean over the observed values. */
struct truth_args {
    uint32_t rows;
    size_t px;
    const float *pred, *x;        /* [rows][px][3] */
    const uint8_t *observed_mask; /* [rows][px] or NULL */
    double observed; /* how many values are observed; of several processes: the mean of theirs */
    float *dpred;    /* [rows][px][3] */
};

enum { WEIGHTED_TERMS = 4 };

/* ---- objectives that compare answers with the truth alone, section 9 ---- */

enum distance {
    DISTANCE_L1,  /* mean absolute difference over pixels and channels: fair CRPS */
    DISTANCE_NORM /* mean over pixels of the Euclidean norm over channels: energy score */
};
enum regression { REGRESSION_L1, REGRESSION_L2 };

enum { ENERGY_SCALES = 4 }; /* means over 1, 2, 4 and 8 px a side */

/* mean |pred - x| or mean (pred - x)^2; answers are not clamped */
struct regression_args {
    enum regression kind;
    size_t count;          /* rows px 3 */
    const float *pred, *x; /* [count] */
    double weight;
    float *d_pred; /* [count] += the gradient of weight times the value */
};

/* Rows 2i and 2i + 1 are two answers a, b to one measurement; x is the same in both. At each scale
 * (d(a, x) + d(b, x)) / 2 - d(a, b) / 2, times the scale's weight; the value is the mean over
 * pairs. */
struct energy_args {
    enum distance kind;
    uint32_t rows, w, h;   /* rows: even; w, h: multiples of 8 */
    const float *pred, *x; /* [rows][h][w][3] */
    const double *weights; /* host [ENERGY_SCALES] */
    double weight;
    float *d_pred;  /* [rows][h][w][3] += the gradient of weight times the value */
    float *scratch; /* energy_scratch() floats */
};

struct loss_ops {
    enum status (*diffuse)(struct backend *b, const struct diffuse_args *a, struct error *err);
    enum status (*clean)(struct backend *b, const struct clean_args *a, struct error *err);
    enum status (*hybrid)(struct backend *b, const struct hybrid_args *a, struct error *err);

    enum status (*bridge)(struct backend *b, const struct bridge_args *a, struct error *err);
    enum status (*answer)(struct backend *b, const struct answer_args *a, struct error *err);
    enum status (*answer_gradient)(struct backend *b, const struct answer_gradient_args *a,
                                   struct error *err);

    enum status (*ikl)(struct backend *b, const struct ikl_args *a, double *value,
                       struct error *err);
    /* y = A x, and x = A^T y. Where the back end's memory is the host's both may be NULL:
     * engine/davi/operators is used. */
    enum status (*operate)(struct backend *b, const struct rows_operator *a, const float *x,
                           float *y, struct error *err);
    enum status (*adjoint)(struct backend *b, const struct rows_operator *a, const float *y,
                           float *x, struct error *err);
    /* The consistency, mean (ax - y)^2, and its gradient by ax in place: ax = 2 (ax - y) /
     * count. */
    enum status (*consistency)(struct backend *b, float *ax, const float *y, size_t count,
                               double *value, struct error *err);
    /* How many values a mask leaves: LOSS_CHANNELS for each nonzero entry. observed_mask: [px] */
    enum status (*count_observed)(struct backend *b, const uint8_t *observed_mask, size_t px,
                                  double *value, struct error *err);
    enum status (*truth)(struct backend *b, const struct truth_args *a, double *value,
                         struct error *err);
    /* 0.5 mean relu(1 - sign d), sign 1 for true images and -1 for predictions; dd: [count], times
     * scale. */
    enum status (*hinge)(struct backend *b, const float *d, size_t count, double sign, double scale,
                         float *dd, double *value, struct error *err);
    /* -mean d and its gradient; d, dd: [count] */
    enum status (*adversarial)(struct backend *b, const float *d, size_t count, float *dd,
                               double *value, struct error *err);
    /* Feature matching: mean |f - true_f| and its gradient by f; all [count] */
    enum status (*features)(struct backend *b, const float *f, const float *true_f, size_t count,
                            float *df, double *value, struct error *err);
    /* out = sum of weights[i] terms[i], in the order of the terms; each [count]. weights: host */
    enum status (*weighted_sum)(struct backend *b, const float *const terms[WEIGHTED_TERMS],
                                const float weights[WEIGHTED_TERMS], size_t count, float *out,
                                struct error *err);

    enum status (*regression)(struct backend *b, const struct regression_args *a, double *value,
                              struct error *err);
    /* Floats of scratch for an energy score of images of w x h px; as `energy`, NULL only with
     * it. */
    size_t (*energy_scratch)(uint32_t w, uint32_t h);
    enum status (*energy)(struct backend *b, const struct energy_args *a, double *value,
                          struct error *err);
};

#endif
