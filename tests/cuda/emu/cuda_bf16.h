/* cuda_bf16.h - BF16 as our kernels use it: conversions only, arithmetic is F32. A test compares
 * all values with the toolkit's. */
#ifndef DAVID_EMU_CUDA_BF16_H
#define DAVID_EMU_CUDA_BF16_H

#include "cuda_runtime.h"

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 h)
{
    return __uint_as_float((unsigned)h.bits << 16);
}
/* Rounds to nearest, ties to even; a NaN becomes 0x7fff. */
static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return { 0x7fff };
    return { (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16) };
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return { __float2bfloat16_rn(x), __float2bfloat16_rn(y) };
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h)
{
    return { __bfloat162float(h.x), __bfloat162float(h.y) };
}

#endif
