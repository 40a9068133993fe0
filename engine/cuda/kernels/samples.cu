/* Restored tiles and finished samples on the device: the fixed-point blend and what is made of it (engine/davi/restoration.c and
 * restoration_output.c). The same integers and, since double is rounded step by step, the same pictures as on the host. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

enum {
    THREADS = 256,
    VALUE_BITS =
        30, /* engine/davi/restoration.h, tiles.h; test_kernels_samples.c holds them together */
    BLEND_BITS = 12,
    FOLD_BITS = 23
};

#define ACC_UNIT  (1.0 / (double)((int64_t)1 << (VALUE_BITS + 2 * BLEND_BITS)))
#define FOLD_UNIT (1.0 / (double)(1 << FOLD_BITS))

/* ---- finite? ---- */

__global__ void clear_flags(uint32_t *bad, uint32_t n)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i < n) put(bad + i, 0u);
}

__global__ void __launch_bounds__(THREADS) find_bad(const float *x, size_t count, uint32_t *bad)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const unsigned bits = i < count ? __float_as_uint(get(x + blockIdx.y * count + i)) : 0;
    const int is_bad = (bits & 0x7f800000u) == 0x7f800000u;
    if (__any_sync(0xffffffffu, is_bad) && threadIdx.x % WARP_LANES == 0)
        atomicOr(bad + blockIdx.y, 1u);
}

/* ---- blend ---- */

/* Scaling by 2^30 is exact in float, so this is the host's llrint of a double. */
DEVICE long long fixed(float v)
{
    const float in = v < -1 ? -1 : v > 1 ? 1 : v;
    return __float2ll_rn(in * (float)(1 << VALUE_BITS));
}

DEVICE void add_to(int64_t *acc, long long value)
{
    DEVICE_TOUCH(acc, 8, true);
    atomicAdd(reinterpret_cast<unsigned long long *>(acc), (unsigned long long)value);
}

__global__ void __launch_bounds__(THREADS) blend(struct gpu_blend a, uint32_t values)
{
    if (a.bad && get(a.bad)) return;
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, y = blockIdx.y;
    if (i >= values) return;
    const uint32_t x = i / a.out_c;
    const long long weight = (long long)get(a.wy + y) * get(a.wx + x);
    const float *v = a.x0 + (size_t)y * a.tile * 3;
    int64_t *to = a.acc + ((size_t)(a.at_y + y) * a.out_w + a.at_x) * a.out_c + i;
    if (a.out_c == 3)
        add_to(to, weight * fixed(get(v + i)));
    else /* a gray picture: the mean of the channels, in integers */
        add_to(to, weight * ((fixed(get(v + 3 * x)) + fixed(get(v + 3 * x + 1)) +
                              fixed(get(v + 3 * x + 2))) /
                             3));
}

/* ---- over samples ---- */

__global__ void __launch_bounds__(THREADS)
    fold(int64_t *acc, int64_t *sum, int64_t *sum2, size_t count, bool clear)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const int drop = VALUE_BITS + 2 * BLEND_BITS - FOLD_BITS;
    const int64_t v = (get(acc + i) + ((int64_t)1 << (drop - 1))) >> drop;
    if (sum) put(sum + i, get(sum + i) + v);
    if (sum2) put(sum2 + i, get(sum2 + i) + v * v);
    if (clear) put(acc + i, (int64_t)0);
}

DEVICE double mean_at(const int64_t *acc, const int64_t *sum, uint32_t samples, size_t i)
{
    if (!sum) return __dmul_rn((double)get(acc + i), ACC_UNIT);
    return __ddiv_rn(__dmul_rn((double)get(sum + i), FOLD_UNIT), (double)samples);
}

__global__ void __launch_bounds__(THREADS)
    mean(const int64_t *acc, const int64_t *sum, uint32_t samples, size_t count, float *x)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) put(x + i, (float)mean_at(acc, sum, samples, i));
}

__global__ void __launch_bounds__(THREADS) round_levels(struct gpu_round a)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.px * a.c) return;
    const double half = a.depth == 16 ? 32767.5 : 127.5;
    double level = __dmul_rn(__dadd_rn(mean_at(a.acc, a.sum, a.samples, i), 1.0), half);
    level = level < 0 ? 0 : level > 2 * half ? 2 * half : level;
    const size_t to = i / a.c * a.pixel_ld + i % a.c;
    const int rounded = __double2int_rn(level);
    if (a.depth == 16)
        put(static_cast<uint16_t *>(a.pixels) + to, (uint16_t)rounded);
    else
        put(static_cast<uint8_t *>(a.pixels) + to, (uint8_t)rounded);
}

/* 128 bits, not negative, to the nearest double: as the host's compiler converts. What is shifted out only breaks ties. */
DEVICE double nearest(unsigned long long high, unsigned long long low)
{
    if (high == 0) return (double)low;
    const int up = __clzll((long long)high); /* below 64: high is not 0 */
    const unsigned long long top = up ? high << up | low >> (64 - up) : high;
    const unsigned long long rest = low << up;
    return __dmul_rn((double)(top | (rest != 0)), __longlong_as_double((1023LL + 64 - up) << 52));
}

/* The difference of the two large terms is taken in integers, where nothing cancels. */
DEVICE double std_at(int64_t sum, int64_t sum2, uint32_t samples)
{
    const double n = samples;
    const unsigned long long size = (unsigned long long)(sum < 0 ? -sum : sum),
                             squares = (unsigned long long)sum2;
    const unsigned long long a = squares * samples, b = size * size;
    const unsigned long long high = __umul64hi(squares, samples) - __umul64hi(size, size) - (a < b);
    return __dmul_rn(__dsqrt_rn(__ddiv_rn(nearest(high, a - b), __dmul_rn(n, __dadd_rn(n, -1.0)))),
                     FOLD_UNIT);
}

__global__ void no_deviation(double *largest)
{
    put(largest, 0.0);
}

/* Doubles that are not negative are ordered as their bits are. */
__global__ void __launch_bounds__(THREADS)
    deviation(const int64_t *sum, const int64_t *sum2, uint32_t samples, size_t count, double *std,
              double *largest)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    double v = i < count ? std_at(get(sum + i), get(sum2 + i), samples) : 0;
    if (std && i < count) put(std + i, v);
    for (int by = WARP_LANES / 2; by > 0; by /= 2)
        v = fmax(v, __shfl_xor_sync(0xffffffffu, v, by));
    if (threadIdx.x % WARP_LANES == 0 && v > 0)
        atomicMax(reinterpret_cast<unsigned long long *>(largest),
                  (unsigned long long)__double_as_longlong(v));
}

} // namespace

extern "C" int gpu_find_bad(const float *x, uint32_t n, size_t count, uint32_t *bad, void *stream)
{
    int e = launch(clear_flags, dim3(blocks_of(n, THREADS)), THREADS, 0, stream, bad, n);
    if (e) return e;
    return launch(find_bad, dim3(blocks_of(count, THREADS), n), THREADS, 0, stream, x, count, bad);
}

extern "C" int gpu_blend(const struct gpu_blend *a, void *stream)
{
    const uint32_t w = a->out_w < a->tile ? a->out_w : a->tile,
                   h = a->out_h < a->tile ? a->out_h : a->tile;
    return launch(blend, dim3(blocks_of((uint64_t)w * a->out_c, THREADS), h), THREADS, 0, stream,
                  *a, w * a->out_c);
}

extern "C" int gpu_fold(int64_t *acc, int64_t *sum, int64_t *sum2, size_t count, bool clear,
                        void *stream)
{
    return launch(fold, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, acc, sum, sum2, count,
                  clear);
}

extern "C" int gpu_mean(const int64_t *acc, const int64_t *sum, uint32_t samples, size_t count,
                        float *x, void *stream)
{
    return launch(mean, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, acc, sum, samples,
                  count, x);
}

extern "C" int gpu_round(const struct gpu_round *a, void *stream)
{
    return launch(round_levels, dim3(blocks_of(a->px * a->c, THREADS)), THREADS, 0, stream, *a);
}

extern "C" int gpu_std(const int64_t *sum, const int64_t *sum2, uint32_t samples, size_t count,
                       double *std, double *largest, void *stream)
{
    int e = launch(no_deviation, dim3(1), 1, 0, stream, largest);
    if (e) return e;
    return launch(deviation, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, sum, sum2,
                  samples, count, std, largest);
}
