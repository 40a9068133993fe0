/* dnn.h - the fake cuDNN's descriptors: descriptors.c makes them, dnn_run.c computes their
 * operations. */
#ifndef DAVID_FAKE_DNN_H
#define DAVID_FAKE_DNN_H

#include <cudnn.h>
#include <stdbool.h>
#include <stddef.h>

struct attribute {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count;
    void *values;
    struct attribute *next;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool is_finalized;
    struct attribute *first;
    uint32_t users; /* runs of a plan that are kept or recorded */
    struct descriptor *next;
};

const struct attribute *dnn_attribute(const struct descriptor *d, cudnnBackendAttributeName_t name);
int64_t dnn_number(const struct descriptor *d,
                   cudnnBackendAttributeName_t name); /* int64, enum or bool */
const int64_t *dnn_numbers(const struct descriptor *d, cudnnBackendAttributeName_t name);
struct descriptor *dnn_child(const struct descriptor *d, cudnnBackendAttributeName_t name,
                             int64_t i);

/* The engines of this device. */
enum {
    ENGINE_PLAIN,            /* supports everything */
    ENGINE_NONDETERMINISTIC, /* must never be chosen */
    ENGINE_SPLIT,            /* must not be chosen either: it splits sums */
    ENGINE_NOT_ALONE,        /* the fastest, but it does not support a batch of one */
    ENGINE_FAST,
    ENGINE_GREEDY,   /* needs more workspace than the bound */
    ENGINE_TF32,     /* F32 with rounded products */
    ENGINE_COMPILED, /* supports a wide bias */
    ENGINE_COUNT
};
uint64_t dnn_cost_ns(int64_t engine);

cudnnStatus_t dnn_execute(cudnnHandle_t handle, struct descriptor *plan,
                          const struct descriptor *pack);
void dnn_forget_weights(void); /* discards what was packed for the CPU */

struct cudnnContext {
    cudaStream_t stream;
};

#endif
