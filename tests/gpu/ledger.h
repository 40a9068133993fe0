/* ledger.h - a back end that computes nothing and writes down what every op of a pass must do: operations and bytes.
 *
 * A program made and run on it goes through the same folding, memory plan and joins as on a GPU, so the list is what a GPU is
 * asked for, copies that a join saves left out. Bytes are each number read once and written once; a norm that reads its picture
 * twice (kernels/norm.cu) is counted so. Memory is taken but never touched. */
#ifndef DAVID_TESTS_GPU_LEDGER_H
#define DAVID_TESTS_GPU_LEDGER_H

#include "engine/graph/graph.h"
#include "tests/cuda/recorder.h"

enum { LEDGER_MAX = 1024, LEDGER_WHAT = 80 };

struct entry {
    enum op op;
    char what[LEDGER_WHAT]; /* equal for ops that cost the same */
    double flop, bytes;
    double again; /* of the bytes: read a second time, where a cache may have them still */
    double
        gaps; /* of a convolution's: pictures whose pixels stand apart, which some engines copy first */
    bool is_matrix; /* its operations are the matrix units' */
};

struct ledger {
    struct recorder recorder; /* first: a struct backend */
    struct backend_ops ops;
    struct entry entries[LEDGER_MAX];
    uint32_t count;
};

void ledger_init(struct ledger *l, uint32_t rows);

#endif
