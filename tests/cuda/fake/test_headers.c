/* The names and values of the fake device's headers equal the toolkit's: compiled with the
 * toolkit's own headers. */
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdio.h>

static const struct value {
    const char *name;
    long long theirs, ours;
} values[] = {
#define VALUE(name, value) { #name, (long long)(name), value },
#define STATUS             VALUE
#define DATA               VALUE
#define MODE               VALUE
#define POINTWISE          VALUE
#define ATTRIBUTE          VALUE
#define TYPE               VALUE
#define DESCRIPTOR         VALUE
#define NOTE               VALUE
#define BEHAVIOR           VALUE
#define KNOB               VALUE
#define HEURISTIC          VALUE
#include "tests/cuda/fake/cudnn_values.def"
    /* clang-format off */
    VALUE(cudaSuccess, 0)
    VALUE(cudaErrorInvalidValue, 1)
    VALUE(cudaErrorMemoryAllocation, 2)
    VALUE(cudaErrorInsufficientDriver, 35)
    VALUE(cudaErrorNoDevice, 100)
    VALUE(cudaErrorInvalidDevice, 101)
    VALUE(cudaErrorInvalidResourceHandle, 400)
    VALUE(cudaErrorIllegalAddress, 700)
    VALUE(cudaErrorStreamCaptureUnsupported, 900)
    VALUE(cudaErrorStreamCaptureInvalidated, 901)
    VALUE(cudaErrorUnknown, 999)
    VALUE(cudaMemcpyHostToHost, 0)
    VALUE(cudaMemcpyHostToDevice, 1)
    VALUE(cudaMemcpyDeviceToHost, 2)
    VALUE(cudaMemcpyDeviceToDevice, 3)
    VALUE(cudaStreamCaptureModeGlobal, 0)
    VALUE(cudaStreamCaptureModeThreadLocal, 1)
    VALUE(cudaStreamCaptureModeRelaxed, 2)
    VALUE(cudaStreamNonBlocking, 0x01)
    VALUE(cudaEventBlockingSync, 0x01)
    VALUE(cudaEventDisableTiming, 0x02)
    /* clang-format on */
};

int main(void)
{
    int off = 0;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i].theirs == values[i].ours) continue;
        printf("%s is %lld, not %lld\n", values[i].name, values[i].theirs, values[i].ours);
        off++;
    }
    printf("%zu values compared, %d differ\n", sizeof values / sizeof *values, off);
    return off > 0;
}
