/* davi.h - one micro-batch of DAVI's two steps: the score with the discriminator, and the generator
 * (engine/README.md section 5).
 *
 * Four trainables, borrowed: the frozen prior, the score of the generator's output, the generator,
 * the discriminator. Gradients are added to theirs, as in denoising.h. The discriminator and lambda
 * see the micro-batch of all processes: batch norms and the two gradients behind lambda are summed
 * over the process group. Images are memory of the back end, arrays of [rows] are the host's.
 * davi_init allocates all memory. One thread at a time. */
#ifndef DAVID_TRAIN_DAVI_H
#define DAVID_TRAIN_DAVI_H

#include "engine/nets/patchgan.h"
#include "engine/train/denoising.h"

struct davi_options {
    enum operator_kind op;
    double level;                    /* of the operator, where davi_rows.levels is NULL */
    double h, weight_con, reg_coeff; /* of the task: perturb_h and the weights of the terms */
    const struct schedule *schedule;
    struct process_group process_group;
    struct generator_form form; /* of the generator */
};

struct davi {
    struct davi_options o;
    struct trainable *teacher, *score, *generator, *discriminator;
    uint32_t rows, h, w;
    size_t count, probe_count; /* values of the images of a micro-batch; of the probe's weight */
    int32_t block[PATCHGAN_BLOCKS];      /* nodes of the discriminator */
    size_t block_count[PATCHGAN_BLOCKS]; /* values */
    size_t block_at[PATCHGAN_BLOCKS]; /* where they begin in true_blocks, pred_blocks, d_blocks */
    float *memory, *taps;             /* taps: host [rows][BLUR_TAPS] */
    struct generator answer; /* of the generator: its prediction, and the gradient through it */
    float *x_t; /* [rows][h][w][3]: the noised prediction; then the weighted gradient */
    /* [rows][h][w][3]: gradients of the terms by the prediction, unweighted */
    float *d_ikl, *d_con, *d_truth, *d_gan;
    float *y, *y_theta, *dy;                     /* [rows][h][w][6], of the scores */
    float *true_blocks, *pred_blocks, *d_blocks; /* the discriminator's values, block after block */
    float *d_probe, *scratch;
};

/* All tapes have the same number of rows; the generator's has a probe (generator_probe), the
 * discriminator's keeps its taps and has an input gradient. ST_BAD_FILE where the networks do not
 * fit one another. */
enum status davi_init(struct davi *out, const struct davi_options *o, struct trainable *teacher,
                      struct trainable *score, struct trainable *generator,
                      struct trainable *discriminator, struct error *err);
void davi_done(struct davi *d); /* takes a zeroed struct */

/* The task of the images in the following steps. */
void davi_choose(struct davi *d, const struct task_desc *task);

/* The name of the weight behind lambda, of the last block's second convolution. NULL: not a
 * UNet. */
const char *generator_probe(const struct graph *g);

struct davi_rows {
    /* [rows]: true images, measurements, and the network's inputs made from these */
    const float *x, *y, *y_in;
    const uint8_t *observed_mask; /* [rows][h][w]; NULL: there is no hole */
    const double *levels;         /* host [rows] of the operator, or NULL */
};

struct davi_draws {
    const uint32_t *t_bridge, *t; /* host [rows] */
    const float *z, *noise;       /* as the images */
    struct row_conditions told;   /* of the generator; t is not read */
};

struct score_report {
    struct denoising_report denoising;
    double discriminator;
};
enum status davi_score_step(struct davi *d, const struct davi_rows *rows,
                            const struct davi_draws *draws, double share, struct score_report *out,
                            struct error *err);

struct generator_report {
    double ikl, consistency, truth, adversarial, features, lambda, total;
};
enum status davi_generator_step(struct davi *d, const struct davi_rows *rows,
                                const struct davi_draws *draws, double share,
                                struct generator_report *out, struct error *err);

/* The network's input from a measurement: enlarged, repeated if it is gray, or unchanged. Both in
 * host memory; y_in: [side][side][3] of one row. */
void bridge_input(enum operator_kind op, uint32_t side, const float *y, float *y_in);

#endif
