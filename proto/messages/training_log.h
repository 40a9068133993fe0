/* training_log.h - JSON that a training run writes into a model file: how its weights were made
 * (david.provenance), and their scores on the validation folder (david.metrics).
 *
 * Texts are malloc'd and belong to the caller; NULL: no memory, or a text that is not UTF-8. A
 * number that is not finite becomes null. Pure functions. */
#ifndef DAVID_PROTO_MESSAGES_TRAINING_LOG_H
#define DAVID_PROTO_MESSAGES_TRAINING_LOG_H

#include <stdbool.h>
#include <stdint.h>

/* Numbers have 15 significant digits in lr, 6 elsewhere. A seed beyond 2^63 - 1 is a text, as JSON
 * readers have no such integer. */
struct training_provenance {
    const char *data, *data_digest; /* the folder's name, and the digest of its list */
    const char *kind;               /* "davi", "prior" */
    const char *dtype;
    const char *parent; /* digest of the file that the weights began from; NULL: none */
    uint64_t steps, seed;
    uint32_t batch, micro_batch, size;
    double lr;
    bool has_recipe; /* the members below are written: of a restorer */
    const char *objective, *tasks, *regression, *energy_distance;
    uint64_t warmup, decay; /* steps */
    double lr_end, clip, average_decay, weight_decay, jitter, texture;
    double weight_con, reg_coeff, t_ikl;
};
char *training_provenance_text(const struct training_provenance *p);

struct training_score {
    const char *task;
    double psnr, mean_psnr; /* dB; 3 digits after the point */
    double coverage;        /* 4 digits after the point */
};
/* score: dB, 4 digits after the point. */
char *training_metrics_text(double score, uint64_t step, const struct training_score *scores,
                            uint32_t n);
/* The score in such a text; 0: there is none, or text is NULL. */
double training_metrics_score(const char *text);

#endif
