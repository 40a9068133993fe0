/* A libcuda.so.1 without a device, for checks of plans where no driver is installed. cuDNN's
 * engines that compile at run time need a driver library to load; this one answers every call with
 * CUDA_ERROR_NO_DEVICE, so they compile with NVRTC and load nothing. Never installed; only on the
 * library path of the plans' tests. */
enum { NO_DEVICE = 100, DRIVER_VERSION = 13000 };

#define ANSWER(name)                                                                               \
    int name(void);                                                                                \
    int name(void)                                                                                 \
    {                                                                                              \
        return NO_DEVICE;                                                                          \
    }

ANSWER(cuInit)
ANSWER(cuGetErrorName)
ANSWER(cuGetErrorString)
ANSWER(cuCtxGetCurrent)
ANSWER(cuCtxGetDevice)
ANSWER(cuCtxGetLimit)
ANSWER(cuCtxPopCurrent)
ANSWER(cuCtxPushCurrent)
ANSWER(cuDeviceGet)
ANSWER(cuDeviceGetAttribute)
ANSWER(cuDevicePrimaryCtxRelease)
ANSWER(cuDevicePrimaryCtxReset)
ANSWER(cuDevicePrimaryCtxRetain)
ANSWER(cuFuncGetAttribute)
ANSWER(cuFuncSetAttribute)
ANSWER(cuKernelGetAttribute)
ANSWER(cuKernelSetAttribute)
ANSWER(cuLaunchCooperativeKernel)
ANSWER(cuLaunchKernel)
ANSWER(cuLaunchKernelEx)
ANSWER(cuLibraryGetKernel)
ANSWER(cuLibraryLoadData)
ANSWER(cuLibraryLoadFromFile)
ANSWER(cuLibraryUnload)
ANSWER(cuLinkAddData)
ANSWER(cuLinkAddData_v2)
ANSWER(cuLinkAddFile_v2)
ANSWER(cuLinkComplete)
ANSWER(cuLinkCreate)
ANSWER(cuLinkCreate_v2)
ANSWER(cuLinkDestroy)
ANSWER(cuMemcpyDtoH_v2)
ANSWER(cuModuleGetFunction)
ANSWER(cuModuleGetGlobal_v2)
ANSWER(cuModuleLoadData)
ANSWER(cuModuleLoadDataEx)
ANSWER(cuModuleLoadFatBinary)
ANSWER(cuModuleUnload)
ANSWER(cuOccupancyMaxActiveBlocksPerMultiprocessor)
ANSWER(cuOccupancyMaxActiveClusters)
ANSWER(cuOccupancyMaxPotentialClusterSize)
ANSWER(cuStreamGetCtx)
ANSWER(cuStreamSynchronize)
ANSWER(cuTensorMapEncodeTiled)

int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);

int cuDriverGetVersion(int *version)
{
    *version = DRIVER_VERSION;
    return 0;
}

int cuDeviceGetCount(int *count)
{
    *count = 0;
    return NO_DEVICE;
}
