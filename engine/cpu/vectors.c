/* Embeddings, noise and the sampler's step; the table of this instruction set. */
#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"
#include "engine/graph/philox.h"

void ISA_FN(linear)(const float *weight, const float *bias, const float *x, float *y, uint32_t ic,
                    uint32_t oc, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (uint32_t o = 0; o < oc; o++) {
        vf sum = vsplat(0);
        for (size_t i = 0; i < ic; i += VEC)
            sum += vload(weight + (size_t)o * ic, i, ic - i, false) * vload(x, i, ic - i, false);
        float total = 0;
        for (int l = 0; l < VEC; l++)
            total += sum[l];
        y[o] = total + bias[o];
    }
}

void ISA_FN(silu)(const float *x, float *y, size_t count)
{
    for (size_t i = 0; i < count; i += VEC)
        vstore(y, i, count - i, vsilu(vload(x, i, count - i, false)), false);
}

void ISA_FN(add)(const float *x, const float *e, float *y, size_t count)
{
    for (size_t i = 0; i < count; i += VEC)
        vstore(y, i, count - i, vload(x, i, count - i, false) + vload(e, i, count - i, false),
               false);
}

/* ln u for 0 < u <= 1, a normal number. */
INLINE vf vlog(vf u)
{
    vi bits = (vi)u, e = (bits >> 23) - 126;
    vf m = (vf)((bits & 0x7fffff) | 0x3f000000); /* [1/2, 1) */
    vi low = m < 0.70710678f;
    m = vselect(low, m + m, m) - 1.0f;
    vf n = __builtin_convertvector(e + low, vf), z = m * m;
    vf p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z - 0.5f * z + n * -2.12194440e-4f;
    return m + p + n * 0.693359375f;
}

INLINE vf vsqrt(vf x)
{
    vf y = x;
    for (int i = 0; i < VEC; i++)
        y[i] = __builtin_sqrtf(x[i]);
    return y;
}

INLINE vf unit(vu word)
{
    return (__builtin_convertvector((vi)(word >> 9), vf) + 0.5f) * (1.0f / 8388608.0f);
}

/* cos and sin of 2 pi u: the nearest quarter turn is subtracted exactly. */
INLINE void vsincos(vf u, vf *sine, vf *cosine)
{
    vf quarter = vround(u * 4.0f), r = (u - 0.25f * quarter) * 6.28318530717958647692f, z = r * r;
    vf s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    vf c =
        ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
        0.5f * z + 1.0f;
    vi turn = __builtin_convertvector(quarter, vi);
    vi swap = (turn & 1) != 0;
    vf a = vselect(swap, c, s), b = vselect(swap, s, c);
    *sine = (vf)((vu)a ^ (((vu)turn & 2) << 30));
    *cosine = (vf)((vu)b ^ ((((vu)turn + 1) & 2) << 30));
}

/* One row of one channel: draws the words of VEC counters, then turns them into normals
 * together. */
static void normals_row(const struct normals_args *a, uint32_t row, uint32_t channel)
{
    float *dst = a->dst + (size_t)row * a->w * a->channels + channel;
    uint32_t key[2] = { (uint32_t)a->seed, (uint32_t)(a->seed >> 32) };
    uint64_t end = (uint64_t)a->x0 + a->w;
    for (uint64_t x = a->x0 / 4 * 4; x < end; x += 4 * VEC) {
        uint32_t words[4][VEC] = { { 0 } };
        float out[4][VEC];
        for (uint32_t l = 0; l < VEC && x + 4 * l < end; l++) {
            uint32_t counter[4] = { (uint32_t)(x / 4) + l, a->y0 + row, channel + 16 * a->stream,
                                    a->sample };
            uint32_t four[4];
            philox4x32_10(four, counter, key);
            for (int i = 0; i < 4; i++)
                words[i][l] = four[i];
        }
        for (int pair = 0; pair < 4; pair += 2) {
            vu w0, w1;
            memcpy(&w0, words[pair], sizeof w0);
            memcpy(&w1, words[pair + 1], sizeof w1);
            vf radius = vsqrt(-2.0f * vlog(unit(w0))), sine, cosine;
            vsincos(unit(w1), &sine, &cosine);
            vput(out[pair], radius * cosine);
            vput(out[pair + 1], radius * sine);
        }
        for (uint32_t i = 0; i < 4 * VEC; i++)
            if (x + i >= a->x0 && x + i < end)
                dst[(size_t)(x + i - a->x0) * a->channels] = out[i % 4][i / 4];
    }
}

void ISA_FN(normals)(const struct normals_args *a, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (uint32_t y = 0; y < a->h; y++)
        for (uint32_t c = 0; c < a->channels; c++)
            normals_row(a, y, c);
}

void ISA_FN(sampler_in)(const float *y_in, const float *z, float hz, float *x, size_t count,
                        int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < count; i += VEC)
        vstore(x, i, count - i,
               vload(y_in, i, count - i, false) + hz * vload(z, i, count - i, false), false);
}

void ISA_FN(sampler_join)(const float *y_in, const float *z, float hz, float *x, size_t pixels,
                          int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < 3; c++) {
            x[6 * i + c] = y_in[3 * i + c];
            x[6 * i + 3 + c] = hz * z[3 * i + c];
        }
}

/* Images are packed into groups of VEC numbers, since their pixels have three channels. */
void ISA_FN(sampler_out)(const struct tensor *x, const struct tensor *eps, float std, bool linear,
                         const struct tensor *x0, int threads)
{
    size_t count = (size_t)x->n * x->h * x->w * 3;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t first = 0; first < count; first += VEC) {
        size_t n = count - first < VEC ? count - first : VEC;
        float v[VEC] = { 0 };
        for (size_t i = 0; i < n; i++) {
            size_t pixel = (first + i) / 3, c = (first + i) % 3;
            v[i] = ((const float *)x->data)[pixel * x->ld + c] -
                   std * ((const float *)eps->data)[pixel * eps->ld + c];
        }
        if (linear) {
            for (size_t i = 0; i < n; i++) /* a NaN stays a NaN: the caller checks for it */
                v[i] = v[i] < -1 ? -1 : v[i] > 1 ? 1 : v[i];
        } else {
            vf twice = 2.0f * vget(v);
            twice = vselect(twice > 40.0f, vsplat(40.0f), twice);
            vput(v, 1.0f - 2.0f / (vexp(twice) + 1.0f));
        }
        for (size_t i = 0; i < n; i++)
            ((float *)x0->data)[(first + i) / 3 * x0->ld + (first + i) % 3] = v[i];
    }
}

const struct kernels *ISA_FN(cpu_kernels)(void)
{
    static const struct kernels table = {
        .nr = NR,
        .vec = VEC,
        .conv_direct = ISA_FN(conv_direct),
        .conv_winograd = ISA_FN(conv_winograd),
#ifdef __AVX512BF16__
        .conv_bf16 = ISA_FN(conv_bf16),
#endif
        .group_norm = ISA_FN(group_norm),
        .moments = ISA_FN(moments),
        .norm_constants = ISA_FN(norm_constants),
        .attention = ISA_FN(attention),
        .copy = ISA_FN(copy),
        .upsample = ISA_FN(upsample),
        .downsample = ISA_FN(downsample),
        .patch = ISA_FN(patch),
        .linear = ISA_FN(linear),
        .silu = ISA_FN(silu),
        .add = ISA_FN(add),
        .normals = ISA_FN(normals),
        .sampler_in = ISA_FN(sampler_in),
        .sampler_join = ISA_FN(sampler_join),
        .sampler_out = ISA_FN(sampler_out),
    };
    return &table;
}
