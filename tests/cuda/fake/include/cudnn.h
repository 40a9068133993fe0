/* cudnn.h - the part of cuDNN's graph interface that engine/cuda calls, for the fake device.
 *
 * Own declarations of public names; their values are in cudnn_values.def. A call of the plugin that
 * is missing here does not compile; add it then. */
#ifndef DAVID_FAKE_CUDNN_H
#define DAVID_FAKE_CUDNN_H

#include <cuda_runtime_api.h>

#define VALUE(name, value) name = (value),
#define STATUS             VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnStatus_t;
#undef STATUS
#define DATA VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnDataType_t;
#undef DATA
#define MODE VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnConvolutionMode_t;
#undef MODE
#define POINTWISE VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnPointwiseMode_t;
#undef POINTWISE
#define ATTRIBUTE VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendAttributeName_t;
#undef ATTRIBUTE
#define TYPE VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendAttributeType_t;
#undef TYPE
#define DESCRIPTOR VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendDescriptorType_t;
#undef DESCRIPTOR
#define NOTE VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendNumericalNote_t;
#undef NOTE
#define BEHAVIOR VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendBehaviorNote_t;
#undef BEHAVIOR
#define KNOB VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendKnobType_t;
#undef KNOB
#define HEURISTIC VALUE
typedef enum {
#include "tests/cuda/fake/cudnn_values.def"
} cudnnBackendHeurMode_t;
#undef HEURISTIC
#undef VALUE

typedef struct cudnnContext *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;

size_t cudnnGetVersion(void);
cudnnStatus_t cudnnCreate(cudnnHandle_t *handle);
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle);
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t streamId);
const char *cudnnGetErrorString(cudnnStatus_t status);
void cudnnGetLastErrorString(char *message, size_t max_size);

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t descriptorType,
                                           cudnnBackendDescriptor_t *descriptor);
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor);
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor);
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t attributeName,
                                       cudnnBackendAttributeType_t attributeType,
                                       int64_t elementCount, const void *arrayOfElements);
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t attributeName,
                                       cudnnBackendAttributeType_t attributeType,
                                       int64_t requestedElementCount, int64_t *elementCount,
                                       void *arrayOfElements);
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t executionPlan,
                                  cudnnBackendDescriptor_t variantPack);

#endif
