/* bench_train.h - david bench --train: times the steps of training.
 *
 * For each batch size: a step of a prior and an iteration of DAVI; `o` gives everything but the
 * kind and the batch size. Prints to stdout. */
#ifndef DAVID_CLI_BENCH_TRAIN_H
#define DAVID_CLI_BENCH_TRAIN_H

#include "engine/train/train.h"

enum status bench_training(const struct train_bench_options *o, const uint32_t *batches, size_t n,
                           bool is_json, struct error *err);

#endif
