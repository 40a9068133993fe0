/* Restored tiles and finished samples on the device: the fixed-point blend and what is computed
 * from it. Integers are those of engine/cpu/images.c, and since double is rounded step by step, so
 * are the images. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

enum { THREADS = 256 };

#define ACC_UNIT  (1.0 / (double)((int64_t)1 << (VALUE_BITS + 2 * BLEND_BITS)))
#define FOLD_UNIT (1.0 / (double)(1 << FOLD_BITS))

/* ---- check for NaN and infinity ---- */

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

/* Scaling by 2^30 is exact in float, so this equals the host's llrint of a double. */
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

__global__ void __launch_bounds__(THREADS) blend(struct blend_args a, uint32_t values)
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
    else /* a gray image: the mean of the channels, in integers */
        add_to(to, weight * ((fixed(get(v + 3 * x)) + fixed(get(v + 3 * x + 1)) +
                              fixed(get(v + 3 * x + 2))) /
                             3));
}

/* ---- statistics over samples ---- */

__global__ void __launch_bounds__(THREADS)
    accumulate(int64_t *acc, int64_t *sum, int64_t *sum2, size_t count)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const int drop = VALUE_BITS + 2 * BLEND_BITS - FOLD_BITS;
    const int64_t v = (get(acc + i) + ((int64_t)1 << (drop - 1))) >> drop;
    if (sum) put(sum + i, get(sum + i) + v);
    if (sum2) put(sum2 + i, get(sum2 + i) + v * v);
    put(acc + i, (int64_t)0);
}

DEVICE double mean_at(const struct finished &f, size_t i)
{
    if (!f.sum) return __dmul_rn((double)get(f.acc + i), ACC_UNIT);
    return __ddiv_rn(__dmul_rn((double)get(f.sum + i), FOLD_UNIT), (double)f.samples);
}

__global__ void __launch_bounds__(THREADS) mean(struct finished f, float *x)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < f.count) put(x + i, (float)mean_at(f, i));
}

/* T: uint8_t or uint16_t */
template <typename T>
__global__ void __launch_bounds__(THREADS) round_levels(struct finished f, T *pixels)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= f.count) return;
    const double half = sizeof(T) == 2 ? 32767.5 : 127.5;
    double level = __dmul_rn(__dadd_rn(mean_at(f, i), 1.0), half);
    level = level < 0 ? 0 : level > 2 * half ? 2 * half : level;
    put(pixels + i, (T)__double2int_rn(level));
}

/* A non-negative 128-bit integer to the nearest double, as the host's compiler converts it. The
 * bits shifted out only break ties. */
DEVICE double nearest(unsigned long long high, unsigned long long low)
{
    if (high == 0) return (double)low;
    const int up = __clzll((long long)high); /* below 64: high is not 0 */
    const unsigned long long top = up ? high << up | low >> (64 - up) : high;
    const unsigned long long rest = low << up;
    return __dmul_rn((double)(top | (rest != 0)), __longlong_as_double((1023LL + 64 - up) << 52));
}

/* The difference of the two large terms is taken in integers, where nothing cancels. */
DEVICE double std_at(const struct finished &f, size_t i)
{
    const double n = f.samples;
    const int64_t sum = get(f.sum + i);
    const unsigned long long size = (unsigned long long)(sum < 0 ? -sum : sum),
                             squares = (unsigned long long)get(f.sum2 + i);
    const unsigned long long a = squares * f.samples, b = size * size;
    const unsigned long long high =
        __umul64hi(squares, f.samples) - __umul64hi(size, size) - (a < b);
    return __dmul_rn(__dsqrt_rn(__ddiv_rn(nearest(high, a - b), __dmul_rn(n, __dadd_rn(n, -1.0)))),
                     FOLD_UNIT);
}

__global__ void no_deviation(double *largest)
{
    put(largest, 0.0);
}

/* Non-negative doubles are ordered like their bits. */
__global__ void __launch_bounds__(THREADS) largest_deviation(struct finished f, double *largest)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    double v = i < f.count ? std_at(f, i) : 0;
    for (int by = WARP_LANES / 2; by > 0; by /= 2)
        v = fmax(v, __shfl_xor_sync(0xffffffffu, v, by));
    if (threadIdx.x % WARP_LANES == 0 && v > 0)
        atomicMax(reinterpret_cast<unsigned long long *>(largest),
                  (unsigned long long)__double_as_longlong(v));
}

__global__ void __launch_bounds__(THREADS)
    deviation_levels(struct finished f, const double *largest, uint8_t *pixels)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= f.count) return;
    const double white = get(largest) > 0 ? get(largest) : 1;
    const double level = __ddiv_rn(__dmul_rn(255.0, std_at(f, i)), white);
    put(pixels + i, (uint8_t)__double2int_rn(level < 255 ? level : 255));
}

} // namespace

extern "C" int gpu_find_bad(const float *x, uint32_t n, size_t count, uint32_t *bad, void *stream)
{
    int e = launch(clear_flags, dim3(blocks_of(n, THREADS)), THREADS, 0, stream, bad, n);
    if (e) return e;
    return launch(find_bad, dim3(blocks_of(count, THREADS), n), THREADS, 0, stream, x, count, bad);
}

extern "C" int gpu_blend(const struct blend_args *a, void *stream)
{
    return launch(blend, dim3(blocks_of((uint64_t)a->w * a->out_c, THREADS), a->h), THREADS, 0,
                  stream, *a, a->w * a->out_c);
}

extern "C" int gpu_accumulate(int64_t *acc, int64_t *sum, int64_t *sum2, size_t count, void *stream)
{
    return launch(accumulate, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, acc, sum, sum2,
                  count);
}

extern "C" int gpu_mean(const struct finished *f, float *x, void *stream)
{
    return launch(mean, dim3(blocks_of(f->count, THREADS)), THREADS, 0, stream, *f, x);
}

extern "C" int gpu_round(const struct finished *f, uint32_t depth, void *pixels, void *stream)
{
    const dim3 blocks(blocks_of(f->count, THREADS));
    if (depth == 16)
        return launch(round_levels<uint16_t>, blocks, THREADS, 0, stream, *f,
                      static_cast<uint16_t *>(pixels));
    return launch(round_levels<uint8_t>, blocks, THREADS, 0, stream, *f,
                  static_cast<uint8_t *>(pixels));
}

extern "C" int gpu_largest_deviation(const struct finished *f, double *largest, void *stream)
{
    int e = launch(no_deviation, dim3(1), 1, 0, stream, largest);
    if (e) return e;
    return launch(largest_deviation, dim3(blocks_of(f->count, THREADS)), THREADS, 0, stream, *f,
                  largest);
}

extern "C" int gpu_deviation(const struct finished *f, const double *largest, uint8_t *pixels,
                             void *stream)
{
    return launch(deviation_levels, dim3(blocks_of(f->count, THREADS)), THREADS, 0, stream, *f,
                  largest, pixels);
}
