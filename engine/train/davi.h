/* davi.h - one micro-batch of DAVI's two steps: the score with the discriminator, and the generator (engine/README.md section 5).
 *
 * Four trainables, borrowed: the frozen prior, the score of the generator's output, the generator, the discriminator. Gradients are
 * added to theirs, as in denoising.h. For the discriminator and for lambda the unit is the micro-batch of all processes: batch
 * norms and the two gradients behind lambda are summed over the process_group. Memory is taken once. One thread at a time. */
#ifndef DAVID_TRAIN_DAVI_H
#define DAVID_TRAIN_DAVI_H

#include "engine/nets/patchgan.h"
#include "engine/train/denoising.h"

struct davi_options {
    enum operator_kind op;
    double level;                    /* of the operator, where rows bring none */
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
    int32_t block[PATCHGAN_BLOCKS]; /* nodes of the discriminator */
    size_t block_count[PATCHGAN_BLOCKS],
        block_at[PATCHGAN_BLOCKS]; /* values, and where they begin */
    float *memory;
    struct generator answer; /* of the generator: its prediction, and the way back through it */
    float *x_t;              /* [rows][h][w][3]: the prediction noised */
    float *d_ikl, *d_con, *d_truth,
        *d_gan;              /* gradients of the terms by the prediction, unweighted */
    float *y, *y_theta, *dy; /* [rows][h][w][6], of the scores */
    float *true_blocks, *pred_blocks, *d_blocks; /* the discriminator's values, block after block */
    float *d_probe, *scratch;
};

/* The tapes must have one size of rows; the generator's a probe (generator_probe), the discriminator's taps that are kept and an
 * input gradient. ST_BAD_FILE where the networks do not fit one another. */
enum status davi_init(struct davi *out, const struct davi_options *o, struct trainable *teacher,
                      struct trainable *score, struct trainable *generator,
                      struct trainable *discriminator, struct error *err);
void davi_done(struct davi *d); /* takes a zeroed struct */

/* From now on the images are of this task. */
void davi_choose(struct davi *d, const struct task_desc *task);

/* The name of the weight behind lambda, of the last block's second convolution. NULL: not a UNet. */
const char *generator_probe(const struct graph *g);

struct davi_rows {
    const float *x, *y,
        *y_in; /* [rows]: true images, measurements, and these as the network takes them */
    const uint8_t *observed_mask; /* [rows][h][w]; NULL: there is no hole */
    const double *levels;         /* [rows] of the operator, or NULL */
};

struct davi_draws {
    const uint32_t *t_bridge, *t; /* [rows] */
    const float *z, *noise;       /* as the images */
    struct row_conditions told;   /* of the generator; t is not looked at */
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

/* A measurement as the network takes it: enlarged, repeated if it is gray, or as it is. y_in:
 * [side][side][3] of one row. */
void bridge_input(enum operator_kind op, uint32_t side, const float *y, float *y_in);

#endif
