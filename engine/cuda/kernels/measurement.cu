/* A measurement on the device: tiles of the network's input are extracted from it, and A x of a
 * restored image is compared with it. Arithmetic and bytes are those of engine/cpu/images.c: every
 * product and sum is rounded by itself, so nothing here may be fused; the intrinsics forbid it
 * whatever the compiler's options are. */
#include "engine/cuda/kernels/memory.cuh"
#include "engine/graph/philox.h"

namespace
{

enum { THREADS = 256, RESIDUAL_PIXELS = 4096 /* pixels per block */ };

/* ---- the measurement at a pixel ---- */

/* Number i of the given image, in [-1, 1]. */
DEVICE float level_at(const struct observed &m, size_t i)
{
    if (m.depth == 32) return get(static_cast<const float *>(m.pixels) + i);
    const double level = m.depth == 16 ? (double)get(static_cast<const uint16_t *>(m.pixels) + i)
                                       : (double)get(static_cast<const uint8_t *>(m.pixels) + i);
    return (float)__dadd_rn(__ddiv_rn(level, m.depth == 16 ? 32767.5 : 127.5), -1.0);
}

DEVICE void observed_at(const struct observed &m, uint32_t x, uint32_t y, float (&v)[3])
{
    const size_t at = ((size_t)y * m.w + x) * m.channels;
    v[0] = level_at(m, at);
    v[1] = v[2] = 0;
    if (m.channels < 3) return;
    v[1] = level_at(m, at + 1);
    v[2] = level_at(m, at + 2);
    if (m.y_channels == 1) /* colorize, given as RGB */
        v[0] = __fadd_rn(__fadd_rn(__fmul_rn(0.3333f, v[0]), __fmul_rn(0.3334f, v[1])),
                         __fmul_rn(0.3333f, v[2]));
}

/* ---- extracting ---- */

/* The pixel inside [0, n) that is at `at` when a line of n pixels is continued by reflection. */
DEVICE uint32_t reflected(uint32_t at, uint32_t n)
{
    if (at < n) return at;
    if (n == 1) return 0;
    const uint32_t period = 2 * (n - 1), r = at % period;
    return r < n ? r : period - r;
}

/* The pixel of the image, n px long, at position `at` of the image with its margin. */
DEVICE uint32_t mirrored(uint32_t at, uint32_t margin, uint32_t n)
{
    return reflected(at < margin ? margin - at : at - margin, n);
}

/* Bilinear: pixel `at` reads `low` and `high` with weight w on the second; parts of 2 scale are
 * exact in integers. */
struct between {
    uint32_t low, high;
    float w;
};
DEVICE between between_of(uint32_t scale, uint32_t at, uint32_t n)
{
    const uint32_t parts = 2 * at + 1 < scale ? 0 : 2 * at + 1 - scale, low = parts / (2 * scale);
    return { min(low, n - 1), min(low + 1, n - 1),
             (float)(parts % (2 * scale)) / (float)(2 * scale) };
}

DEVICE float mixed(float a, float b, float w)
{
    return __fadd_rn(__fmul_rn(__fadd_rn(1.0f, -w), a), __fmul_rn(w, b));
}

DEVICE void resized_at(const struct observed &m, uint32_t x, uint32_t y, float (&v)[3])
{
    const between bx = between_of(m.scale, x, m.w), by = between_of(m.scale, y, m.h);
    float a[3], b[3], c[3], d[3];
    observed_at(m, bx.low, by.low, a);
    observed_at(m, bx.high, by.low, b);
    observed_at(m, bx.low, by.high, c);
    observed_at(m, bx.high, by.high, d);
#pragma unroll
    for (int k = 0; k < 3; k++)
        v[k] = mixed(mixed(a[k], b[k], bx.w), mixed(c[k], d[k], bx.w), by.w);
}

/* The normals are computed in double, as on the host. Their last float digit may differ from the
 * host's where the two mathematics libraries round differently. */
DEVICE void noise_at(const struct observed &m, uint32_t x, uint32_t y, float (&v)[3])
{
    for (uint32_t c = 0; c < m.y_channels; c++) {
        float n[4];
        philox_normals4(n, m.seed, NOISE_HOLE, 0, c, x / 4, y);
        v[c] =
            __fmul_rn(m.sigma, x % 4 < 2 ? (x % 4 == 0 ? n[0] : n[1]) : (x % 4 == 2 ? n[2] : n[3]));
    }
}

__global__ void __launch_bounds__(THREADS) extract(struct extract_args a)
{
    const uint32_t tx = blockIdx.x * THREADS + threadIdx.x, ty = blockIdx.y;
    if (tx >= a.tile) return;
    const uint32_t x = mirrored(a.x0 + tx, a.margin, a.out_w),
                   y = mirrored(a.y0 + ty, a.margin, a.out_h);
    float v[3] = {};
    if (a.m.scale > 1)
        resized_at(a.m, x, y, v);
    else if (a.m.observed_mask && a.m.depth != 32 &&
             !get(a.m.observed_mask + (size_t)y * a.m.w + x))
        noise_at(a.m, x, y, v); /* a simulated measurement has its own noise in the hole */
    else
        observed_at(a.m, x, y, v);
    float *to = a.y_in + ((size_t)ty * a.tile + tx) * 3;
    put(to, v[0]);
    put(to + 1, a.m.y_channels == 3 ? v[1] : v[0]);
    put(to + 2, a.m.y_channels == 3 ? v[2] : v[0]);
}

/* ---- residual ---- */

struct total {
    double sum, count;
};

DEVICE total warp_total(total t)
{
    for (int by = WARP_LANES / 2; by > 0; by /= 2) {
        t.sum = __dadd_rn(t.sum, __shfl_xor_sync(0xffffffffu, t.sum, by));
        t.count = __dadd_rn(t.count, __shfl_xor_sync(0xffffffffu, t.count, by));
    }
    return t;
}

struct totals_box {
    total warps[THREADS / WARP_LANES];
};

/* The sum over all threads, in a fixed order; the result is in thread 0. */
DEVICE total block_total(total t, totals_box &box)
{
    t = warp_total(t);
    if (threadIdx.x % WARP_LANES == 0) box.warps[threadIdx.x / WARP_LANES] = t;
    __syncthreads();
    for (int w = 1; threadIdx.x == 0 && w < THREADS / WARP_LANES; w++) {
        t.sum = __dadd_rn(t.sum, box.warps[w].sum);
        t.count += box.warps[w].count;
    }
    return t;
}

__global__ void __launch_bounds__(THREADS)
    residual_partial(const float *ax, struct observed m, double *partial)
{
    SHARED(totals_box, box);
    const size_t pixels = (size_t)m.w * m.h, from = (size_t)blockIdx.x * RESIDUAL_PIXELS;
    const size_t to = from + RESIDUAL_PIXELS < pixels ? from + RESIDUAL_PIXELS : pixels;
    total t = { 0, 0 };
    for (size_t p = from + threadIdx.x; p < to; p += THREADS) {
        if (m.observed_mask && !get(m.observed_mask + p)) continue;
        float y[3];
        observed_at(m, (uint32_t)(p % m.w), (uint32_t)(p / m.w), y);
        for (uint32_t c = 0; c < m.y_channels; c++) {
            const double d = (double)get(ax + p * m.y_channels + c) - (double)(c == 0   ? y[0]
                                                                               : c == 1 ? y[1]
                                                                                        : y[2]);
            t.sum = __dadd_rn(t.sum, __dmul_rn(d, d));
            t.count += 1;
        }
    }
    t = block_total(t, box);
    if (threadIdx.x > 0) return;
    put(partial + 2 * blockIdx.x, t.sum);
    put(partial + 2 * blockIdx.x + 1, t.count);
}

__global__ void __launch_bounds__(THREADS)
    residual_total(const double *partial, uint32_t blocks, double *out)
{
    SHARED(totals_box, box);
    total t = { 0, 0 };
    for (uint32_t i = threadIdx.x; i < blocks; i += THREADS) {
        t.sum = __dadd_rn(t.sum, get(partial + 2 * i));
        t.count += get(partial + 2 * i + 1);
    }
    t = block_total(t, box);
    if (threadIdx.x > 0) return;
    put(out, __dadd_rn(get(out), t.sum));
    put(out + 1, get(out + 1) + t.count);
}

} // namespace

extern "C" int gpu_extract(const struct extract_args *a, void *stream)
{
    return launch(extract, dim3(blocks_of(a->tile, THREADS), a->tile), THREADS, 0, stream, *a);
}

extern "C" size_t gpu_residual_scratch(size_t px)
{
    return (size_t)2 * blocks_of(px, RESIDUAL_PIXELS);
}

extern "C" int gpu_residual(const struct residual_args *a, void *stream)
{
    const uint32_t blocks = blocks_of((uint64_t)a->m.w * a->m.h, RESIDUAL_PIXELS);
    int e = launch(residual_partial, dim3(blocks), THREADS, 0, stream, a->ax, a->m, a->scratch);
    if (e) return e;
    return launch(residual_total, dim3(1), THREADS, 0, stream, a->scratch, blocks, a->out);
}
