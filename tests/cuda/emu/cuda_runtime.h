/* cuda_runtime.h - the subset of CUDA C++ that our kernels use, as C++ for the host (see emu.h).
 *
 * Own declarations of public names. A kernel that uses a name which is missing here does not
 * compile; add the name then, with its documented error where it has one. SHARED, DYNAMIC_SHARED
 * and DEVICE_TOUCH are names of this project; engine/cuda/kernels/device.cuh defines them for
 * nvcc. */
#ifndef DAVID_EMU_CUDA_RUNTIME_H
#define DAVID_EMU_CUDA_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime_api.h"
#include "device.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#ifndef __restrict__
#define __restrict__ __restrict
#endif

#define warpSize 32

#define SHARED(type, name)                                                                         \
    static const char name##_tag = 0;                                                              \
    type &name =                                                                                   \
        *static_cast<type *>(emu::shared_variable(&name##_tag, sizeof(type), alignof(type)))
#define DYNAMIC_SHARED(type, name)             type *name = static_cast<type *>(emu::shared_dynamic())
#define DEVICE_TOUCH(address, bytes, is_write) emu::touch(address, bytes, is_write)

/* ---- vectors ---- */

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y)
{
    return { x, y };
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return { x, y, z, w };
}
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return { x, y };
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return { x, y, z, w };
}

/* ---- barriers and warps ---- */

#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(EMU_HERE)
{
    (void)emu::block_barrier({ file, line }, emu::VOTE_NONE, 0);
}
static inline int __syncthreads_count(int value, EMU_HERE)
{
    return emu::block_barrier({ file, line }, emu::VOTE_COUNT, value);
}
static inline int __syncthreads_and(int value, EMU_HERE)
{
    return emu::block_barrier({ file, line }, emu::VOTE_AND, value);
}
static inline int __syncthreads_or(int value, EMU_HERE)
{
    return emu::block_barrier({ file, line }, emu::VOTE_OR, value);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE)
{
    (void)emu::warp_exchange({ file, line }, "__syncwarp", mask, 0);
}

namespace emu
{

template <typename T>
static inline T shuffle(site where, const char *what, unsigned mask, T value, int from)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most eight bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    const uint64_t *words = warp_exchange(where, what, mask, word);
    if (!(mask >> from & 1))
        fault(where, "%s reads lane %d, which is not in mask %08x", what, from, mask);
    memcpy(&value, &words[from], sizeof value);
    return value;
}

static inline int in_segment(int lane, int width)
{
    return lane & ~(width - 1);
}

} // namespace emu

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_HERE)
{
    int from = emu::in_segment(emu::lane(), width) + (source & (width - 1));
    return emu::shuffle({ file, line }, "__shfl_sync", mask, value, from);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_HERE)
{
    int from = emu::lane() ^ lanes;
    if (from >= emu::in_segment(emu::lane(), width) + width) from = emu::lane();
    return emu::shuffle({ file, line }, "__shfl_xor_sync", mask, value, from);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_HERE)
{
    int from = emu::lane() + (int)by;
    if (from >= emu::in_segment(emu::lane(), width) + width) from = emu::lane();
    return emu::shuffle({ file, line }, "__shfl_down_sync", mask, value, from);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE)
{
    const uint64_t *words =
        emu::warp_exchange({ file, line }, "__ballot_sync", mask, predicate != 0);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && words[i]) bits |= 1u << i;
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate, EMU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, EMU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) == mask;
}

/* ---- atomics: only one thread runs at a time ---- */

template <typename T> static inline T atomicAdd(T *address, T value)
{
    T old = *address;
    *address = (T)(old + value);
    return old;
}
template <typename T> static inline T atomicMax(T *address, T value)
{
    T old = *address;
    if (value > old) *address = value;
    return old;
}
template <typename T> static inline T atomicOr(T *address, T value)
{
    T old = *address;
    *address = old | value;
    return old;
}
template <typename T> static inline T atomicExch(T *address, T value)
{
    T old = *address;
    *address = value;
    return old;
}
static inline void __threadfence()
{
}

/* ---- arithmetic ---- */

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline long long __double_as_longlong(double x)
{
    long long u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline double __longlong_as_double(long long u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline long long __mul64hi(long long a, long long b)
{
    return (long long)((__extension__(__int128) a * b) >> 64);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((__extension__(unsigned __int128) a * b) >> 64);
}
/* To nearest, ties to even: the process's rounding mode. */
static inline long long __double2ll_rn(double x)
{
    return std::llrint(x);
}
static inline long long __float2ll_rn(float x)
{
    return std::llrint(x);
}
static inline int __double2int_rn(double x)
{
    return (int)std::lrint(x);
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __ddiv_rn(double a, double b)
{
    return a / b;
}
static inline double __dsqrt_rn(double x)
{
    return std::sqrt(x);
}
#define CUDA_MIN_MAX(type)                                                                         \
    static inline type min(type a, type b)                                                         \
    {                                                                                              \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    static inline type max(type a, type b)                                                         \
    {                                                                                              \
        return a < b ? b : a;                                                                      \
    }
CUDA_MIN_MAX(int)
CUDA_MIN_MAX(unsigned)
CUDA_MIN_MAX(long)
CUDA_MIN_MAX(unsigned long)
#undef CUDA_MIN_MAX

/* ---- functions with an error: the largest that the programming guide documents, in ulp ---- */

namespace emu
{

static inline float exp_fast(float x) /* 2 + floor(|1.173 x|) */
{
    return rough(std::exp(x), x, 2 + std::floor(std::fabs(1.173f * x)));
}
static inline float exp_full(float x)
{
    return rough(std::exp(x), x, 1);
}
static inline float exp2_full(float x)
{
    return rough(std::exp2(x), x, 2);
}
static inline float log_full(float x)
{
    return rough(std::log(x), x, 1);
}
static inline float tanh_full(float x)
{
    return rough(std::tanh(x), x, 1);
}

} // namespace emu

#define __expf emu::exp_fast /* glibc has a function of this name */
#define expf   emu::exp_full
#define exp2f  emu::exp2_full
#define logf   emu::log_full
#define tanhf  emu::tanh_full

static inline float rsqrtf(float x)
{
    return emu::rough((float)(1.0 / std::sqrt((double)x)), x, 2);
}
/* 2 ulp where |b| is between 2^-126 and 2^126, 0 beyond. */
static inline float __fdividef(float a, float b)
{
    float size = std::fabs(b);
    if (size > 0x1p126f && size < INFINITY) return std::isfinite(a) ? a * 0.0f : NAN;
    return emu::rough(a / b, b, 2);
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return std::sqrt(x);
}
static inline void sincospif(float x, float *sine, float *cosine)
{
    const double pi = 3.14159265358979323846;
    double turn = std::fmod((double)x, 2.0); /* exact */
    *sine = emu::rough((float)std::sin(pi * turn), x, 1);
    *cosine = emu::rough((float)std::cos(pi * turn), x + 1, 1);
}

/* ---- launches ---- */

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                                             A &&...arguments)
{
    return emu::launch(config, reinterpret_cast<const void *>(kernel),
                       [=]() { kernel(static_cast<P>(arguments)...); });
}
template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute attribute, int value)
{
    (void)attribute; /* there is only one */
    return emu::allow_shared(reinterpret_cast<const void *>(kernel), (size_t)value);
}

#endif
