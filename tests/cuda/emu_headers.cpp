/* One source, compiled with the toolkit's headers and with ours (SIDE is the name of the side): the
 * results of both on the same bits are compared. */
#include <cstdint>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/cuda/emu_headers.h"

template <typename To, typename From> static To bits_as(const From &from)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(static_cast<void *>(&to), &from, sizeof to);
    return to;
}

static float from_bf16(uint16_t bits)
{
    return __bfloat162float(bits_as<__nv_bfloat16>(bits));
}

static float from_f16(uint16_t bits)
{
    return __half2float(bits_as<__half>(bits));
}

static uint16_t to_bf16(float x)
{
    return bits_as<uint16_t>(__float2bfloat16_rn(x));
}

static uint16_t to_f16(float x)
{
    return bits_as<uint16_t>(__float2half_rn(x));
}

static uint32_t pair_to_bf16(float x, float y)
{
    return bits_as<uint32_t>(__floats2bfloat162_rn(x, y));
}

static uint32_t pair_to_f16(float x, float y)
{
    return bits_as<uint32_t>(__floats2half2_rn(x, y));
}

static const struct fact facts[] = {
    { "sizeof float2", sizeof(float2) },
    { "sizeof float4", sizeof(float4) },
    { "sizeof uint2", sizeof(uint2) },
    { "sizeof uint4", sizeof(uint4) },
    { "alignof float2", alignof(float2) },
    { "alignof float4", alignof(float4) },
    { "alignof uint4", alignof(uint4) },
    { "sizeof dim3", sizeof(dim3) },
    { "dim3(2, 3).z", dim3(2, 3).z },
    { "sizeof __nv_bfloat162", sizeof(__nv_bfloat162) },
    { "alignof __nv_bfloat162", alignof(__nv_bfloat162) },
    { "sizeof __half2", sizeof(__half2) },
    { "cudaSuccess", cudaSuccess },
    { "cudaErrorInvalidValue", cudaErrorInvalidValue },
    { "cudaErrorMemoryAllocation", cudaErrorMemoryAllocation },
    { "cudaErrorInvalidConfiguration", cudaErrorInvalidConfiguration },
    { "cudaErrorInsufficientDriver", cudaErrorInsufficientDriver },
    { "cudaErrorNoDevice", cudaErrorNoDevice },
    { "cudaErrorIllegalAddress", cudaErrorIllegalAddress },
    { "cudaErrorLaunchFailure", cudaErrorLaunchFailure },
    { "cudaErrorUnknown", cudaErrorUnknown },
    { "cudaFuncAttributeMaxDynamicSharedMemorySize", cudaFuncAttributeMaxDynamicSharedMemorySize },
    { nullptr, 0 },
};

extern const struct headers SIDE = { from_bf16,    from_f16,    to_bf16, to_f16,
                                     pair_to_bf16, pair_to_f16, facts };
