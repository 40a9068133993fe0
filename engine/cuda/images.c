/* Images in the device's memory: engine/graph/backend/images.h by the kernels of our own. Shapes are engine/davi's, and checked there. */
#include "engine/cuda/internal.h"

/* A sixteenth of the device, and never more than some thousand images of 256x256 need. */
enum { ROOM_SHARE = 16, ROOM_MOST_MIB = 512 };

static size_t pool_bytes(struct backend *b)
{
    const size_t most = (size_t)ROOM_MOST_MIB << 20,
                 share = cuda_of(b)->gpu.total_bytes / ROOM_SHARE;
    return share < most ? share : most;
}

/* One launcher of kernels.h and its arguments, on the computing stream. */
#define LAUNCH(b, what, err, launcher, ...)                                                        \
    struct gpu *g = &cuda_of(b)->gpu;                                                              \
    enum status s = gpu_enter(g, err);                                                             \
    return s ? s : gpu_check(g, launcher(__VA_ARGS__, g->stream), what, err)

static enum status clear(struct backend *b, void *p, size_t bytes, struct error *err)
{
    LAUNCH(b, "clearing a image", err, (int)cudaMemsetAsync, p, 0, bytes);
}

static enum status extract(struct backend *b, const struct extract_args *a, struct error *err)
{
    LAUNCH(b, "cutting a tile", err, gpu_extract, a);
}

static enum status find_bad(struct backend *b, const float *x, uint32_t n, size_t count,
                            uint32_t *bad, struct error *err)
{
    LAUNCH(b, "looking through tiles", err, gpu_find_bad, x, n, count, bad);
}

static enum status blend(struct backend *b, const struct blend_args *a, struct error *err)
{
    LAUNCH(b, "blending a tile", err, gpu_blend, a);
}

static enum status accumulate(struct backend *b, int64_t *acc, int64_t *sum, int64_t *sum2,
                              size_t count, struct error *err)
{
    LAUNCH(b, "folding a sample", err, gpu_accumulate, acc, sum, sum2, count);
}

static enum status mean(struct backend *b, const struct finished *f, float *x, struct error *err)
{
    LAUNCH(b, "a mean", err, gpu_mean, f, x);
}

static enum status levels(struct backend *b, const struct finished *f, uint32_t depth, void *pixels,
                          struct error *err)
{
    LAUNCH(b, "rounding a image", err, gpu_round, f, depth, pixels);
}

static enum status deviation(struct backend *b, const struct finished *f, double *largest,
                             uint8_t *pixels, struct error *err)
{
    LAUNCH(b, "a deviation", err, gpu_deviation, f, largest, pixels);
}

static enum status operate(struct backend *b, const struct operator_args *a, struct error *err)
{
    LAUNCH(b, "an operator", err, gpu_operator, a);
}

static enum status residual(struct backend *b, const struct residual_args *a, struct error *err)
{
    LAUNCH(b, "a residual", err, gpu_residual, a);
}

const struct image_ops cuda_images = {
    .operators = GPU_OPERATORS,
    .pool_bytes = pool_bytes,
    .clear = clear,
    .extract = extract,
    .find_bad = find_bad,
    .blend = blend,
    .accumulate = accumulate,
    .mean = mean,
    .round = levels,
    .deviation = deviation,
    .operate = operate,
    .residual_scratch = gpu_residual_scratch,
    .residual = residual,
};
