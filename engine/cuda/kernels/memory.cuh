/* memory.cuh - numbers in device memory: F32, F16 or BF16 there, float in registers; one at a time
 * or 16 bytes at a time.
 *
 * All access to device memory is through these functions: 16 bytes at once wherever the layout
 * allows it (can_vector), and in one place, so that the emulation can check alignment and count
 * what a warp accesses. Conversions round to nearest even. */
#ifndef DAVID_CUDA_MEMORY_CUH
#define DAVID_CUDA_MEMORY_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <type_traits>

#include "engine/cuda/kernels.h"
#include "engine/cuda/kernels/device.cuh"

typedef __nv_bfloat16 bf16;
typedef __half f16;

enum { VECTOR_BYTES = 16 };
template <typename T> constexpr int vector_of = VECTOR_BYTES / (int)sizeof(T);

/* ---- bits ---- */

template <typename To, typename From> DEVICE To bits_as(const From &from)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    return *reinterpret_cast<const To *>(&from);
}

/* Two numbers of 16 bits in a word, the lower first. */
template <typename T> DEVICE float2 unpack(unsigned word)
{
    if constexpr (std::is_same_v<T, bf16>)
        return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
    else
        return __half22float2(bits_as<__half2>(word));
}

template <typename T> DEVICE unsigned pack(float low, float high)
{
    if constexpr (std::is_same_v<T, bf16>)
        return bits_as<unsigned>(__floats2bfloat162_rn(low, high));
    else
        return bits_as<unsigned>(__floats2half2_rn(low, high));
}

/* v[0 .. 16 / sizeof(T)) from 16 bytes, and the reverse. */
template <typename T> DEVICE void unpack16(float *v, uint4 raw)
{
    if constexpr (sizeof(T) == 4) {
        v[0] = __uint_as_float(raw.x);
        v[1] = __uint_as_float(raw.y);
        v[2] = __uint_as_float(raw.z);
        v[3] = __uint_as_float(raw.w);
    } else {
        const unsigned words[4] = { raw.x, raw.y, raw.z, raw.w };
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 two = unpack<T>(words[i]);
            v[2 * i] = two.x;
            v[2 * i + 1] = two.y;
        }
    }
}

/* One value or two from one word of 16 bytes. */
template <typename T, int N> DEVICE void unpack_word(float (&v)[N], const uint4 &raw, int word)
{
    const unsigned bits = word == 0 ? raw.x : word == 1 ? raw.y : word == 2 ? raw.z : raw.w;
    if constexpr (N == 1) {
        v[0] = __uint_as_float(bits);
    } else {
        const float2 two = unpack<T>(bits);
        v[0] = two.x;
        v[1] = two.y;
    }
}

template <typename T> DEVICE uint4 pack16(const float *v)
{
    if constexpr (sizeof(T) == 4)
        return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                          __float_as_uint(v[3]));
    else
        return make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]),
                          pack<T>(v[6], v[7]));
}

DEVICE float as_float(float x)
{
    return x;
}
DEVICE float as_float(bf16 x)
{
    return __bfloat162float(x);
}
DEVICE float as_float(f16 x)
{
    return __half2float(x);
}

template <typename T> DEVICE T rounded(float x)
{
    if constexpr (std::is_same_v<T, bf16>)
        return __float2bfloat16_rn(x);
    else if constexpr (std::is_same_v<T, f16>)
        return __float2half_rn(x);
    else
        return x;
}

/* ---- device memory ---- */

template <typename T> DEVICE T get(const T *p)
{
    DEVICE_TOUCH(p, sizeof(T), false);
    return *p;
}

template <typename T> DEVICE void put(T *p, T value)
{
    DEVICE_TOUCH(p, sizeof(T), true);
    *p = value;
}

DEVICE uint4 get16(const void *p)
{
    DEVICE_TOUCH(p, VECTOR_BYTES, false);
    return *static_cast<const uint4 *>(p);
}

DEVICE void put16(void *p, uint4 raw)
{
    DEVICE_TOUCH(p, VECTOR_BYTES, true);
    *static_cast<uint4 *>(p) = raw;
}

/* Copies 16 bytes into shared memory without passing through registers; complete once this thread
 * has waited. */
DEVICE void copy16_async(void *shared, const void *p)
{
    DEVICE_TOUCH(p, VECTOR_BYTES, false);
    __pipeline_memcpy_async(shared, p, VECTOR_BYTES);
}

DEVICE void wait_for_copies()
{
    __pipeline_commit();
    __pipeline_wait_prior(0);
}

/* Loads N numbers from p on: one, or a multiple of 16 bytes. */
template <typename T, int N> DEVICE void load(float (&v)[N], const T *p)
{
    if constexpr (N == 1) {
        v[0] = as_float(get(p));
    } else {
        static_assert(N % vector_of<T> == 0, "whole vectors");
#pragma unroll
        for (int i = 0; i < N; i += vector_of<T>)
            unpack16<T>(v + i, get16(p + i));
    }
}

template <typename T, int N> DEVICE void store(T *p, const float (&v)[N])
{
    if constexpr (N == 1) {
        put(p, rounded<T>(v[0]));
    } else {
        static_assert(N % vector_of<T> == 0, "whole vectors");
#pragma unroll
        for (int i = 0; i < N; i += vector_of<T>)
            put16(p + i, pack16<T>(v + i));
    }
}

/* Rounds v as a store and a load would. */
template <typename T, int N> DEVICE void round_to(float (&v)[N])
{
    if constexpr (N == 1) {
        v[0] = as_float(rounded<T>(v[0]));
    } else {
#pragma unroll
        for (int i = 0; i < N; i += vector_of<T>)
            unpack16<T>(v + i, pack16<T>(v + i));
    }
}

/* ---- on the host: the choice of the code ---- */

static inline size_t dtype_bytes(enum dtype t)
{
    return t == DT_F32 ? 4 : 2;
}

/* True if channels first .. first + c of every pixel can be read in steps of `step` elements, in
 * whole vectors. */
static inline bool can_vector(const struct tensor *t, size_t first, size_t c, size_t step)
{
    const size_t size = dtype_bytes(t->dtype);
    return step * size % VECTOR_BYTES == 0 && c % step == 0 && t->ld * size % VECTOR_BYTES == 0 &&
           ((uintptr_t)t->data + first * size) % VECTOR_BYTES == 0;
}

template <typename T> struct type_is {
    typedef T type;
};

/* Calls f(type_is<T>()) with the T of a dtype; returns its result, or cudaErrorInvalidValue for an
 * unknown dtype. */
template <typename F> static inline int with_type(enum dtype t, F f)
{
    switch (t) {
    case DT_F32: return f(type_is<float>());
    case DT_F16: return f(type_is<f16>());
    case DT_BF16: return f(type_is<bf16>());
    default: return cudaErrorInvalidValue;
    }
}

#endif
