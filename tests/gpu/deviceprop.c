/* Prints cuDNN's description of this device, as the flat JSON of tests/cuda/devices: deviceprop >
 * sm_90.json */
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what, cudnnStatus_t s)
{
    fprintf(stderr, "deviceprop: %s: %s\n", what, cudnnGetErrorString(s));
    return 1;
}

int main(void)
{
    cudnnHandle_t handle = NULL;
    cudnnBackendDescriptor_t d = NULL;
    int64_t size = 0, got = 0;
    cudnnStatus_t s = cudnnCreate(&handle);
    if (s) return failed("cuDNN cannot be opened", s);
    s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d);
    if (!s)
        s = cudnnBackendSetAttribute(d, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                     &handle);
    if (!s) s = cudnnBackendFinalize(d);
    if (s) return failed("the device cannot be described", s);
    s = cudnnBackendGetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0,
                                 &size, NULL);
    if (s) return failed("the description has no size", s);
    char *text = calloc(1, (size_t)size + 1);
    if (!text) return 1;
    s = cudnnBackendGetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                 size, &got, text);
    if (s) return failed("the description cannot be read", s);
    puts(text);
    free(text);
    (void)cudnnBackendDestroyDescriptor(d);
    (void)cudnnDestroy(handle);
    return 0;
}
