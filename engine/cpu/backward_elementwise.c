/* Gradients that read a feature map or an embedding once, the optimiser's loops, and the table of
 * this instruction set. */
#include <math.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/sigmoid.h"

/* Calls `loop` with the dtypes as constants. */
#define BY_DTYPE(job, loop, i)                                                                     \
    do {                                                                                           \
        if ((job)->from == DT_BF16) {                                                              \
            if ((job)->to == DT_BF16)                                                              \
                loop(job, i, true, true);                                                          \
            else                                                                                   \
                loop(job, i, true, false);                                                         \
        } else {                                                                                   \
            if ((job)->to == DT_BF16)                                                              \
                loop(job, i, false, true);                                                         \
            else                                                                                   \
                loop(job, i, false, false);                                                        \
        }                                                                                          \
    } while (0)

INLINE void give(const struct elementwise_job *j, size_t pixel, size_t c, vf v, bool to)
{
    size_t at = pixel * j->y_ld + c;
    if (j->add) v += vload(j->y, at, j->c - c, to);
    vstore(j->y, at, j->c - c, v, to);
}

INLINE void copy_into_pixel(const struct elementwise_job *j, size_t i, bool from, bool to)
{
    for (size_t c = 0; c < j->c; c += VEC)
        give(j, i, c, vload(j->x, i * j->x_ld + c, j->c - c, from), to);
}

static void copy_into(const struct elementwise_job *j)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->n * j->h * j->w; i++)
        BY_DTYPE(j, copy_into_pixel, i);
}

/* The first of the four pixels that correspond to pixel i of the smaller feature map. */
INLINE size_t first_of_four(const struct elementwise_job *j, size_t i)
{
    size_t row = i / j->w, x = i % j->w; /* over the rows of all feature maps, stacked */
    return row * 2 * (2 * (size_t)j->w) + 2 * x;
}

INLINE void upsample_pixel(const struct elementwise_job *j, size_t i, bool from, bool to)
{
    size_t top = first_of_four(j, i) * j->x_ld, below = top + 2 * (size_t)j->w * j->x_ld;
    for (size_t c = 0; c < j->c; c += VEC) {
        size_t n = j->c - c;
        vf v = vload(j->x, top + c, n, from) + vload(j->x, top + j->x_ld + c, n, from);
        v += vload(j->x, below + c, n, from) + vload(j->x, below + j->x_ld + c, n, from);
        give(j, i, c, v, to);
    }
}

static void upsample(const struct elementwise_job *j)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->n * j->h * j->w; i++)
        BY_DTYPE(j, upsample_pixel, i);
}

INLINE void downsample_pixel(const struct elementwise_job *j, size_t i, bool from, bool to)
{
    size_t top = first_of_four(j, i);
    for (size_t c = 0; c < j->c; c += VEC) {
        vf v = 0.25f * vload(j->x, i * j->x_ld + c, j->c - c, from);
        for (size_t k = 0; k < 4; k++)
            give(j, top + k / 2 * 2 * j->w + k % 2, c, v, to);
    }
}

static void downsample(const struct elementwise_job *j)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->n * j->h * j->w; i++)
        BY_DTYPE(j, downsample_pixel, i);
}

/* x where `sign` is positive, slope x elsewhere. */
INLINE void leaky_pixel(const struct elementwise_job *j, size_t i, bool from, bool to)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        vf v = vload(j->x, i * j->x_ld + c, j->c - c, from);
        vf sign = vload(j->sign, i * j->sign_ld + c, j->c - c, from);
        give(j, i, c, vselect(sign > 0.0f, v, j->slope * v), to);
    }
}

static void leaky_relu(const struct elementwise_job *j)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < (size_t)j->n * j->h * j->w; i++)
        BY_DTYPE(j, leaky_pixel, i);
}

/* Sums of chunk k of the pixels of row n. */
INLINE void sum_chunk(const struct elementwise_job *j, float *sums, size_t from, size_t to,
                      bool bf16)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        vf s = vsplat(0);
        for (size_t i = from; i < to; i++)
            s += vload(j->x, i * j->x_ld + c, j->c - c, bf16);
        vput(sums + c, s);
    }
}

static void channel_sums(const struct elementwise_job *j, float *scratch)
{
    size_t ld = ((size_t)j->c + 15) / 16 * 16, pixels = (size_t)j->h * j->w;
    size_t chunks = pixels < BACKWARD_CHUNKS ? 1 : BACKWARD_CHUNKS;
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t k = 0; k < j->n * chunks; k++) {
        size_t first = k / chunks * pixels, from = first + k % chunks * pixels / chunks;
        size_t to = first + (k % chunks + 1) * pixels / chunks;
        if (j->from == DT_BF16)
            sum_chunk(j, scratch + k * ld, from, to, true);
        else
            sum_chunk(j, scratch + k * ld, from, to, false);
    }
    for (uint32_t n = 0; n < j->n; n++)
        for (size_t c = 0; c < j->c; c++) {
            double sum = 0;
            for (size_t k = 0; k < chunks; k++)
                sum += (double)scratch[(n * chunks + k) * ld + c];
            float *to = (float *)j->y + n * j->y_ld + c;
            *to = j->add ? *to + (float)sum : (float)sum;
        }
}

/* Here x is dy, and y is dx. */
static void silu_gradient(const struct elementwise_job *j, const float *x, size_t ld)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (uint32_t n = 0; n < j->n; n++)
        for (size_t c = 0; c < j->c; c += VEC) {
            vf u = vload(x, n * ld + c, j->c - c, false);
            vf s = vsigmoid(u);
            vf g = vload(j->x, n * j->x_ld + c, j->c - c, false);
            give(j, n, c, g * s * (1.0f + u * (1.0f - s)), false);
        }
}

/* ---- linear ---- */

static void linear_weights(const struct linear_gradient_job *j, uint32_t o)
{
    float total = 0;
    for (uint32_t n = 0; n < j->n; n++)
        total += j->dy[n * j->dy_ld + o];
    if (j->dbias) j->dbias[o] += total;
    for (size_t i = 0; j->dweight && i < j->ic; i += VEC) {
        size_t left = j->ic - i, at = (size_t)o * j->ic + i;
        vf sum = vload(j->dweight, at, left, false);
        for (uint32_t n = 0; n < j->n; n++)
            sum += j->dy[n * j->dy_ld + o] * vload(j->x, n * j->x_ld + i, left, false);
        vstore(j->dweight, at, left, sum, false);
    }
}

static void linear_data(const struct linear_gradient_job *j, size_t i, uint32_t n)
{
    size_t left = j->ic - i, at = n * j->dx_ld + i;
    vf sum = vsplat(0);
    for (size_t o = 0; o < j->oc; o++)
        sum += j->dy[n * j->dy_ld + o] * vload(j->weight, o * j->ic + i, left, false);
    if (j->add) sum += vload(j->dx, at, left, false);
    vstore(j->dx, at, left, sum, false);
}

static void linear(const struct linear_gradient_job *j)
{
    size_t vectors = (j->ic + VEC - 1) / VEC;
#pragma omp parallel num_threads(j->threads)
    {
        if (j->dx) {
#pragma omp for schedule(static) nowait
            for (size_t i = 0; i < vectors * j->n; i++)
                linear_data(j, i / j->n * VEC, (uint32_t)(i % j->n));
        }
        if (j->dweight || j->dbias) {
#pragma omp for schedule(static)
            for (uint32_t o = 0; o < j->oc; o++)
                linear_weights(j, o);
        }
    }
}

/* ---- the optimiser: the arrays are padded to whole vectors ---- */

INLINE vf vroot(vf x)
{
    vf y = x;
    for (int i = 0; i < VEC; i++)
        y[i] = __builtin_sqrtf(x[i]);
    return y;
}

static void adamw(const struct adamw_args *a, int threads)
{
    float unbias2 = (float)(1.0 / (1.0 - pow(a->beta2, (double)a->step)));
    float step = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
    float keep = (float)(1.0 - a->lr * a->weight_decay), eps = (float)a->eps;
    float b1 = (float)a->beta1, b2 = (float)a->beta2;
    float g1 = (float)(1.0 - a->beta1), g2 = (float)(1.0 - a->beta2);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < a->count; i += VEC) {
        size_t n = a->count - i;
        vf g = vload(a->gradient, i, n, false);
        vf m = b1 * vload(a->m, i, n, false) + g1 * g;
        vf v = b2 * vload(a->v, i, n, false) + g2 * (g * g);
        vf p = keep * vload(a->param, i, n, false) - step * m / (vroot(v * unbias2) + eps);
        vstore(a->m, i, n, m, false);
        vstore(a->v, i, n, v, false);
        vstore(a->param, i, n, p, false);
    }
}

static void average(float *mean, const float *x, size_t count, float decay, int threads)
{
    float rest = (float)(1.0 - (double)decay);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < count; i += VEC)
        vstore(mean, i, count - i,
               decay * vload(mean, i, count - i, false) + rest * vload(x, i, count - i, false),
               false);
}

static void scale(float *x, size_t count, float by, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < count; i += VEC)
        vstore(x, i, count - i, by * vload(x, i, count - i, false), false);
}

/* Pieces of a fixed size, added in order; scratch: one double per piece. */
static double sum_squares(const float *x, size_t count, double *scratch, int threads)
{
    size_t pieces = (count + SQUARES_PIECE - 1) / SQUARES_PIECE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t k = 0; k < pieces; k++) {
        size_t end = (k + 1) * SQUARES_PIECE < count ? (k + 1) * SQUARES_PIECE : count;
        vf sum = vsplat(0);
        for (size_t i = k * SQUARES_PIECE; i < end; i += VEC) {
            vf v = vload(x, i, end - i, false);
            sum += v * v;
        }
        double total = 0;
        for (int l = 0; l < VEC; l++)
            total += (double)sum[l];
        scratch[k] = total;
    }
    double total = 0;
    for (size_t k = 0; k < pieces; k++)
        total += scratch[k];
    return total;
}

/* ---- weights of convolutions: on the tile registers where the set has them and the feature maps
 * are BF16; else, of large feature maps, by Winograd ---- */

static size_t weights_scratch(const struct trained_conv_desc *d, int threads)
{
#ifdef __AMX_BF16__
    if (d->dtype == DT_BF16) return ISA_FN(weights_amx_scratch)(d, threads);
#endif
    if (ISA_FN(weights_takes_winograd)(d)) return ISA_FN(weights_winograd_scratch)(d, threads);
    return ISA_FN(weights_scratch)(d, threads);
}

static void weights(const struct weights_job *j)
{
#ifdef __AMX_BF16__
    if (j->d->dtype == DT_BF16) {
        ISA_FN(weights_amx)(j);
        return;
    }
#endif
    if (ISA_FN(weights_takes_winograd)(j->d))
        ISA_FN(weights_winograd)(j);
    else
        ISA_FN(weights)(j);
}

const struct gradient_kernels *ISA_FN(cpu_gradient_kernels)(void)
{
    static const struct gradient_kernels table = {
        .vec = VEC,
        .mr = MR,
        .nr = NR,
        .weights_scratch = weights_scratch,
        .attention_scratch = ISA_FN(attention_gradient_scratch),
        .im2col = ISA_FN(im2col),
#ifdef __AMX_BF16__
        .im2col_amx = ISA_FN(im2col_amx),
        .im2col_amx_scratch = ISA_FN(im2col_amx_scratch),
#endif
        .weights = weights,
        .pack = ISA_FN(pack_weights),
        .group_norm = ISA_FN(trained_group_norm),
        .group_norm_gradient = ISA_FN(group_norm_gradient),
        .attention = ISA_FN(attention_gradient),
        .linear = linear,
        .batch_sums = ISA_FN(batch_sums),
        .batch_apply = ISA_FN(batch_apply),
        .silu = silu_gradient,
        .copy_into = copy_into,
        .upsample = upsample,
        .downsample = downsample,
        .leaky_relu = leaky_relu,
        .channel_sums = channel_sums,
        .adamw = adamw,
        .average = average,
        .scale = scale,
        .sum_squares = sum_squares,
    };
    return &table;
}
