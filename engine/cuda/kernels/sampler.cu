/* The sampler's own steps: noise at the input, tanh or a clamp at the output. F32. A row's
 * parameters are in device memory, so that one recorded launch serves all rows. */
#include "engine/cuda/kernels/memory.cuh"
#include "engine/graph/philox.h"

namespace
{

enum { THREADS = 256 };

/* Four normals of one channel from four words, as in engine/README.md section 3. u has 24
 * significant bits, so float holds it exactly. */
DEVICE void normals_of(float (&n)[4], const uint32_t (&words)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        float u0 = ((float)(words[i] >> 9) + 0.5f) * 0x1p-23f,
              u1 = ((float)(words[i + 1] >> 9) + 0.5f) * 0x1p-23f;
        float radius = __fsqrt_rn(-2.0f * logf(u0)), sine, cosine;
        sincospif(2.0f * u1, &sine, &cosine);
        n[i] = radius * cosine;
        n[i + 1] = radius * sine;
    }
}

/* A thread has four adjacent pixels of one channel, which share a counter. */
__global__ void __launch_bounds__(THREADS) normals(struct gpu_normals a)
{
    const struct gpu_row row = a.rows ? a.rows[blockIdx.z] : a.row;
    const uint32_t first = row.x0 / 4, fours = (row.x0 % 4 + a.w + 3) / 4;
    const uint32_t i = blockIdx.y * THREADS + threadIdx.x, y = blockIdx.x;
    const uint32_t channel = i % a.channels, four = i / a.channels;
    if (four >= fours) return;
    uint32_t words[4];
    philox_words4(words, row.seed, row.stream, row.sample, channel, first + four, row.y0 + y);
    float n[4];
    normals_of(n, words);
    float *to = a.dst + ((size_t)blockIdx.z * a.h + y) * a.w * a.channels + channel;
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t x = 4 * four + k - row.x0 % 4; /* wraps before the first pixel */
        if (x < a.w) put(to + (size_t)x * a.channels, n[k]);
    }
}

template <int N>
__global__ void __launch_bounds__(THREADS)
    sampler_in(const float *y_in, const float *z, const struct gpu_row *rows, float hz, float *x,
               size_t count)
{
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N, at = blockIdx.y * count + i;
    if (i >= count) return;
    if (rows) hz = get(&rows[blockIdx.y].hz);
    float y[N], noise[N];
    load(y, y_in + at);
    load(noise, z + at);
#pragma unroll
    for (int e = 0; e < N; e++)
        y[e] = fmaf(hz, noise[e], y[e]);
    store(x + at, y);
}

/* count: numbers in a row of x. */
__global__ void __launch_bounds__(THREADS)
    sampler_join(const float *y_in, const float *z, const struct gpu_row *rows, float hz, float *x,
                 size_t count)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x,
                 from = blockIdx.y * (count / 2) + i / 6 * 3 + i % 3;
    if (i >= count) return;
    if (rows) hz = get(&rows[blockIdx.y].hz);
    put(x + blockIdx.y * count + i, i % 6 < 3 ? get(y_in + from) : hz * get(z + from));
}

/* fminf and fmaxf would turn a NaN into a number; the caller checks for NaN. */
DEVICE float clamped(float v)
{
    return v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    sampler_out(const float *x, size_t x_ld, const T *eps, size_t eps_ld, float std, bool linear,
                float *x0, size_t x0_ld, size_t count)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, pixel = i / 3, channel = i % 3;
    if (i >= count) return;
    const float noise = as_float(get(eps + pixel * eps_ld + channel)),
                v = fmaf(-std, noise, get(x + pixel * x_ld + channel));
    put(x0 + pixel * x0_ld + channel, linear ? clamped(v) : tanhf(v));
}

} // namespace

extern "C" int gpu_normals(const struct gpu_normals *a, void *stream)
{
    /* Where x0 is not known here, one more group of four than the width needs may be touched. */
    const uint64_t threads = ((uint64_t)a->w + 6) / 4 * a->channels;
    return launch(normals, dim3(a->h, blocks_of(threads, THREADS), a->rows ? a->n : 1), THREADS, 0,
                  stream, *a);
}

extern "C" int gpu_sampler_in(const float *y_in, const float *z, const struct gpu_row *rows,
                              float hz, float *x, uint32_t n, size_t count, void *stream)
{
    const bool vector =
        count % 4 == 0 && ((uintptr_t)y_in | (uintptr_t)z | (uintptr_t)x) % VECTOR_BYTES == 0;
    return launch(vector ? sampler_in<4> : sampler_in<1>,
                  dim3(blocks_of(count, vector ? 4 * THREADS : THREADS), n), THREADS, 0, stream,
                  y_in, z, rows, hz, x, count);
}

extern "C" int gpu_sampler_join(const float *y_in, const float *z, const struct gpu_row *rows,
                                float hz, float *x, uint32_t n, size_t pixels, void *stream)
{
    const size_t count = 6 * pixels;
    return launch(sampler_join, dim3(blocks_of(count, THREADS), n), THREADS, 0, stream, y_in, z,
                  rows, hz, x, count);
}

extern "C" int gpu_sampler_out(const struct tensor *x, const struct tensor *eps, float std,
                               bool linear, const struct tensor *x0, void *stream)
{
    const size_t count = (size_t)3 * x->n * x->h * x->w;
    return with_type(eps->dtype, [&](auto type) {
        typedef typename decltype(type)::type T;
        return launch(sampler_out<T>, dim3(blocks_of(count, THREADS)), THREADS, 0, stream,
                      static_cast<const float *>(x->data), x->ld, static_cast<const T *>(eps->data),
                      eps->ld, std, linear, static_cast<float *>(x0->data), x0->ld, count);
    });
}
