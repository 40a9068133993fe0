/* cuda_fp16.h - F16 as our kernels use it: conversions only, arithmetic is F32. A test compares all
 * values with the toolkit's. */
#ifndef DAVID_EMU_CUDA_FP16_H
#define DAVID_EMU_CUDA_FP16_H

#include "cuda_runtime.h"

struct alignas(2) __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

static inline float __half2float(__half h)
{
    unsigned sign = (unsigned)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31,
             part = h.bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | part << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | part << 13);
    float tiny = (float)part * 0x1p-24f; /* subnormal, or 0 */
    return sign ? -tiny : tiny;
}
/* Rounds to nearest, ties to even; a NaN becomes 0x7fff, a number that is too large becomes
 * infinity. */
static inline __half __float2half_rn(float x)
{
    unsigned u = __float_as_uint(x), size = u & 0x7fffffffu, sign = u >> 16 & 0x8000;
    if (size > 0x7f800000u) return { 0x7fff };
    if (size >= 0x47800000u) return { (uint16_t)(sign | 0x7c00) }; /* 2^16 and above */
    if (size < 0x38800000u) {                                      /* below 2^-14: units of 2^-24 */
        float units = __uint_as_float(size) * 0x1p24f;
        return { (uint16_t)(sign | (unsigned)std::lrint(units)) };
    }
    unsigned rounded = size + 0xfff + (size >> 13 & 1);
    return { (uint16_t)(sign | ((rounded >> 13) - (112u << 10))) };
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return { __float2half_rn(x), __float2half_rn(y) };
}
static inline float2 __half22float2(__half2 h)
{
    return { __half2float(h.x), __half2float(h.y) };
}

#endif
