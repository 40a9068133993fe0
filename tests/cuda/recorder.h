/* recorder.h - a back end that computes nothing and records the ops of a network: the list of its
 * plans.
 *
 * A program made on it has the same constant folding, memory plan and fusion as on any other, so
 * its convolutions and attentions are the real ones, with the real distances between pixels. Memory
 * is allocated but never accessed. */
#ifndef DAVID_TESTS_CUDA_RECORDER_H
#define DAVID_TESTS_CUDA_RECORDER_H

#include "engine/graph/backend.h"

enum { RECORDER_MAX = 512 };

struct recorder {
    struct backend base;
    uint32_t rows; /* of one execution; set before a program is made */
    struct conv_desc convs[RECORDER_MAX];
    struct attention_desc attentions[RECORDER_MAX];
    uint32_t n_convs, n_attentions;
};

void recorder_init(struct recorder *r, uint32_t rows);

#endif
