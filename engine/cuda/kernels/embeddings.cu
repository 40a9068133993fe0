/* Embeddings: small vectors, F32. Their cost is the launch, so the kernels are kept simple. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

enum { THREADS = 256, WARPS = THREADS / WARP_LANES };

/* The angle is rounded to float before the cosine, as on the CPU: at t = 999 the difference is
 * visible. The product must not be fused with another operation. */
__global__ void __launch_bounds__(THREADS) timestep(const float *t, uint32_t c, float *y)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, half = c / 2;
    if (i >= half) return;
    const float frequency = (float)exp(-log(1e4) * i / half);
    const double angle = __fmul_rn(get(t + blockIdx.y), frequency);
    float *to = y + (size_t)blockIdx.y * c + i;
    put(to, (float)cos(angle));
    put(to + half, (float)sin(angle));
}

__global__ void __launch_bounds__(THREADS)
    label(const float *table, const uint32_t *labels, uint32_t c, float *y)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= c) return;
    put(y + (size_t)blockIdx.y * c + i, get(table + (size_t)get(labels + blockIdx.y) * c + i));
}

/* One warp per output. Each lane sums every 32nd vector; the lanes' sums are added at the end,
 * always in the same order. */
template <int N>
__global__ void __launch_bounds__(THREADS)
    linear(const float *weight, const float *bias, const float *x, float *y, uint32_t ic,
           uint32_t oc)
{
    const uint32_t lane = threadIdx.x % WARP_LANES,
                   o = blockIdx.x * WARPS + threadIdx.x / WARP_LANES;
    if (o >= oc) return;
    const float *row = weight + (size_t)o * ic, *from = x + (size_t)blockIdx.y * ic;
    float sum = 0;
    for (uint32_t i = lane * N; i < ic; i += WARP_LANES * N) {
        float w[N], v[N];
        load(w, row + i);
        load(v, from + i);
#pragma unroll
        for (int e = 0; e < N; e++)
            sum = fmaf(w[e], v[e], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) put(y + (size_t)blockIdx.y * oc + o, sum + get(bias + o));
}

__global__ void __launch_bounds__(THREADS) silu(const float *x, float *y, size_t count)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const float v = get(x + i);
    put(y + i, v / (1.0f + expf(-v)));
}

__global__ void __launch_bounds__(THREADS)
    add(const float *x, const float *e, float *y, size_t count)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) put(y + i, get(x + i) + get(e + i));
}

} // namespace

extern "C" int gpu_timestep(const float *t, uint32_t n, uint32_t c, float *y, void *stream)
{
    return launch(timestep, dim3(blocks_of(c / 2, THREADS), n), THREADS, 0, stream, t, c, y);
}

extern "C" int gpu_label(const float *table, const uint32_t *labels, uint32_t n, uint32_t c,
                         float *y, void *stream)
{
    return launch(label, dim3(blocks_of(c, THREADS), n), THREADS, 0, stream, table, labels, c, y);
}

extern "C" int gpu_linear(const float *weight, const float *bias, const float *x, float *y,
                          uint32_t n, uint32_t ic, uint32_t oc, void *stream)
{
    const bool vector = ic % 4 == 0 && ((uintptr_t)weight | (uintptr_t)x) % VECTOR_BYTES == 0;
    return launch(vector ? linear<4> : linear<1>, dim3(blocks_of(oc, WARPS), n), THREADS, 0, stream,
                  weight, bias, x, y, ic, oc);
}

extern "C" int gpu_silu(const float *x, float *y, size_t count, void *stream)
{
    return launch(silu, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, x, y, count);
}

extern "C" int gpu_add(const float *x, const float *e, float *y, size_t count, void *stream)
{
    return launch(add, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, x, e, y, count);
}
