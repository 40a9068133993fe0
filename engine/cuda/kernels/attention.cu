/* Attention for the shapes that cuDNN's fused kernels do not support: F32, unusual head sizes, few
 * pixels. An online softmax, so that nothing of the size of pixels squared is stored.
 *
 * A block has some queries of one head; keys and values are loaded into shared memory, 32 at a
 * time, in ascending order. In the products with the keys a lane is a key; in those with the values
 * it is a channel (every 32nd). One order of sums for all batch sizes. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

enum { THREADS = 128, WARPS = THREADS / WARP_LANES, WARP_QUERIES = 4, KEYS = WARP_LANES };

struct attention_args {
    uint32_t pixels, heads, channels; /* of a head */
    bool new_order;
    size_t qkv_ld, y_ld;
    float scale;
};

/* Floats between rows in shared memory: an odd number of whole vectors, so that eight rows fall
 * into different banks. The padding beyond the channels is 0. */
static inline __host__ __device__ uint32_t stride_of(uint32_t channels)
{
    return 4 * ((channels + 3) / 4 | 1);
}

static size_t shared_floats(uint32_t channels)
{
    return (size_t)(WARPS * WARP_QUERIES + 2 * KEYS) * stride_of(channels);
}

DEVICE float dot4(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* STEPS: runs of 32 channels that a lane may have to keep. With eight, four blocks per SM would
 * leave too few registers for them. */
template <typename T, int STEPS>
__global__ void __launch_bounds__(THREADS, STEPS < 8 ? 4 : 3)
    attention(const T *qkv_all, T *y_all, attention_args a)
{
    DYNAMIC_SHARED(float, shared);
    const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES,
                   stride = stride_of(a.channels);
    const uint32_t head = blockIdx.y, row = blockIdx.z;
    const uint32_t first = blockIdx.x * WARPS * WARP_QUERIES, mine = first + warp * WARP_QUERIES;
    float *queries = shared, *keys = queries + WARPS * WARP_QUERIES * stride,
          *values = keys + KEYS * stride;
    const float4 *query = reinterpret_cast<const float4 *>(queries + warp * WARP_QUERIES * stride);
    const float4 *key = reinterpret_cast<const float4 *>(keys + lane * stride);
    const uint32_t part = a.new_order ? a.heads * a.channels : a.channels;
    const T *q = qkv_all + (size_t)row * a.pixels * a.qkv_ld +
                 (a.new_order ? head * a.channels : 3 * head * a.channels);

    for (uint32_t i = threadIdx.x; i < WARPS * WARP_QUERIES * stride; i += THREADS) {
        const uint32_t p = first + i / stride, c = i % stride;
        queries[i] =
            p < a.pixels && c < a.channels ? a.scale * as_float(get(q + p * a.qkv_ld + c)) : 0;
    }
    float most[WARP_QUERIES], total[WARP_QUERIES], sum[WARP_QUERIES][STEPS];
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        most[r] = -INFINITY;
        total[r] = 0;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            sum[r][s] = 0;
    }
    for (uint32_t k0 = 0; k0 < a.pixels; k0 += KEYS) {
        __syncthreads(); /* the previous keys have been used */
        for (uint32_t i = threadIdx.x; i < KEYS * stride; i += THREADS) {
            const uint32_t k = k0 + i / stride, c = i % stride;
            const T *from = q + (size_t)k * a.qkv_ld + c;
            const bool is_there = k < a.pixels && c < a.channels;
            keys[i] = is_there ? as_float(get(from + part)) : 0;
            values[i] = is_there ? as_float(get(from + 2 * part)) : 0;
        }
        __syncthreads();
        float score[WARP_QUERIES] = {};
        for (uint32_t c = 0; c < stride / 4; c++) {
            const float4 one = key[c];
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; r++)
                score[r] = dot4(query[r * (stride / 4) + c], one, score[r]);
        }
#pragma unroll
        for (int r = 0; r < WARP_QUERIES; r++) {
            if (k0 + lane >= a.pixels) score[r] = -INFINITY;
            const float now = fmaxf(most[r], warp_max(score[r])), shrink = expf(most[r] - now);
            score[r] = expf(score[r] - now);
            total[r] = fmaf(total[r], shrink, warp_sum(score[r]));
            most[r] = now;
#pragma unroll
            for (int s = 0; s < STEPS; s++)
                sum[r][s] *= shrink;
        }
#pragma unroll 4
        for (uint32_t k = 0; k < KEYS; k++) {
            float weight[WARP_QUERIES];
#pragma unroll
            for (int r = 0; r < WARP_QUERIES; r++)
                weight[r] = __shfl_sync(0xffffffffu, score[r], (int)k);
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                const uint32_t c = s * WARP_LANES + lane;
                const float value = c < stride ? values[k * stride + c] : 0;
#pragma unroll
                for (int r = 0; r < WARP_QUERIES; r++)
                    sum[r][s] = fmaf(weight[r], value, sum[r][s]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < WARP_QUERIES; r++) {
        if (mine + r >= a.pixels) continue;
        T *y = y_all + ((size_t)row * a.pixels + mine + r) * a.y_ld + head * a.channels;
        const float inverse = __frcp_rn(total[r]);
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const uint32_t c = s * WARP_LANES + lane;
            if (c < a.channels) put(y + c, rounded<T>(sum[r][s] * inverse));
        }
    }
}

template <typename T, int STEPS>
static int run(const struct gpu_attention *g, const attention_args &a, void *stream)
{
    const dim3 grid(blocks_of(a.pixels, WARPS * WARP_QUERIES), a.heads, g->qkv.n);
    return launch(attention<T, STEPS>, grid, THREADS, shared_floats(a.channels) * sizeof(float),
                  stream, static_cast<const T *>(g->qkv.data), static_cast<T *>(g->y.data), a);
}

} // namespace

extern "C" int gpu_attention(const struct gpu_attention *g, void *stream)
{
    attention_args a = {};
    a.pixels = g->qkv.h * g->qkv.w;
    a.heads = g->heads;
    a.channels = g->y.c / g->heads;
    a.new_order = g->new_order;
    a.qkv_ld = g->qkv.ld;
    a.y_ld = g->y.ld;
    a.scale = 1.0f / sqrtf((float)a.channels);
    if (a.channels > GPU_HEAD_CHANNELS_MAX) return cudaErrorInvalidValue;
    return with_type(g->y.dtype, [&](auto type) {
        typedef typename decltype(type)::type T;
        return a.channels <= 32    ? run<T, 1>(g, a, stream)
               : a.channels <= 64  ? run<T, 2>(g, a, stream)
               : a.channels <= 128 ? run<T, 4>(g, a, stream)
                                   : run<T, 8>(g, a, stream);
    });
}
