/* device.cuh - included first by every kernel file: the language, shared memory, and a launch that
 * is a function.
 *
 * The same text compiles with nvcc and, as C++ against tests/cuda/emu, for the host. Kernels use
 * SHARED and DYNAMIC_SHARED for shared memory, launch() in place of <<<>>>, and memory.cuh for all
 * device memory. Nothing here depends on cuDNN or allocates. */
#ifndef DAVID_CUDA_DEVICE_CUH
#define DAVID_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#ifdef __CUDACC__
/* A variable of the block: never initialised; one per call site. */
#define SHARED(type, name) __shared__ type name
/* The block's dynamic shared memory as an array of `type`; one per kernel. */
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ uint4 dynamic_shared_memory[];                                               \
    type *name = reinterpret_cast<type *>(dynamic_shared_memory)
#define DEVICE_TOUCH(address, bytes, is_write) ((void)0) /* the emulation counts accesses */
#endif

#define DEVICE static __device__ __forceinline__

/* DYNAMIC_SHARED_BYTES: the maximum of all kernels; together with its SHARED it fits in the 99 KiB
 * that every GPU from sm_80 on has. */
enum { WARP_LANES = 32, DYNAMIC_SHARED_BYTES = 88 * 1024 };

template <typename... P, typename... A>
static inline int launch(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared_bytes,
                         void *stream, A... arguments)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
    /* Up to 48 KiB, SHARED and dynamic together, need no request. The request is always the same,
     * so that no launch reduces what a recorded one needs. */
    if (shared_bytes > 0) {
        cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             DYNAMIC_SHARED_BYTES);
        if (e) return e;
    }
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = dim3(threads);
    c.dynamicSmemBytes = shared_bytes;
    c.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&c, kernel, arguments...);
}

/* The number of blocks of `size` that cover `count`. */
static inline unsigned blocks_of(uint64_t count, uint64_t size)
{
    return (unsigned)((count + size - 1) / size);
}

DEVICE float warp_sum(float v)
{
    for (int by = WARP_LANES / 2; by > 0; by /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, by);
    return v;
}

DEVICE float warp_max(float v)
{
    for (int by = WARP_LANES / 2; by > 0; by /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, by));
    return v;
}

#endif
