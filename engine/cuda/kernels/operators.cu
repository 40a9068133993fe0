/* The measurement operators on whole float images, with the host's order of sums and no fused
 * operation: the same bytes as on the host. Zeros beyond the edge are added like any number; they
 * change nothing, since no partial sum is -0. Rows are the grid's x: only x may be longer than
 * 65535. */
#include "engine/cuda/kernels/memory.cuh"

namespace
{

enum {
    THREADS = 256,
    MAX_CHANNELS = 4,
    DOWN_COLUMNS = WARP_LANES, /* columns of a block of blur_down */
    DOWN_ROWS = 64             /* rows of a block of blur_down */
};

struct blur_box {
    float taps[BLUR_TAPS];
    float line[THREADS + 2 * BLUR_REACH * MAX_CHANNELS];
};

__global__ void __launch_bounds__(THREADS)
    blur_along(const float *x, const float *taps, float *y, uint32_t row, uint32_t c)
{
    SHARED(blur_box, box);
    const uint32_t margin = BLUR_REACH * c, first = blockIdx.y * THREADS;
    const float *from = x + (size_t)blockIdx.x * row;
    for (uint32_t i = threadIdx.x; i < BLUR_TAPS; i += THREADS)
        box.taps[i] = get(taps + i);
    for (uint32_t i = threadIdx.x; i < THREADS + 2 * margin; i += THREADS)
        box.line[i] =
            first + i >= margin && first + i - margin < row ? get(from + (first + i - margin)) : 0;
    __syncthreads();
    if (first + threadIdx.x >= row) return;
    const float *mid = box.line + margin + threadIdx.x;
    float out = __fmul_rn(box.taps[BLUR_REACH], mid[0]);
    for (uint32_t j = 1; j <= BLUR_REACH; j++)
        out = __fadd_rn(
            out, __fmul_rn(box.taps[BLUR_REACH + j], __fadd_rn(mid[-(int)(j * c)], mid[j * c])));
    put(y + (size_t)blockIdx.x * row + first + threadIdx.x, out);
}

struct down_box {
    float taps[BLUR_TAPS];
    float of[DOWN_ROWS + 2 * BLUR_REACH][DOWN_COLUMNS];
};

__global__ void __launch_bounds__(THREADS)
    blur_down(const float *x, const float *taps, float *y, uint32_t row, uint32_t h)
{
    SHARED(down_box, box);
    const uint32_t column = threadIdx.x % DOWN_COLUMNS, lane = threadIdx.x / DOWN_COLUMNS;
    const uint32_t at = blockIdx.y * DOWN_COLUMNS + column, first = blockIdx.x * DOWN_ROWS;
    for (uint32_t i = threadIdx.x; i < BLUR_TAPS; i += THREADS)
        box.taps[i] = get(taps + i);
    for (uint32_t r = lane; r < DOWN_ROWS + 2 * BLUR_REACH; r += THREADS / DOWN_COLUMNS) {
        const bool is_inside = at < row && first + r >= BLUR_REACH && first + r - BLUR_REACH < h;
        box.of[r][column] = is_inside ? get(x + (size_t)(first + r - BLUR_REACH) * row + at) : 0;
    }
    __syncthreads();
    if (at >= row) return;
    for (uint32_t r = lane; r < DOWN_ROWS && first + r < h; r += THREADS / DOWN_COLUMNS) {
        float out = 0;
        for (uint32_t k = 0; k < BLUR_TAPS; k++)
            out = __fadd_rn(out, __fmul_rn(box.taps[k], box.of[r + k][column]));
        put(y + (size_t)(first + r) * row + at, out);
    }
}

template <int SIDE>
__global__ void __launch_bounds__(THREADS) pool(const float *x, float *y, uint32_t w, uint32_t c)
{
    const uint32_t i = blockIdx.y * THREADS + threadIdx.x, out_row = w / SIDE * c;
    if (i >= out_row) return;
    const float *from = x + (size_t)blockIdx.x * SIDE * w * c + (size_t)(i / c) * SIDE * c + i % c;
    float sum = 0;
#pragma unroll
    for (int k = 0; k < SIDE * SIDE; k++)
        sum = __fadd_rn(sum, get(from + ((size_t)(k / SIDE) * w + k % SIDE) * c));
    put(y + (size_t)blockIdx.x * out_row + i, __fmul_rn(sum, 1.0f / (SIDE * SIDE)));
}

__global__ void __launch_bounds__(THREADS) gray(const float *x, float *y, size_t pixels, uint32_t c)
{
    const size_t p = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (p >= pixels) return;
    const float *v = x + p * c;
    put(y + p,
        c < 3 ? get(v)
              : __fadd_rn(__fadd_rn(__fmul_rn(0.3333f, get(v)), __fmul_rn(0.3334f, get(v + 1))),
                          __fmul_rn(0.3333f, get(v + 2))));
}

__global__ void __launch_bounds__(THREADS)
    masked(const float *x, const uint8_t *observed_mask, float *y, size_t count, uint32_t c)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) put(y + i, !observed_mask || get(observed_mask + i / c) ? get(x + i) : 0.0f);
}

} // namespace

extern "C" int gpu_operator(const struct operator_args *a, void *stream)
{
    const uint32_t row = a->w * a->c;
    const size_t pixels = (size_t)a->w * a->h, count = pixels * a->c;
    int e = cudaSuccess;
    switch (a->op) {
    case IMAGE_OPERATOR_TAPS:
        if (a->c > MAX_CHANNELS) return cudaErrorInvalidValue;
        e = launch(blur_along, dim3(a->h, blocks_of(row, THREADS)), THREADS, 0, stream, a->x,
                   a->taps, a->scratch, row, a->c);
        if (e) return e;
        return launch(blur_down, dim3(blocks_of(a->h, DOWN_ROWS), blocks_of(row, DOWN_COLUMNS)),
                      THREADS, 0, stream, a->scratch, a->taps, a->y, row, a->h);
    case IMAGE_OPERATOR_POOL:
        if (a->scale == 4)
            return launch(pool<4>, dim3(a->h / 4, blocks_of(a->w / 4 * a->c, THREADS)), THREADS, 0,
                          stream, a->x, a->y, a->w, a->c);
        if (a->scale == 2)
            return launch(pool<2>, dim3(a->h / 2, blocks_of(a->w / 2 * a->c, THREADS)), THREADS, 0,
                          stream, a->x, a->y, a->w, a->c);
        break;
    case IMAGE_OPERATOR_GRAY:
        return launch(gray, dim3(blocks_of(pixels, THREADS)), THREADS, 0, stream, a->x, a->y,
                      pixels, a->c);
    case IMAGE_OPERATOR_MASK:
    case IMAGE_OPERATOR_KEEP:
        return launch(masked, dim3(blocks_of(count, THREADS)), THREADS, 0, stream, a->x,
                      a->op == IMAGE_OPERATOR_MASK ? a->observed_mask : nullptr, a->y, count, a->c);
    case IMAGE_OPERATOR_NONE: break;
    }
    return cudaErrorInvalidValue;
}
