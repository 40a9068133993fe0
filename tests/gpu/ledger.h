/* ledger.h - records the operations, bytes and time of every op of a network.
 *
 * ledger_init: on a back end that computes nothing. A program made and run on it has the same
 * constant folding, memory plan and fusion as on a GPU, so the list is what a GPU runs; copies that
 * fusion removes are left out. ledger_watch: on a real back end. While it is turned on, each op is
 * run `repeats` times in a row and timed; the results are then meaningless. Bytes: each number is
 * read once and written once, except that a norm that reads its image twice (kernels/norm.cu) is
 * counted so. One ledger at a time. */
#ifndef DAVID_TESTS_GPU_LEDGER_H
#define DAVID_TESTS_GPU_LEDGER_H

#include "engine/graph/graph.h"
#include "tests/cuda/recorder.h"

enum { LEDGER_MAX = 1024, LEDGER_WHAT = 80 };

struct entry {
    enum op op;
    char what[LEDGER_WHAT]; /* equal for ops that cost the same */
    double flop, bytes;
    double again; /* of the bytes: those read a second time, possibly from a cache */
    /* Of the bytes: images of a convolution with gaps between pixels, which some engines copy
     * first. */
    double gaps;
    bool is_matrix; /* its operations run on the matrix units */
    double ns;      /* of one run; 0: not timed */
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
/* For programs made from now on. It is off at first. */
void ledger_watch(struct ledger *l, struct backend *b, uint32_t repeats);
void ledger_turn(struct ledger *l, bool on); /* discards the entries */
void ledger_unwatch(struct ledger *l);       /* free the programs made in between first */

/* The sum of all entries equal to entry i; false: an earlier entry was equal. *count: how many. */
bool ledger_sum(const struct ledger *l, uint32_t i, struct entry *out, uint32_t *count);

#endif
