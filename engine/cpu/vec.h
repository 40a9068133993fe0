/* vec.h - vectors of the instruction set for which the including file is compiled.
 *
 * Only for files that engine/cpu.cmake compiles once per set (with ISA defined). `vf` is VEC
 * floats. Loads and stores take any alignment, convert from and to BF16 where `bf16` is true (a
 * constant after inlining), and handle the last n < VEC elements of a row: missing lanes read as
 * 0. */
#ifndef DAVID_CPU_VEC_H
#define DAVID_CPU_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define ISA_PASTE_(name, isa) name##_##isa
#define ISA_PASTE(name, isa)  ISA_PASTE_(name, isa)
#define ISA_FN(name)          ISA_PASTE(name, ISA)

#if defined __AVX512F__
#define VEC 16
#define MR  12
#elif defined __AVX2__
#define VEC 8
#define MR  6
#else
#define VEC 4
#define MR  6
#endif
#define NR     (2 * VEC)
#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(VEC * 4)));
typedef int32_t vi __attribute__((vector_size(VEC * 4)));
typedef uint32_t vu __attribute__((vector_size(VEC * 4)));
typedef uint16_t vh __attribute__((vector_size(VEC * 2)));
typedef float vf_any __attribute__((vector_size(VEC * 4), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(VEC * 2), aligned(2), may_alias));

INLINE vf vsplat(float x)
{
    return x - (vf){ 0 };
}

INLINE vf vget(const float *p)
{
    return *(const vf_any *)p;
}

INLINE void vput(float *p, vf v)
{
    *(vf_any *)p = v;
}

INLINE vf vselect(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

INLINE vh vround_bf16(vf v)
{
#ifdef __AVX512BF16__ /* the same, except that numbers below 2^-126 become 0 */
    return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
    vu u = (vu)v, up = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vu nan = (vu)((vi)(u & 0x7fffffff) > 0x7f800000);
    return __builtin_convertvector((nan & ((u >> 16) | 0x40)) | (~nan & up), vh);
#endif
}

INLINE const void *at(const void *p, size_t i, bool bf16)
{
    return (const char *)p + i * (bf16 ? 2 : 4);
}

INLINE void *at_mut(void *p, size_t i, bool bf16)
{
    return (char *)p + i * (bf16 ? 2 : 4);
}

INLINE vf vload_full(const void *p, size_t i, bool bf16)
{
    if (!bf16) return vget((const float *)p + i);
#ifdef __AVX512F__ /* GCC 12 splits the generic form into two halves */
    __m256i half = _mm256_loadu_si256((const void *)((const uint16_t *)p + i));
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
    vh raw = *(const vh_any *)((const uint16_t *)p + i);
    return (vf)(__builtin_convertvector(raw, vu) << 16);
#endif
}

INLINE vf vload(const void *p, size_t i, size_t n, bool bf16)
{
    if (n >= VEC) return vload_full(p, i, bf16);
#if defined __AVX512BW__ && defined __AVX512VL__
    const __mmask16 some = (__mmask16)((1u << n) - 1);
    if (!bf16) return (vf)_mm512_maskz_loadu_ps(some, (const float *)p + i);
    __m256i half = _mm256_maskz_loadu_epi16(some, (const uint16_t *)p + i);
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
    if (bf16) {
        uint16_t part[VEC] = { 0 };
        memcpy(part, (const uint16_t *)p + i, n * sizeof *part);
        return vload_full(part, 0, true);
    }
    float part[VEC] = { 0 };
    memcpy(part, (const float *)p + i, n * sizeof *part);
    return vget(part);
#endif
}

INLINE void vstore(void *p, size_t i, size_t n, vf v, bool bf16)
{
#if defined __AVX512BW__ && defined __AVX512VL__
    if (n < VEC) {
        const __mmask16 some = (__mmask16)((1u << n) - 1);
        if (bf16)
            _mm256_mask_storeu_epi16((uint16_t *)p + i, some, (__m256i)vround_bf16(v));
        else
            _mm512_mask_storeu_ps((float *)p + i, some, (__m512)v);
        return;
    }
#endif
    if (bf16) {
        vh half = vround_bf16(v);
        if (n >= VEC)
            *(vh_any *)((uint16_t *)p + i) = half;
        else
            memcpy((uint16_t *)p + i, &half, n * sizeof(uint16_t));
    } else if (n >= VEC) {
        vput((float *)p + i, v);
    } else {
        memcpy((float *)p + i, &v, n * sizeof(float));
    }
}

/* Nearest integer of |x| < 2^22. */
INLINE vf vround(vf x)
{
    const float magic = 12582912.0f;
    vf t = x + magic;
    __asm__("" : "+x"(t)); /* keeps the compiler from cancelling the two additions */
    return t - magic;
}

/* e^x within 2 ulp for -87 <= x <= 88; beyond, x is clamped. A NaN stays a NaN. */
INLINE vf vexp(vf x)
{
    x = vselect(x > 88.0f, vsplat(88.0f), x);
    x = vselect(x < -87.0f, vsplat(-87.0f), x);
    vf n = vround(x * 1.44269504088896341f);
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi scale = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)scale;
}

INLINE vf vsilu(vf x)
{
    return x / (1.0f + vexp(-x));
}

/* The largest of x[0 .. n); n > 0. Returns a NaN only if x[0] is one. */
INLINE float vmost(const float *x, size_t n)
{
    float most = x[0];
    vf v = vsplat(most);
    size_t i = 0;
    for (; i + VEC <= n; i += VEC) {
        vf next = vget(x + i);
        v = vselect(next > v, next, v);
    }
    for (int l = 0; l < VEC; l++)
        most = v[l] > most ? v[l] : most;
    for (; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

/* C[MR][NR] (+)= A[MR][k] B[k][NR]; lda, ldc in floats, B packed. */
INLINE void micro(const float *a, size_t lda, const float *b, size_t k, float *c, size_t ldc,
                  bool accumulate)
{
    vf acc[MR][2];
#pragma GCC unroll 12
    for (int r = 0; r < MR; r++) {
        acc[r][0] = accumulate ? vget(c + (size_t)r * ldc) : vsplat(0);
        acc[r][1] = accumulate ? vget(c + (size_t)r * ldc + VEC) : vsplat(0);
    }
    for (size_t i = 0; i < k; i++) {
        vf b0 = vget(b + i * NR), b1 = vget(b + i * NR + VEC);
#pragma GCC unroll 12
        for (int r = 0; r < MR; r++) {
            float v = a[(size_t)r * lda + i];
            acc[r][0] += v * b0;
            acc[r][1] += v * b1;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < MR; r++) {
        vput(c + (size_t)r * ldc, acc[r][0]);
        vput(c + (size_t)r * ldc + VEC, acc[r][1]);
    }
}

#endif
