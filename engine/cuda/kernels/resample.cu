/* Elementwise kernels over images: resampling, cells of pixels, copies that convert, concatenate
 * and add. Each number is read once and written once. A thread has a vector of channels of one
 * pixel; adjacent threads have adjacent vectors. */
#include "engine/cuda/kernels/resample.cuh"

namespace
{

enum { THREADS = 256 };

/* Of the smaller image where there are two sizes. */
struct layout {
    uint32_t w, pixels, columns; /* columns: vectors of a pixel */
    size_t x_ld, y_ld;
    size_t x_row, y_row; /* elements of a row of the batch */
};

static struct layout layout_of(const struct tensor *x, const struct tensor *y,
                               const struct tensor *small, uint32_t columns)
{
    struct layout k = { small->w,
                        small->h * small->w,
                        columns,
                        x->ld,
                        y->ld,
                        x->h * (size_t)x->w * x->ld,
                        y->h * (size_t)y->w * y->ld };
    return k;
}

static dim3 grid_of(const layout &k, uint32_t n)
{
    return dim3(blocks_of((uint64_t)k.pixels * k.columns, THREADS), n);
}

/* ---- resampling ---- */

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) upsample(const T *x, T *y, layout k)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, p = i / k.columns,
                   column = i % k.columns;
    if (p >= k.pixels) return;
    float v[N];
    load(v, x + blockIdx.y * k.x_row + p * k.x_ld + column * N);
    store_four(y + blockIdx.y * k.y_row + column * N, p, k.w, k.y_ld, v);
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) downsample(const T *x, T *y, layout k)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, p = i / k.columns,
                   column = i % k.columns;
    if (p >= k.pixels) return;
    const T *from = x + blockIdx.y * k.x_row + column * N + first_of_four(p, k.w) * k.x_ld;
    float a[N], b[N], c[N], d[N];
    load(a, from);
    load(b, from + k.x_ld);
    load(c, from + 2 * k.w * k.x_ld);
    load(d, from + (2 * k.w + 1) * k.x_ld);
    mean_of_four(a, a, b, c, d);
    store(y + blockIdx.y * k.y_row + p * k.y_ld + column * N, a);
}

static int resampled(const struct tensor *x, const struct tensor *y, bool up, void *stream)
{
    return with_type(x->dtype, [&](auto type) {
        typedef typename decltype(type)::type T;
        constexpr int V = vector_of<T>;
        const T *from = static_cast<const T *>(x->data);
        T *to = static_cast<T *>(y->data);
        const bool vector = can_vector(x, 0, x->c, V) && can_vector(y, 0, x->c, V);
        const layout k = layout_of(x, y, up ? x : y, vector ? x->c / V : x->c);
        auto kernel = up ? (vector ? upsample<T, V> : upsample<T, 1>)
                         : (vector ? downsample<T, V> : downsample<T, 1>);
        return launch(kernel, grid_of(k, x->n), THREADS, 0, stream, from, to, k);
    });
}

/* ---- cells of pixels ---- */

/* The numbers of a cell form runs that are contiguous in the image of pixels too: a line of the
 * cell where pixels are contiguous, else a pixel. They are moved unchanged, whatever their type, in
 * words as wide as both images allow; lengths and distances are in words. */
struct permutation {
    /* Cells on a line and in a row of the batch; patch: side of a cell in px. */
    uint32_t w, cells, patch;
    uint32_t across, run; /* runs on a line of a cell; words of a run */
    uint32_t words;       /* of a cell */
    size_t step, cell_ld; /* between runs of the pixels; between cells */
    bool to_cells;
};

/* A warp's words are contiguous in the cells; in the pixels they are parts of a few lines. */
template <typename Word>
__global__ void __launch_bounds__(THREADS) permute(const Word *from, Word *to, permutation p)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, cell = i / p.words, at = i % p.words;
    if (cell >= p.cells) return;
    const uint32_t run = at / p.run, y = cell / p.w * p.patch + run / p.across;
    const size_t line = (size_t)blockIdx.y * (p.cells / p.w) * p.patch + y,
                 in_cells = ((size_t)blockIdx.y * p.cells + cell) * p.cell_ld + at,
                 in_pixels =
                     ((line * p.w + cell % p.w) * p.across + run % p.across) * p.step + at % p.run;
    put(to + (p.to_cells ? in_cells : in_pixels), get(from + (p.to_cells ? in_pixels : in_cells)));
}

template <typename Word>
static int run_permute(const void *from, void *to, permutation p, uint32_t n, void *stream)
{
    p.run /= sizeof(Word);
    p.words /= sizeof(Word);
    p.step /= sizeof(Word);
    p.cell_ld /= sizeof(Word);
    return launch(permute<Word>, dim3(blocks_of((uint64_t)p.cells * p.words, THREADS), n), THREADS,
                  0, stream, static_cast<const Word *>(from), static_cast<Word *>(to), p);
}

static int permuted(const struct tensor *pixels, const struct tensor *cells, bool to_cells,
                    void *stream)
{
    const uint32_t size = (uint32_t)dtype_bytes(cells->dtype), patch = pixels->h / cells->h;
    const bool is_tight = pixels->ld == pixels->c;
    const struct tensor *x = to_cells ? pixels : cells, *y = to_cells ? cells : pixels;
    permutation p = {};
    p.w = cells->w;
    p.cells = cells->h * cells->w;
    p.patch = patch;
    p.across = is_tight ? 1 : patch;
    p.run = (is_tight ? patch : 1) * pixels->c * size;
    p.words = cells->c * size;
    p.step = is_tight ? p.run : pixels->ld * size;
    p.cell_ld = cells->ld * size;
    p.to_cells = to_cells;
    const uint64_t all = p.run | p.step | p.cell_ld | (uintptr_t)x->data | (uintptr_t)y->data;
    auto run = all % 16 == 0  ? run_permute<uint4>
               : all % 8 == 0 ? run_permute<uint2>
               : all % 4 == 0 ? run_permute<uint32_t>
                              : run_permute<uint16_t>;
    return run(x->data, y->data, p, x->n, stream);
}

/* ---- copy ---- */

struct addend {
    const float *add;
    size_t ld;
    const uint32_t *condition;
};

template <typename From, typename To, int N>
__global__ void __launch_bounds__(THREADS)
    copy(const From *x, To *y, layout k, addend a, uint32_t c)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, p = i / k.columns,
                   column = i % k.columns;
    if (p >= k.pixels) return;
    float v[N] = {};
    if (N > 1 || column < c) {
        load(v, x + blockIdx.y * k.x_row + p * k.x_ld + column * N);
        if (a.add) {
            float e[N];
            load(e, a.add + (a.condition ? get(a.condition + blockIdx.y) : blockIdx.y) * a.ld +
                        column * N);
#pragma unroll
            for (int j = 0; j < N; j++)
                v[j] += e[j];
        }
    }
    store(y + blockIdx.y * k.y_row + p * k.y_ld + column * N, v);
}

template <typename From, typename To> static int run_copy(const struct gpu_copy *a, void *stream)
{
    constexpr int V = VECTOR_BYTES / (int)(sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
    const struct tensor *x = &a->x, *y = &a->y;
    const bool adds_vectors =
        !a->add || ((uintptr_t)a->add % VECTOR_BYTES == 0 && a->add_ld % 4 == 0);
    const bool vector = a->zeros == 0 && adds_vectors && can_vector(x, 0, x->c, V) &&
                        can_vector(y, a->first, x->c, V);
    const layout k = layout_of(x, y, x, vector ? x->c / V : x->c + a->zeros);
    const addend add = { a->add, a->add_ld, a->condition };
    return launch(vector ? copy<From, To, V> : copy<From, To, 1>, grid_of(k, x->n), THREADS, 0,
                  stream, static_cast<const From *>(x->data), static_cast<To *>(y->data) + a->first,
                  k, add, x->c);
}

} // namespace

extern "C" int gpu_upsample(const struct tensor *x, const struct tensor *y, void *stream)
{
    return resampled(x, y, true, stream);
}

extern "C" int gpu_downsample(const struct tensor *x, const struct tensor *y, void *stream)
{
    return resampled(x, y, false, stream);
}

extern "C" int gpu_space_to_depth(const struct tensor *x, const struct tensor *y, void *stream)
{
    return permuted(x, y, true, stream);
}

extern "C" int gpu_depth_to_space(const struct tensor *x, const struct tensor *y, void *stream)
{
    return permuted(y, x, false, stream);
}

extern "C" int gpu_copy(const struct gpu_copy *a, void *stream)
{
    return with_type(a->x.dtype, [&](auto from) {
        return with_type(a->y.dtype, [&](auto to) {
            return run_copy<typename decltype(from)::type, typename decltype(to)::type>(a, stream);
        });
    });
}
