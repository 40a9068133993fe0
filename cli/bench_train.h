/* bench_train.h - david bench --train: times of the training steps.
 *
 * For each batch size it times a prior's step and an iteration of DAVI; `o` has all options except
 * the kind and the batch. Prints to stdout. */
#ifndef DAVID_CLI_BENCH_TRAIN_H
#define DAVID_CLI_BENCH_TRAIN_H

#include "engine/train/train.h"

enum status bench_training(const struct train_bench_options *o, const uint32_t *batches, size_t n,
                           bool is_json, struct error *err);

#endif
