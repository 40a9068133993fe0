/* Group norm with scale and shift and SiLU: three algorithms, selected by the shape alone, so that
 * a row's bytes do not depend on its batch.
 *
 * whole: a block keeps all pixels of a few groups in shared memory, so x is read once. partial +
 * apply: for feature maps too large for that; blocks sum chunks of pixels, then each block of the
 * next kernel adds up the chunks' sums in order and normalises. any: for layouts that are not whole
 * vectors. Sums are of x - shift, where shift is the group's value at the first pixel, and the mean
 * is kept in two parts (shift and the remainder): a small spread about a large mean keeps its
 * digits. Each algorithm can write the feature map doubled or halved (HOW: enum resample); the
 * bytes are those of resample.cu applied to its output. It can write x itself resampled too
 * (`too`), from the same read. */
#include "engine/cuda/kernels/resample.cuh"

namespace
{

enum {
    THREADS = 256,
    WARPS = THREADS / WARP_LANES,
    MAX_GROUPS = 256, /* of a feature map that is not `any` */
    MAX_VECTOR = 8,   /* elements of a vector */
    /* Of `whole`: fits, with the rest, in the 99 KiB that every GPU from sm_80 on has. */
    SLAB_BYTES = 88 * 1024,
    SECTOR_BYTES = 32,         /* the unit in which device memory is read */
    PARTIAL_BYTES = 64 * 1024, /* the least work of a block of `partial` */
    PARTIAL_CHUNKS = 64,       /* the most chunks */
    /* Of a row, as long as a block's work stays between the next two constants. */
    APPLY_BLOCKS = 128,
    APPLY_LEAST_BYTES = 32 * 1024,
    APPLY_BYTES = 128 * 1024
};

/* How threads divide a run of `channels`: thread t has column t % columns (a vector) of every pixel
 * p = t / columns (mod lanes). */
struct spread {
    uint32_t channels, columns, lanes;
    uint32_t groups, width; /* groups of the run; channels of a group */
    uint32_t closes;        /* bit e: element e of a vector is the last one of its entry's sum */
    uint32_t entries, group_entries; /* entries of a vector; of one group and lane */
};

struct norm_args {
    uint32_t pixels, c, groups, width;
    /* steps: see write_step; small_w: width of the smaller feature map. */
    uint32_t steps, y_pixels, small_w;
    size_t x_ld, y_ld, too_ld;
    float eps;
    bool silu;
    enum resample how; /* of `any`; the others are compiled for each value */
    const float *gamma, *beta, *scale_shift;
    size_t scale_shift_ld;
    const uint32_t *condition;
    float *mean_rstd;
    float2 *partial; /* [n][groups][chunks]: sums of x - shift and of its square */
    float *shift;    /* [n][groups]: stored, since y may overwrite x */
    uint32_t chunks, chunk_pixels, apply_steps;
    struct spread s;
};

/* ---- shared by the three ---- */

DEVICE float silu(float v)
{
    return __fdividef(v, 1.0f + __expf(-v));
}

/* y = (x - shift) scale + offset of N channels. Until the statistics are known, scale is gamma and
 * offset is beta. */
template <int N> struct affine {
    float shift[N], scale[N], offset[N];
};

template <int N>
DEVICE void load_affine(affine<N> &f, const norm_args &a, uint32_t row, uint32_t channel)
{
    const size_t condition = a.condition ? get(a.condition + row) : 0;
    load(f.scale, a.gamma + condition * a.c + channel);
    load(f.offset, a.beta + condition * a.c + channel);
    if (!a.scale_shift) return;
    const float *ss = a.scale_shift + row * a.scale_shift_ld + channel;
    float by[N], shift[N];
    load(by, ss);
    load(shift, ss + a.c);
#pragma unroll
    for (int e = 0; e < N; e++) { /* rounds where constant folding rounds: both forms then agree */
        const double scale = 1.0 + (double)by[e];
        f.scale[e] = (float)((double)f.scale[e] * scale);
        f.offset[e] = (float)((double)f.offset[e] * scale + (double)shift[e]);
    }
}

/* delta: mean - shift. */
DEVICE void finish_affine(float &scale, float &offset, float delta, float rstd)
{
    scale *= rstd;
    offset = fmaf(-delta, scale, offset);
}

template <int N> DEVICE void normalise(float (&v)[N], const affine<N> &f, bool with_silu)
{
#pragma unroll
    for (int e = 0; e < N; e++) {
        v[e] = fmaf(v[e] - f.shift[e], f.scale[e], f.offset[e]);
        if (with_silu) v[e] = silu(v[e]);
    }
}

/* Step p of the output: one pixel of x into one or four of y, or four of x into one. too: NULL, or
 * where x is written, resampled like y. read(v, i): N channels of x's pixel i. */
template <int HOW, typename T, int N, typename Read>
DEVICE void write_step(T *y, T *too, uint32_t p, const norm_args &a, const affine<N> &f, Read read)
{
    float v[N];
    if constexpr (HOW == RESAMPLE_DOWN) {
        const uint32_t at = first_of_four(p, a.small_w), down = 2 * a.small_w;
        float right[N], below[N], across[N];
        read(v, at);
        read(right, at + 1);
        read(below, at + down);
        read(across, at + down + 1);
        if (too) {
            float mean[N];
            mean_of_four(mean, v, right, below, across);
            store(too + p * a.too_ld, mean);
        }
        normalise(v, f, a.silu);
        normalise(right, f, a.silu);
        normalise(below, f, a.silu);
        normalise(across, f, a.silu);
        round_to<T>(v);
        round_to<T>(right);
        round_to<T>(below);
        round_to<T>(across);
        mean_of_four(v, v, right, below, across);
        store(y + p * a.y_ld, v);
    } else {
        read(v, p);
        if (HOW == RESAMPLE_UP && too) store_four(too, p, a.small_w, a.too_ld, v);
        normalise(v, f, a.silu);
        if constexpr (HOW == RESAMPLE_UP)
            store_four(y, p, a.small_w, a.y_ld, v);
        else
            store(y + p * a.y_ld, v);
    }
}

template <typename T> DEVICE T *row_of(T *too, const norm_args &a, uint32_t row, uint32_t channel)
{
    return too ? too + (size_t)row * a.y_pixels * a.too_ld + channel : too;
}

DEVICE float rstd_of(float spread, float eps)
{
    return __frcp_rn(
        __fsqrt_rn(fmaxf(spread, 0.0f) + eps)); /* rounding may give a negative value */
}

/* A NaN must stay a NaN: fmaxf alone would turn it into 0. */
DEVICE float rstd_or_nan(float spread, float eps)
{
    return spread == spread ? rstd_of(spread, eps) : spread;
}

DEVICE void write_moments(const norm_args &a, uint32_t row, uint32_t group, float mean, float rstd)
{
    if (!a.mean_rstd) return;
    put(a.mean_rstd + ((size_t)row * a.groups + group) * 2, mean);
    put(a.mean_rstd + ((size_t)row * a.groups + group) * 2 + 1, rstd);
}

/* Adds one number per thread and vector element to one entry for each group that the vector
 * covers. */
template <int N> DEVICE void put_entries(float *box, const spread &s, const float (&v)[N])
{
    float sum = 0;
    uint32_t entry =
        threadIdx.x / s.columns * (s.columns * s.entries) + threadIdx.x % s.columns * s.entries;
#pragma unroll
    for (int e = 0; e < N; e++) {
        sum += v[e];
        if (s.closes >> e & 1) {
            box[entry++] = sum;
            sum = 0;
        }
    }
}

/* Sum of a group's entries, returned to every lane of the warp. */
DEVICE float group_sum(const float *box, const spread &s, uint32_t group)
{
    const uint32_t line = s.columns * s.entries, count = s.lanes * s.group_entries;
    float sum = 0;
    for (uint32_t i = threadIdx.x % WARP_LANES; i < count; i += WARP_LANES)
        sum += box[i / s.group_entries * line + group * s.group_entries + i % s.group_entries];
    return warp_sum(sum);
}

/* ---- whole ---- */

struct whole_box {
    float entries[THREADS * MAX_VECTOR];
    float shift[MAX_GROUPS], delta[MAX_GROUPS], rstd[MAX_GROUPS];
};

template <typename T, int HOW>
__global__ void __launch_bounds__(THREADS)
    norm_whole(const T *x_all, T *y_all, T *too_all, norm_args a)
{
    constexpr int N = vector_of<T>;
    DYNAMIC_SHARED(uint4, slab); /* [pixels][columns] */
    SHARED(whole_box, box);
    const spread s = a.s;
    const uint32_t row = blockIdx.y, first = blockIdx.x * s.channels,
                   first_group = blockIdx.x * s.groups;
    const uint32_t column = threadIdx.x % s.columns, lane = threadIdx.x / s.columns;
    const uint32_t warp = threadIdx.x / WARP_LANES, warp_lane = threadIdx.x % WARP_LANES;
    const bool has_work = lane < s.lanes;
    const T *x = x_all + (size_t)row * a.pixels * a.x_ld + first;
    const float count = (float)a.pixels * (float)a.width;

    for (uint32_t p = lane; has_work && p < a.pixels; p += s.lanes)
        copy16_async(&slab[p * s.columns + column], x + p * a.x_ld + column * N);
    for (uint32_t g = threadIdx.x; g < s.groups; g += THREADS)
        box.shift[g] = as_float(get(x + g * a.width));
    affine<N> f;
    float sum[N], v[N];
    if (has_work) load_affine(f, a, row, first + column * N);
    __syncthreads();
    wait_for_copies(); /* a thread reads only what it copied itself */
#pragma unroll
    for (int e = 0; e < N; e++) {
        f.shift[e] = has_work ? box.shift[(column * N + e) / a.width] : 0;
        sum[e] = 0;
    }
    for (uint32_t p = lane; has_work && p < a.pixels; p += s.lanes) {
        unpack16<T>(v, slab[p * s.columns + column]);
#pragma unroll
        for (int e = 0; e < N; e++)
            sum[e] += v[e] - f.shift[e];
    }
    if (has_work) put_entries(box.entries, s, sum);
    __syncthreads();
    for (uint32_t g = warp; g < s.groups; g += WARPS) {
        float total = group_sum(box.entries, s, g);
        if (warp_lane == 0) box.delta[g] = total / count;
    }
    __syncthreads();

    float delta[N];
#pragma unroll
    for (int e = 0; e < N; e++) {
        delta[e] = has_work ? box.delta[(column * N + e) / a.width] : 0;
        sum[e] = 0;
    }
    for (uint32_t p = lane; has_work && p < a.pixels; p += s.lanes) {
        unpack16<T>(v, slab[p * s.columns + column]);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float d = v[e] - f.shift[e] - delta[e];
            sum[e] = fmaf(d, d, sum[e]);
        }
    }
    if (has_work) put_entries(box.entries, s, sum);
    __syncthreads();
    for (uint32_t g = warp; g < s.groups; g += WARPS) {
        float r = rstd_or_nan(group_sum(box.entries, s, g) / count, a.eps);
        if (warp_lane == 0) {
            box.rstd[g] = r;
            write_moments(a, row, first_group + g, box.shift[g] + box.delta[g], r);
        }
    }
    __syncthreads();
    if (!has_work) return;
#pragma unroll
    for (int e = 0; e < N; e++)
        finish_affine(f.scale[e], f.offset[e], delta[e], box.rstd[(column * N + e) / a.width]);
    T *y = y_all + (size_t)row * a.y_pixels * a.y_ld + first + column * N;
    T *too = row_of(too_all, a, row, first + column * N);
    for (uint32_t p = lane; p < a.steps; p += s.lanes)
        write_step<HOW>(y, too, p, a, f, [&](float(&to)[N], uint32_t i) {
            unpack16<T>(to, slab[i * s.columns + column]);
        });
}

/* ---- partial, apply ---- */

struct partial_box {
    float sums[THREADS * MAX_VECTOR], squares[THREADS * MAX_VECTOR];
};

template <typename T>
__global__ void __launch_bounds__(THREADS) norm_partial(const T *x_all, norm_args a)
{
    constexpr int N = vector_of<T>;
    SHARED(partial_box, box);
    const spread s = a.s;
    const uint32_t row = blockIdx.y, column = threadIdx.x % s.columns,
                   lane = threadIdx.x / s.columns;
    const uint32_t from = blockIdx.x * a.chunk_pixels, to = min(from + a.chunk_pixels, a.pixels);
    const T *x = x_all + (size_t)row * a.pixels * a.x_ld;

    if (lane < s.lanes) {
        float shift[N], sum[N], square[N];
#pragma unroll
        for (int e = 0; e < N; e++) {
            shift[e] = as_float(get(x + (column * N + e) / a.width * a.width));
            sum[e] = square[e] = 0;
        }
#pragma unroll 4
        for (uint32_t p = from + lane; p < to; p += s.lanes) {
            float v[N];
            load(v, x + p * a.x_ld + column * N);
#pragma unroll
            for (int e = 0; e < N; e++) {
                v[e] -= shift[e];
                sum[e] += v[e];
                square[e] = fmaf(v[e], v[e], square[e]);
            }
        }
        put_entries(box.sums, s, sum);
        put_entries(box.squares, s, square);
    }
    __syncthreads();
    for (uint32_t g = threadIdx.x / WARP_LANES; g < s.groups; g += WARPS) {
        float sum = group_sum(box.sums, s, g), square = group_sum(box.squares, s, g);
        const size_t group = (size_t)row * a.groups + g;
        if (threadIdx.x % WARP_LANES) continue;
        put(a.partial + group * a.chunks + blockIdx.x, make_float2(sum, square));
        if (blockIdx.x == 0) put(a.shift + group, as_float(get(x + g * a.width)));
    }
}

struct apply_box {
    float shift[MAX_GROUPS], delta[MAX_GROUPS], rstd[MAX_GROUPS];
};

template <typename T, int HOW>
__global__ void __launch_bounds__(THREADS)
    norm_apply(const T *x_all, T *y_all, T *too_all, norm_args a)
{
    constexpr int N = vector_of<T>;
    SHARED(apply_box, box);
    const spread s = a.s;
    /* Last row first: what `partial` read last is still in the cache. */
    const uint32_t row = gridDim.y - 1 - blockIdx.y, column = threadIdx.x % s.columns,
                   lane = threadIdx.x / s.columns;
    const uint32_t from = blockIdx.x * a.apply_steps, to = min(from + a.apply_steps, a.steps);
    const T *x = x_all + (size_t)row * a.pixels * a.x_ld + column * N;
    T *y = y_all + (size_t)row * a.y_pixels * a.y_ld + column * N;
    T *too = row_of(too_all, a, row, column * N);
    affine<N> f;
    if (lane < s.lanes) load_affine(f, a, row, column * N);
    const float count = (float)a.pixels * (float)a.width;

    for (uint32_t g = threadIdx.x / WARP_LANES; g < s.groups; g += WARPS) {
        const float2 *chunk = a.partial + ((size_t)row * a.groups + g) * a.chunks;
        float sum = 0, square = 0;
        for (uint32_t k = threadIdx.x % WARP_LANES; k < a.chunks; k += WARP_LANES) {
            float2 one = get(chunk + k);
            sum += one.x;
            square += one.y;
        }
        sum = warp_sum(sum);
        square = warp_sum(square);
        float delta = sum / count, r = rstd_or_nan(square / count - delta * delta, a.eps);
        if (threadIdx.x % WARP_LANES) continue;
        const float shift = get(a.shift + (size_t)row * a.groups + g);
        box.shift[g] = shift;
        box.delta[g] = delta;
        box.rstd[g] = r;
        if (blockIdx.x == 0) write_moments(a, row, g, shift + delta, r);
    }
    __syncthreads();
    if (lane >= s.lanes) return;
#pragma unroll
    for (int e = 0; e < N; e++) {
        const uint32_t g = (column * N + e) / a.width;
        f.shift[e] = box.shift[g];
        finish_affine(f.scale[e], f.offset[e], box.delta[g], box.rstd[g]);
    }
#pragma unroll(HOW == RESAMPLE_DOWN ? 1 : 4)
    for (uint32_t p = from + lane; p < to; p += s.lanes)
        write_step<HOW>(y, too, p, a, f,
                        [&](float(&v)[N], uint32_t i) { load(v, x + i * a.x_ld); });
}

/* ---- any ---- */

struct any_box {
    float warps[WARPS];
};

/* Every thread gets the sum. */
DEVICE float block_sum(float v, any_box &box)
{
    v = warp_sum(v);
    __syncthreads(); /* the previous sum has been read */
    if (threadIdx.x % WARP_LANES == 0) box.warps[threadIdx.x / WARP_LANES] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < WARPS; w++)
        sum += box.warps[w];
    return sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    norm_any(const T *x_all, T *y_all, T *too_all, norm_args a)
{
    SHARED(any_box, box);
    const uint32_t group = blockIdx.x, row = blockIdx.y, first = group * a.width;
    const T *x = x_all + (size_t)row * a.pixels * a.x_ld + first;
    T *y = y_all + (size_t)row * a.y_pixels * a.y_ld + first;
    const size_t values = (size_t)a.pixels * a.width;
    const float shift = as_float(get(x)), count = (float)values;

    float sum = 0, square = 0;
    for (size_t i = threadIdx.x; i < values; i += THREADS)
        sum += as_float(get(x + i / a.width * a.x_ld + i % a.width)) - shift;
    const float delta = block_sum(sum, box) / count;
    for (size_t i = threadIdx.x; i < values; i += THREADS) {
        float d = as_float(get(x + i / a.width * a.x_ld + i % a.width)) - shift - delta;
        square = fmaf(d, d, square);
    }
    const float rstd = rstd_or_nan(block_sum(square, box) / count, a.eps);
    if (threadIdx.x == 0) write_moments(a, row, group, shift + delta, rstd);
    for (size_t i = threadIdx.x; i < (size_t)a.steps * a.width; i += THREADS) {
        const uint32_t channel = (uint32_t)(i % a.width);
        affine<1> f;
        load_affine(f, a, row, first + channel);
        f.shift[0] = shift;
        finish_affine(f.scale[0], f.offset[0], delta, rstd);
        const auto read = [&](float(&v)[1], uint32_t at) { load(v, x + at * a.x_ld + channel); };
        T *too = row_of(too_all, a, row, first + channel);
        const uint32_t p = (uint32_t)(i / a.width);
        if (a.how == RESAMPLE_UP)
            write_step<RESAMPLE_UP>(y + channel, too, p, a, f, read);
        else if (a.how == RESAMPLE_DOWN)
            write_step<RESAMPLE_DOWN>(y + channel, too, p, a, f, read);
        else
            write_step<RESAMPLE_NONE>(y + channel, too, p, a, f, read);
    }
}

/* ---- the choice of the algorithm ---- */

enum way { ANY, WHOLE, PARTIAL_APPLY };

static struct spread spread_over(uint32_t channels, uint32_t width, uint32_t vector)
{
    struct spread s = {};
    const uint32_t every = width % vector == 0 ? vector : vector % width == 0 ? width : 1;
    s.channels = channels;
    s.columns = channels / vector;
    s.lanes = THREADS / s.columns;
    s.groups = channels / width;
    s.width = width;
    for (uint32_t e = every - 1; e < vector; e += every)
        s.closes |= 1u << e;
    s.entries = vector / every;
    s.group_entries = width / every;
    return s;
}

/* The smallest number of groups that is whole vectors, and a whole sector where that fits; 0: not
 * even the smallest fits. */
static uint32_t slab_groups(uint32_t pixels, uint32_t groups, uint32_t width, size_t size)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k <= groups; k++) {
        const size_t bytes = (size_t)k * width * size;
        if (groups % k || bytes % VECTOR_BYTES || bytes / VECTOR_BYTES > THREADS) continue;
        if (bytes * pixels > SLAB_BYTES) break;
        best = k;
        if (bytes >= SECTOR_BYTES) break;
    }
    return best;
}

static enum way way_of(const struct tensor *x, uint32_t groups, uint32_t *slab)
{
    const size_t size = dtype_bytes(x->dtype), vector = VECTOR_BYTES / size;
    if (groups > MAX_GROUPS || x->c % vector) return ANY;
    *slab = slab_groups(x->h * x->w, groups, x->c / groups, size);
    if (*slab) return WHOLE;
    return x->c / vector <= THREADS ? PARTIAL_APPLY : ANY;
}

/* Pixels of a chunk of partial. */
static uint32_t partial_chunk(const struct tensor *x)
{
    const uint32_t fewest = blocks_of(PARTIAL_BYTES, x->c * dtype_bytes(x->dtype)),
                   even = blocks_of((uint64_t)x->h * x->w, PARTIAL_CHUNKS);
    return even > fewest ? even : fewest;
}

template <typename T, int HOW>
static int run_norm(const struct gpu_norm *g, norm_args a, enum way way, uint32_t slab,
                    void *stream)
{
    const T *x = static_cast<const T *>(g->x.data);
    T *y = static_cast<T *>(g->y.data), *too = static_cast<T *>(g->x_too.data);
    const uint32_t n = g->x.n;
    if (way == ANY) return launch(norm_any<T>, dim3(a.groups, n), THREADS, 0, stream, x, y, too, a);
    if (way == WHOLE) {
        a.s = spread_over(slab * a.width, a.width, vector_of<T>);
        return launch(norm_whole<T, HOW>, dim3(a.groups / slab, n), THREADS,
                      (size_t)a.pixels * slab * a.width * sizeof(T), stream, x, y, too, a);
    }
    a.s = spread_over(a.c, a.width, vector_of<T>);
    int e = launch(norm_partial<T>, dim3(a.chunks, n), THREADS, 0, stream, x, a);
    if (e) return e;
    return launch(norm_apply<T, HOW>, dim3(blocks_of(a.steps, a.apply_steps), n), THREADS, 0,
                  stream, x, y, too, a);
}

} // namespace

extern "C" size_t gpu_norm_scratch(const struct tensor *x, uint32_t groups)
{
    uint32_t slab;
    if (way_of(x, groups, &slab) != PARTIAL_APPLY) return 0;
    const size_t chunks = blocks_of(x->h * x->w, partial_chunk(x));
    return x->n * groups * (2 * chunks + 1);
}

extern "C" int gpu_group_norm(const struct gpu_norm *g, void *stream)
{
    norm_args a = {};
    a.pixels = g->x.h * g->x.w;
    a.c = g->x.c;
    a.groups = g->groups;
    a.width = g->x.c / g->groups;
    const bool is_up = g->resample == RESAMPLE_UP, is_down = g->resample == RESAMPLE_DOWN;
    const struct tensor *small = is_down ? &g->y : &g->x;
    a.y_pixels = g->y.h * g->y.w;
    a.steps = small->h * small->w;
    a.small_w = small->w;
    a.x_ld = g->x.ld;
    a.y_ld = g->y.ld;
    a.too_ld = g->x_too.ld;
    a.eps = g->eps;
    a.silu = g->silu;
    a.how = g->resample;
    a.gamma = g->gamma;
    a.beta = g->beta;
    a.scale_shift = g->scale_shift;
    a.scale_shift_ld = g->scale_shift_ld;
    a.condition = g->condition;
    a.mean_rstd = g->mean_rstd;
    if (g->x.n == 0 || a.pixels == 0) return cudaSuccess;

    uint32_t slab = 0;
    enum way way = way_of(&g->x, g->groups, &slab);
    /* The layout of x and y may be worse than the shape alone allows; then the scratch stays
     * unused. */
    const uint32_t vector = VECTOR_BYTES / (uint32_t)dtype_bytes(g->x.dtype);
    if (!can_vector(&g->x, 0, a.c, vector) || !can_vector(&g->y, 0, a.c, vector) ||
        (g->x_too.data && !can_vector(&g->x_too, 0, a.c, vector)))
        way = ANY;
    if (way == PARTIAL_APPLY) {
        a.chunk_pixels = partial_chunk(&g->x);
        a.chunks = blocks_of(a.pixels, a.chunk_pixels);
        /* Bytes read and written by a step, on average: of a norm alone, a pixel. */
        const size_t step_bytes =
            (size_t)(is_up || is_down ? 5 : 2) * a.c * dtype_bytes(g->x.dtype) / 2;
        size_t least = a.steps * step_bytes / APPLY_BLOCKS;
        if (least < APPLY_LEAST_BYTES) least = APPLY_LEAST_BYTES;
        if (least > APPLY_BYTES) least = APPLY_BYTES;
        a.apply_steps = blocks_of(least, step_bytes);
        a.partial = reinterpret_cast<float2 *>(g->scratch);
        a.shift = g->scratch + (size_t)2 * g->x.n * a.groups * a.chunks;
    }
    return with_type(g->x.dtype, [&](auto type) {
        typedef typename decltype(type)::type T;
        return is_up     ? run_norm<T, RESAMPLE_UP>(g, a, way, slab, stream)
               : is_down ? run_norm<T, RESAMPLE_DOWN>(g, a, way, slab, stream)
                         : run_norm<T, RESAMPLE_NONE>(g, a, way, slab, stream);
    });
}
