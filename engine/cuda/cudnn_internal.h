/* cudnn_internal.h - what the files behind cudnn_graph.h share: cuDNN descriptors with one owner.
 *
 * cuDNN's objects are made in one order: tensors, operations, graph, heuristics or engine,
 * configuration, plan. Each is finalized before the next refers to it, and all must exist as long
 * as the last. A struct dnn_parts owns them. After its first failure every call on it does nothing,
 * and that failure is its status. */
#ifndef DAVID_CUDA_CUDNN_INTERNAL_H
#define DAVID_CUDA_CUDNN_INTERNAL_H

#include "engine/cuda/cudnn_graph.h"

typedef cudnnBackendDescriptor_t dnn_part_t;

enum { DNN_MAX_PARTS = 64 };

struct dnn_parts {
    dnn_part_t all[DNN_MAX_PARTS];
    uint32_t count;
    enum status status;
    struct error *err; /* of the call that makes parts; may be NULL */
};

void dnn_parts_done(struct dnn_parts *p); /* takes a zeroed struct */
dnn_part_t dnn_part(struct dnn_parts *p, cudnnBackendDescriptorType_t type);
void dnn_note(struct dnn_parts *p, cudnnStatus_t s, const char *what);
void dnn_set(struct dnn_parts *p, dnn_part_t d, cudnnBackendAttributeName_t name,
             cudnnBackendAttributeType_t type, int64_t count, const void *values);
void dnn_set_part(struct dnn_parts *p, dnn_part_t d, cudnnBackendAttributeName_t name,
                  dnn_part_t value);
void dnn_finish(struct dnn_parts *p, dnn_part_t d, const char *what);
/* The number of elements read; 0 where the attribute is not available. */
int64_t dnn_get(dnn_part_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t max, void *out);

enum {
    DNN_X = 1,
    DNN_WEIGHT,
    DNN_BIAS,
    DNN_RESIDUAL,
    DNN_Y,
    DNN_QUERY,
    DNN_KEY,
    DNN_VALUE,
    DNN_SCALE,
    DNN_BETWEEN = 100 /* and up: never written to memory */
};

enum status dnn_check_op(const struct dnn_op *o, uint32_t n, struct error *err);
/* The op at a batch of n; its tensors have the identifiers above. */
dnn_part_t dnn_graph_of(struct dnn_parts *p, const struct dnn_op *o, uint32_t n, bool wide_bias);

struct dnn_target {
    struct dnn_parts parts;
    dnn_part_t deviceprop;
};

#endif
