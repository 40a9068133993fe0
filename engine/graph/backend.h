/* backend.h - what a back end computes: structs of function pointers, by subject.
 *
 * Three back ends implement it: tests/reference (double, naive), engine/cpu (own loops) and
 * engine/cuda (a plugin). Code above does not know which one it has. A back end belongs to the
 * caller that opened it and is freed by device.close. One thread drives a back end at a time (it
 * may use a team inside). Functions fail with ST_* and leave the reason in err. Each header states
 * shapes, dtypes and what may be NULL; everything else is required. */
#ifndef DAVID_GRAPH_BACKEND_H
#define DAVID_GRAPH_BACKEND_H

#include "engine/graph/backend/device.h"
#include "engine/graph/backend/ops.h"

struct gradient_ops;
struct image_ops;
struct loss_ops;

struct backend_ops {
    struct device_ops device; /* memory, streams, recording */
    struct net_ops net;       /* ops of a network and of the sampler */
    /* backend/gradients.h; NULL: this back end cannot train. */
    const struct gradient_ops *gradients;
    /* backend/losses.h; NULL: this back end cannot train. */
    const struct loss_ops *losses;
    /* backend/images.h; NULL: the host holds the images. */
    const struct image_ops *images;
};

struct backend {
    const struct backend_ops *ops;
};

/* Opens a back end. `threads`: size of the team, >= 1. */
enum status cpu_backend_open(struct backend **out, int threads, struct error *err); /* engine/cpu */
/* tests/reference: F32 storage, double arithmetic. */
enum status reference_backend_open(struct backend **out, struct error *err);

#endif
