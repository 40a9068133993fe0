/* resample.cuh - a pixel of the smaller feature map and its four of the larger one: one arithmetic
 * for all kernels that resample. */
#ifndef DAVID_CUDA_RESAMPLE_CUH
#define DAVID_CUDA_RESAMPLE_CUH

#include "engine/cuda/kernels/memory.cuh"

/* In a feature map of width 2 w: the first of the four pixels of pixel p; the others are at offsets
 * 1, 2 w and 2 w + 1. */
DEVICE uint32_t first_of_four(uint32_t p, uint32_t w)
{
    return p / w * 4 * w + p % w * 2;
}

template <typename T, int N>
DEVICE void store_four(T *y, uint32_t p, uint32_t w, size_t ld, const float (&v)[N])
{
    T *to = y + first_of_four(p, w) * ld;
    store(to, v);
    store(to + ld, v);
    store(to + 2 * w * ld, v);
    store(to + (2 * w + 1) * ld, v);
}

/* `to` may be a. The compiler cannot fuse these sums with earlier operations. */
template <int N>
DEVICE void mean_of_four(float (&to)[N], const float (&a)[N], const float (&b)[N],
                         const float (&c)[N], const float (&d)[N])
{
#pragma unroll
    for (int e = 0; e < N; e++)
        to[e] = 0.25f * __fadd_rn(__fadd_rn(a[e], b[e]), __fadd_rn(c[e], d[e]));
}

#endif
