/* Convolutions for which tensor cores do not pay: three channels in, three out, and every shape
 * that no other code supports.
 *
 * F32 multiply-adds; each output is one sum in one order, for all batch sizes. narrow_in: a block
 * has a strip of the feature map in shared memory and a run of output channels; a thread computes 4
 * pixels of one vector of them, so that a weight is read once for 4 products. narrow_out: a block
 * has a tile of the output and goes over the channels one sector at a time; a thread computes 2 x 2
 * pixels, so that a weight is read once for 4 pixels and a value for up to 4 taps. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

struct conv_args {
    uint32_t h, w, ic, oc; /* of the input; the output is out_h x out_w */
    uint32_t out_h, out_w, kernel, stride;
    size_t x_ld, y_ld, r_ld;
    const float *weight, *bias; /* [kernel][kernel][ic][oc], [conditions][oc] */
    const uint32_t *condition;
};

DEVICE const float *bias_of(const conv_args &a, uint32_t row)
{
    return a.bias + (a.condition ? (size_t)get(a.condition + row) * a.oc : 0);
}

/* ---- narrow_in: 3 x 3, stride 1, at most 4 channels in, whole vectors out ---- */

enum {
    IN_THREADS = 256,
    IN_CHANNELS = 4,
    IN_COLUMNS = 16, /* vectors of output channels of a block */
    IN_PIXELS = 4,   /* adjacent pixels of a line, of a thread */
    IN_WIDTH = IN_THREADS / IN_COLUMNS * IN_PIXELS,
    IN_ROWS = 8, /* output lines of a block */
    TAPS = 9
};

struct image {
    const void *data;
    enum dtype dtype;
};

DEVICE float get_any(const image &x, size_t i)
{
    if (x.dtype == DT_F32) return get(static_cast<const float *>(x.data) + i);
    if (x.dtype == DT_BF16) return as_float(get(static_cast<const bf16 *>(x.data) + i));
    return as_float(get(static_cast<const f16 *>(x.data) + i));
}

template <int V> struct in_box {
    /* Adjacent columns are adjacent in memory: no two are in one bank. */
    float4 weight[TAPS * IN_CHANNELS][V / 4][IN_COLUMNS];
    float x[IN_ROWS + 2][IN_CHANNELS][IN_WIDTH + 2];
};

template <typename T>
__global__ void __launch_bounds__(IN_THREADS) narrow_in(image x, T *y_all, conv_args a)
{
    constexpr int V = vector_of<T>;
    SHARED(in_box<V>, box);
    const uint32_t column = threadIdx.x % IN_COLUMNS, px = threadIdx.x / IN_COLUMNS * IN_PIXELS;
    const uint32_t strips = (a.w + IN_WIDTH - 1) / IN_WIDTH;
    const uint32_t left = blockIdx.x % strips * IN_WIDTH, top = blockIdx.x / strips * IN_ROWS;
    const uint32_t first = blockIdx.y * IN_COLUMNS * V, channel = first + column * V,
                   row = blockIdx.z;

    for (uint32_t i = threadIdx.x; i < TAPS * a.ic * IN_COLUMNS * V; i += IN_THREADS) {
        const uint32_t k = i % (IN_COLUMNS * V), tap = i / (IN_COLUMNS * V);
        float *to = reinterpret_cast<float *>(&box.weight[tap][k % V / 4][k / V]) + k % 4;
        *to = first + k < a.oc ? get(a.weight + (size_t)tap * a.oc + first + k) : 0;
    }
    const size_t x_row = (size_t)row * a.h * a.w;
    for (uint32_t i = threadIdx.x; i < (IN_ROWS + 2) * (IN_WIDTH + 2) * a.ic; i += IN_THREADS) {
        const uint32_t c = i % a.ic, at = i / a.ic % (IN_WIDTH + 2),
                       line = i / a.ic / (IN_WIDTH + 2);
        /* before the edge: wraps to a very large value */
        const uint32_t xx = left + at - 1, yy = top + line - 1;
        box.x[line][c][at] =
            xx < a.w && yy < a.h ? get_any(x, (x_row + (size_t)yy * a.w + xx) * a.x_ld + c) : 0;
    }
    __syncthreads();
    if (channel >= a.oc) return;
    float bias[V];
    load(bias, bias_of(a, row) + channel);
    T *y = y_all + x_row * a.y_ld + channel;
    for (uint32_t line = 0; line < IN_ROWS && top + line < a.h; line++) {
        float sum[IN_PIXELS][V];
#pragma unroll
        for (int p = 0; p < IN_PIXELS; p++)
#pragma unroll
            for (int e = 0; e < V; e++)
                sum[p][e] = bias[e];
        for (uint32_t ky = 0; ky < 3; ky++)
            for (uint32_t c = 0; c < a.ic; c++) {
                float v[IN_PIXELS + 2];
#pragma unroll
                for (int p = 0; p < IN_PIXELS + 2; p++)
                    v[p] = box.x[line + ky][c][px + p];
#pragma unroll
                for (uint32_t kx = 0; kx < 3; kx++)
#pragma unroll
                    for (int q = 0; q < V / 4; q++) {
                        const float4 w = box.weight[(ky * 3 + kx) * a.ic + c][q][column];
#pragma unroll
                        for (int p = 0; p < IN_PIXELS; p++) {
                            sum[p][4 * q] = fmaf(v[p + kx], w.x, sum[p][4 * q]);
                            sum[p][4 * q + 1] = fmaf(v[p + kx], w.y, sum[p][4 * q + 1]);
                            sum[p][4 * q + 2] = fmaf(v[p + kx], w.z, sum[p][4 * q + 2]);
                            sum[p][4 * q + 3] = fmaf(v[p + kx], w.w, sum[p][4 * q + 3]);
                        }
                    }
            }
#pragma unroll
        for (int p = 0; p < IN_PIXELS; p++)
            if (left + px + p < a.w)
                store(y + ((size_t)(top + line) * a.w + left + px + p) * a.y_ld, sum[p]);
    }
}

/* ---- narrow_out: 3 x 3, stride 1, whole pairs of vectors in, at most 3 channels out ---- */

enum {
    OUT_THREADS = 128,
    OUT_WIDTH = 32, /* pixels of a block's tile: 16 x 8 threads of 2 x 2 */
    OUT_HEIGHT = 16,
    OUT_COLUMNS = OUT_WIDTH + 2,
    OUT_LINES = OUT_HEIGHT + 2,
    OUT_VECTORS = 2, /* channels of a pixel at a time: a sector */
    OUT_CHANNELS = 3
};

template <int V> struct out_box {
    /* Even columns first, then odd ones: see place_of. */
    uint4 x[OUT_VECTORS][OUT_LINES][OUT_COLUMNS];
    float4 weight[TAPS][OUT_VECTORS * V]; /* x, y, z: the output channels */
};

/* Adjacent threads are two pixels apart; in this order the values that they read together are
 * contiguous. */
DEVICE uint32_t place_of(uint32_t column)
{
    return column / 2 + column % 2 * (OUT_COLUMNS / 2);
}

/* A tile of outputs, [OUT_HEIGHT][OUT_WIDTH][oc] in shared memory, in the order of y. */
template <typename To>
DEVICE void put_tile(To *y, const conv_args &a, uint32_t row, uint32_t left, uint32_t top,
                     const float *tile)
{
    for (uint32_t i = threadIdx.x; i < OUT_HEIGHT * OUT_WIDTH * a.oc; i += OUT_THREADS) {
        const uint32_t o = i % a.oc, at = i / a.oc % OUT_WIDTH, line = i / a.oc / OUT_WIDTH;
        if (top + line >= a.h || left + at >= a.w) continue;
        put(y + (((size_t)row * a.h + top + line) * a.w + left + at) * a.y_ld + o,
            rounded<To>(tile[i]));
    }
}

/* A weight is read once for four pixels. weight: [TAPS] rows of V, `stride` apart. */
template <typename T>
DEVICE void add_products(float (&sum)[2][2][OUT_CHANNELS], const uint4 (&seen)[4][4],
                         const float4 *weight, uint32_t stride)
{
    constexpr int EACH = 4 / (int)sizeof(T); /* values in a word */
#pragma unroll
    for (int word = 0; word < 4; word++) {
        float v[4][4][EACH];
#pragma unroll
        for (int i = 0; i < 16; i++)
            unpack_word<T>(v[i / 4][i % 4], seen[i / 4][i % 4], word);
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                const float4 w = weight[tap * stride + word * EACH + e];
#pragma unroll
                for (int p = 0; p < 4; p++) {
                    const float x = v[tap / 3 + p / 2][tap % 3 + p % 2][e];
                    sum[p / 2][p % 2][0] = fmaf(x, w.x, sum[p / 2][p % 2][0]);
                    sum[p / 2][p % 2][1] = fmaf(x, w.y, sum[p / 2][p % 2][1]);
                    sum[p / 2][p % 2][2] = fmaf(x, w.z, sum[p / 2][p % 2][2]);
                }
            }
    }
}

template <typename T>
__global__ void __launch_bounds__(OUT_THREADS)
    narrow_out(const T *x_all, void *y, bool y_is_f32, conv_args a)
{
    constexpr uint32_t V = vector_of<T>, CHUNK = OUT_VECTORS * V;
    SHARED(out_box<V>, box);
    const uint32_t tiles = (a.w + OUT_WIDTH - 1) / OUT_WIDTH, row = blockIdx.y;
    const uint32_t left = blockIdx.x % tiles * OUT_WIDTH, top = blockIdx.x / tiles * OUT_HEIGHT;
    const uint32_t tx = threadIdx.x % (OUT_WIDTH / 2), ty = threadIdx.x / (OUT_WIDTH / 2);
    const T *x = x_all + (size_t)row * a.h * a.w * a.x_ld;
    const float *bias = bias_of(a, row);
    float sum[2][2][OUT_CHANNELS];
#pragma unroll
    for (uint32_t o = 0; o < OUT_CHANNELS; o++)
        sum[0][0][o] = sum[0][1][o] = sum[1][0][o] = sum[1][1][o] = o < a.oc ? get(bias + o) : 0;

    for (uint32_t i = threadIdx.x; i < TAPS * CHUNK; i += OUT_THREADS)
        box.weight[i / CHUNK][i % CHUNK] = make_float4(0, 0, 0, 0); /* stays zero from oc on */
    for (uint32_t first = 0; first < a.ic; first += CHUNK) {
        __syncthreads(); /* the previous chunk has been used */
        for (uint32_t i = threadIdx.x; i < OUT_LINES * OUT_COLUMNS * OUT_VECTORS;
             i += OUT_THREADS) {
            const uint32_t k = i % OUT_VECTORS, at = i / OUT_VECTORS % OUT_COLUMNS,
                           line = i / OUT_VECTORS / OUT_COLUMNS;
            const uint32_t xx = left + at - 1,
                           yy = top + line - 1; /* before the edge: wraps to a very large value */
            uint4 *to = &box.x[k][line][place_of(at)];
            if (xx < a.w && yy < a.h)
                copy16_async(to, x + ((size_t)yy * a.w + xx) * a.x_ld + first + k * V);
            else
                *to = make_uint4(0, 0, 0, 0);
        }
        for (uint32_t i = threadIdx.x; i < TAPS * CHUNK * a.oc; i += OUT_THREADS) {
            const uint32_t o = i % a.oc, c = i / a.oc % CHUNK, tap = i / a.oc / CHUNK;
            reinterpret_cast<float *>(&box.weight[tap][c])[o] =
                get(a.weight + ((size_t)tap * a.ic + first) * a.oc + c * a.oc + o);
        }
        wait_for_copies();
        __syncthreads();
#pragma unroll 1
        for (uint32_t k = 0; k < OUT_VECTORS; k++) {
            uint4 seen[4][4]; /* the inputs of 2 x 2 pixels */
#pragma unroll
            for (uint32_t i = 0; i < 16; i++)
                seen[i / 4][i % 4] = box.x[k][2 * ty + i / 4][place_of(2 * tx + i % 4)];
            add_products<T>(sum, seen, &box.weight[0][k * V], CHUNK);
        }
    }
    __syncthreads(); /* box.x is no longer needed: it now holds the tile */
    float *tile = reinterpret_cast<float *>(&box.x[0][0][0]);
#pragma unroll
    for (uint32_t p = 0; p < 4; p++)
#pragma unroll
        for (uint32_t o = 0; o < OUT_CHANNELS; o++)
            if (o < a.oc)
                tile[((2 * ty + p / 2) * OUT_WIDTH + 2 * tx + p % 2) * a.oc + o] =
                    sum[p / 2][p % 2][o];
    __syncthreads();
    if (y_is_f32)
        put_tile(static_cast<float *>(y), a, row, left, top, tile);
    else
        put_tile(static_cast<T *>(y), a, row, left, top, tile);
}

/* ---- any shape ---- */

enum { ANY_THREADS = 256 };

template <typename From, typename To>
__global__ void __launch_bounds__(ANY_THREADS)
    conv_any(const From *x_all, const To *residual, To *y, conv_args a)
{
    const size_t i = (size_t)blockIdx.x * ANY_THREADS + threadIdx.x, pixel = i / a.oc;
    const uint32_t o = (uint32_t)(i % a.oc), row = blockIdx.y;
    if (pixel >= (size_t)a.out_h * a.out_w) return;
    const uint32_t top = (uint32_t)(pixel / a.out_w) * a.stride,
                   left = (uint32_t)(pixel % a.out_w) * a.stride;
    const From *x = x_all + (size_t)row * a.h * a.w * a.x_ld;
    float sum = get(bias_of(a, row) + o);
    for (uint32_t tap = 0; tap < a.kernel * a.kernel; tap++) {
        const uint32_t yy = top + tap / a.kernel - a.kernel / 2,
                       xx = left + tap % a.kernel - a.kernel / 2;
        if (yy >= a.h || xx >= a.w) continue; /* before the edge: wraps to a very large value */
        const From *from = x + ((size_t)yy * a.w + xx) * a.x_ld;
        const float *w = a.weight + (size_t)tap * a.ic * a.oc + o;
        for (uint32_t c = 0; c < a.ic; c++)
            sum = fmaf(as_float(get(from + c)), get(w + (size_t)c * a.oc), sum);
    }
    const size_t at = (size_t)row * a.out_h * a.out_w + pixel;
    if (residual) sum += as_float(get(residual + at * a.r_ld + o));
    put(y + at * a.y_ld + o, rounded<To>(sum));
}

/* ---- the choice of the kernel ---- */

static bool takes_narrow_in(const struct gpu_conv *g)
{
    const uint32_t step = VECTOR_BYTES / (uint32_t)dtype_bytes(g->y.dtype);
    return g->kernel == 3 && g->stride == 1 && g->x.c <= IN_CHANNELS && !g->has_residual &&
           can_vector(&g->y, 0, g->y.c, step) && (uintptr_t)g->bias % VECTOR_BYTES == 0;
}

static bool takes_narrow_out(const struct gpu_conv *g)
{
    const uint32_t step = VECTOR_BYTES / (uint32_t)dtype_bytes(g->x.dtype);
    return g->kernel == 3 && g->stride == 1 && g->y.c <= OUT_CHANNELS && !g->has_residual &&
           g->x.c % (OUT_VECTORS * step) == 0 && can_vector(&g->x, 0, g->x.c, step) &&
           (g->y.dtype == DT_F32 || g->y.dtype == g->x.dtype);
}

template <typename T>
static int run_narrow_in(const struct gpu_conv *g, const conv_args &a, void *stream)
{
    const uint32_t blocks = blocks_of(a.w, IN_WIDTH) * blocks_of(a.h, IN_ROWS);
    const image x = { g->x.data, g->x.dtype };
    return launch(narrow_in<T>, dim3(blocks, blocks_of(a.oc, IN_COLUMNS * vector_of<T>), g->x.n),
                  IN_THREADS, 0, stream, x, static_cast<T *>(g->y.data), a);
}

template <typename T>
static int run_narrow_out(const struct gpu_conv *g, const conv_args &a, void *stream)
{
    const uint32_t blocks = blocks_of(a.w, OUT_WIDTH) * blocks_of(a.h, OUT_HEIGHT);
    return launch(narrow_out<T>, dim3(blocks, g->x.n), OUT_THREADS, 0, stream,
                  static_cast<const T *>(g->x.data), g->y.data, g->y.dtype == DT_F32, a);
}

template <typename From, typename To>
static int run_any(const struct gpu_conv *g, const conv_args &a, void *stream)
{
    const uint64_t outputs = (uint64_t)a.out_h * a.out_w * a.oc;
    return launch(conv_any<From, To>, dim3(blocks_of(outputs, ANY_THREADS), g->x.n), ANY_THREADS, 0,
                  stream, static_cast<const From *>(g->x.data),
                  g->has_residual ? static_cast<const To *>(g->residual.data) : nullptr,
                  static_cast<To *>(g->y.data), a);
}

} // namespace

extern "C" int gpu_conv(const struct gpu_conv *g, void *stream)
{
    conv_args a = {};
    a.h = g->x.h;
    a.w = g->x.w;
    a.ic = g->x.c;
    a.oc = g->y.c;
    a.out_h = g->y.h;
    a.out_w = g->y.w;
    a.kernel = g->kernel;
    a.stride = g->stride;
    a.x_ld = g->x.ld;
    a.y_ld = g->y.ld;
    a.r_ld = g->residual.ld;
    a.weight = g->weight;
    a.bias = g->bias;
    a.condition = g->condition;
    if (takes_narrow_in(g))
        return with_type(g->y.dtype, [&](auto type) {
            return run_narrow_in<typename decltype(type)::type>(g, a, stream);
        });
    if (takes_narrow_out(g))
        return with_type(g->x.dtype, [&](auto type) {
            return run_narrow_out<typename decltype(type)::type>(g, a, stream);
        });
    return with_type(g->x.dtype, [&](auto from) {
        return with_type(g->y.dtype, [&](auto to) {
            return run_any<typename decltype(from)::type, typename decltype(to)::type>(g, a,
                                                                                       stream);
        });
    });
}
