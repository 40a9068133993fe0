/* outer.h - sums of outer products, for files compiled once per instruction set.
 *
 * The other micro kernel (vec.h) reads A by rows; this one reads A by columns, as sums over pixels
 * need it. */
#ifndef DAVID_CPU_OUTER_H
#define DAVID_CPU_OUTER_H

#include "engine/cpu/vec.h"

/* C[MR][NR] += sum over i < k of a[i * lda + r] b[i * ldb + c] */
INLINE void outer(const float *a, size_t lda, const float *b, size_t ldb, size_t k, float *c,
                  size_t ldc)
{
    vf acc[MR][2];
#pragma GCC unroll 12
    for (int r = 0; r < MR; r++) {
        acc[r][0] = vget(c + (size_t)r * ldc);
        acc[r][1] = vget(c + (size_t)r * ldc + VEC);
    }
    for (size_t i = 0; i < k; i++, a += lda, b += ldb) {
        vf b0 = vget(b), b1 = vget(b + VEC);
#pragma GCC unroll 12
        for (int r = 0; r < MR; r++) {
            acc[r][0] += a[r] * b0;
            acc[r][1] += a[r] * b1;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < MR; r++) {
        vput(c + (size_t)r * ldc, acc[r][0]);
        vput(c + (size_t)r * ldc + VEC, acc[r][1]);
    }
}

#endif
