/* sigmoid.h - 1 / (1 + e^-u) for files compiled once per instruction set.
 *
 * A division of 16 numbers takes as long as everything else here. Where the instruction set has an
 * approximate reciprocal, this uses it and refines it by one Newton step. The relative error is
 * within 2e-7 + 1e-7 |u|; a NaN stays a NaN. */
#ifndef DAVID_CPU_SIGMOID_H
#define DAVID_CPU_SIGMOID_H

#include "engine/cpu/vec.h"

#ifdef __AVX512F__
#include <immintrin.h>

INLINE vf vsigmoid(vf u)
{
    /* Beyond these bounds the Newton step would see an infinity. min and max return the second
     * operand where one is a NaN. */
    __m512 v =
        _mm512_max_ps(_mm512_set1_ps(-87.0f), _mm512_min_ps(_mm512_set1_ps(87.0f), (__m512)u));
    __m512 t = _mm512_mul_ps(v, _mm512_set1_ps(-1.44269504088896341f));
    __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_fmsub_ps(v, _mm512_set1_ps(-1.44269504088896341f), n);
    /* 2^f on [-1/2, 1/2]: the exponential series in f ln 2. */
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(1.5403530e-4f), _mm512_set1_ps(1.3333558e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    __m512 d = _mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_scalef_ps(p, n));
    __m512 r = _mm512_rcp14_ps(d);
    return (vf)_mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.0f)));
}
#else
INLINE vf vsigmoid(vf u)
{
    return 1.0f / (1.0f + vexp(-u));
}
#endif

#endif
