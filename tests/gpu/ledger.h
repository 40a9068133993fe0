/* ledger.h - writes down what every op of a pass must do, operations and bytes, and how long it takes.
 *
 * ledger_init: on a back end that computes nothing. A program made and run on it goes through the same folding, memory plan and joins as on a GPU, so the
 * list is what a GPU is asked for, copies that a join saves left out. ledger_watch: on a real one; while it is turned on, ops are done `repeats` times
 * each, one op after the other, and timed; results are then worth nothing. Bytes: each number read once and written once, but that a
 * norm that reads its image twice (kernels/norm.cu) is counted so. One ledger at a time. */
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
        gaps; /* of a convolution's: images whose pixels stand apart, which some engines copy first */
    bool is_matrix; /* its operations are the matrix units' */
    double ns;      /* of one; 0: not timed */
};

struct ledger {
    struct recorder recorder;
    struct backend_ops ops;
    struct backend *watched; /* NULL: the recorder */
    const struct backend_ops *under;
    uint32_t repeats;
    bool is_on;
    struct {
        const struct conv_plan *plan;
        struct conv_desc d;
    } plans[RECORDER_MAX];
    uint32_t n_plans;
    struct entry entries[LEDGER_MAX];
    uint32_t count;
};

void ledger_init(struct ledger *l, uint32_t rows);
/* For programs made from now on; turned off. */
void ledger_watch(struct ledger *l, struct backend *b, uint32_t repeats);
void ledger_turn(struct ledger *l, bool on); /* forgets what it has written down */
void ledger_unwatch(struct ledger *l);       /* programs made meanwhile have been freed */

/* Alike entries as one: their sum; false: an earlier one was alike. *count: how many. */
bool ledger_sum(const struct ledger *l, uint32_t i, struct entry *out, uint32_t *count);

#endif
