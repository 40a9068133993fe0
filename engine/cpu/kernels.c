/* Own loops of the CPU back end; see kernels.h. KERNELS names the table, ISA_NAME the instruction set. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* e^x by 2^n * p(r), |r| <= ln2/2: within 2e-7 relative, and a loop of it vectorises. */
static inline float exp_of(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float n = (x * 1.44269504088896341f + shift) - shift;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t i;
        float f;
    } scale = { .i = ((int32_t)n + 127) << 23 };
    return p * scale.f;
}

static inline float silu_of(float x)
{
    return x / (1.0f + exp_of(-x));
}

/* Sums and sums of squares per channel over one chunk of pixels. A short run is summed in F32, runs in double. */
static void chunk_sums(const struct tensor *x, uint32_t image, int chunk, double *sums)
{
    enum { RUN = 32, BLOCK = 64 };
    size_t pixels = (size_t)x->h * x->w;
    size_t first = pixels * (size_t)chunk / NORM_CHUNKS;
    size_t end = pixels * (size_t)(chunk + 1) / NORM_CHUNKS;
    memset(sums, 0, 2 * sizeof *sums * x->c);
    for (uint32_t c0 = 0; c0 < x->c; c0 += BLOCK) {
        uint32_t block = x->c - c0 < BLOCK ? x->c - c0 : BLOCK;
        for (size_t p = first; p < end; p += RUN) {
            float s[BLOCK] = { 0 }, q[BLOCK] = { 0 };
            size_t last = p + RUN < end ? p + RUN : end;
            for (size_t i = p; i < last; i++) {
                const float *v = cpu_pixel(x, image, i) + c0;
                for (uint32_t c = 0; c < block; c++) {
                    s[c] += v[c];
                    q[c] += v[c] * v[c];
                }
            }
            for (uint32_t c = 0; c < block; c++) {
                sums[c0 + c] += (double)s[c];
                sums[x->c + c0 + c] += (double)q[c];
            }
        }
    }
}

/* y = x * affine[c] + affine[C + c] for every channel. */
static void affine_of(const struct group_norm_args *a, uint32_t image, const double *sums,
                      float *affine)
{
    uint32_t c = a->x.c, width = c / a->groups, set = a->set ? a->set[image] : 0;
    const float *gamma = a->gamma + (size_t)set * c, *beta = a->beta + (size_t)set * c;
    const float *scale = a->scale_shift ? cpu_pixel(a->scale_shift, image, 0) : NULL;
    double count = (double)a->x.h * a->x.w * width;
    for (uint32_t g = 0; g < a->groups; g++) {
        double sum = 0, square = 0;
        for (int chunk = 0; chunk < NORM_CHUNKS; chunk++)
            for (uint32_t i = g * width; i < (g + 1) * width; i++) {
                sum += sums[(size_t)chunk * 2 * c + i];
                square += sums[(size_t)chunk * 2 * c + c + i];
            }
        double mean = sum / count, variance = square / count - mean * mean;
        double rstd = 1.0 / sqrt((variance > 0 ? variance : 0) + (double)a->eps);
        for (uint32_t i = g * width; i < (g + 1) * width; i++) {
            double k = rstd * (double)gamma[i], b = (double)beta[i] - mean * k;
            if (scale) {
                k *= 1.0 + (double)scale[i];
                b = b * (1.0 + (double)scale[i]) + (double)scale[c + i];
            }
            affine[i] = (float)k;
            affine[c + i] = (float)b;
        }
    }
}

static void group_norm(const struct group_norm_args *a, uint32_t image, double *sums, float *affine,
                       int threads)
{
    uint32_t c = a->x.c;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < NORM_CHUNKS; chunk++)
        chunk_sums(&a->x, image, chunk, sums + (size_t)chunk * 2 * c);
    affine_of(a, image, sums, affine);
    const float *k = affine, *b = affine + c;
    size_t pixels = (size_t)a->x.h * a->x.w;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t p = 0; p < pixels; p++) {
        const float *x = cpu_pixel(&a->x, image, p);
        float *y = cpu_pixel(&a->y, image, p);
        if (a->silu)
            for (uint32_t i = 0; i < c; i++)
                y[i] = silu_of(x[i] * k[i] + b[i]);
        else
            for (uint32_t i = 0; i < c; i++)
                y[i] = x[i] * k[i] + b[i];
    }
}

static void attention(const float *q, const float *k, const float *v, size_t qkv_ld, float *y,
                      size_t y_ld, uint32_t pixels, uint32_t channels, float *kt, float *scores,
                      int threads)
{
    float scale = 1.0f / sqrtf((float)channels);
#pragma omp parallel num_threads(threads)
    {
        float *restrict s = scores + (size_t)omp_get_thread_num() * pixels;
#pragma omp for schedule(static)
        for (uint32_t c = 0; c < channels; c++)
            for (uint32_t j = 0; j < pixels; j++)
                kt[(size_t)c * pixels + j] = k[j * qkv_ld + c] * scale;
#pragma omp for schedule(static)
        for (uint32_t i = 0; i < pixels; i++) {
            memset(s, 0, sizeof *s * pixels);
            for (uint32_t c = 0; c < channels; c++) {
                float qc = q[i * qkv_ld + c];
                const float *restrict row = kt + (size_t)c * pixels;
                for (uint32_t j = 0; j < pixels; j++)
                    s[j] += qc * row[j];
            }
            float top = s[0], sum = 0;
            for (uint32_t j = 1; j < pixels; j++)
                top = s[j] > top ? s[j] : top;
            for (uint32_t j = 0; j < pixels; j++)
                s[j] = exp_of(s[j] - top);
            for (uint32_t j = 0; j < pixels; j++)
                sum += s[j];
            float *restrict out = y + i * y_ld;
            memset(out, 0, sizeof *out * channels);
            for (uint32_t j = 0; j < pixels; j++)
                for (uint32_t c = 0; c < channels; c++)
                    out[c] += s[j] * v[j * qkv_ld + c];
            for (uint32_t c = 0; c < channels; c++)
                out[c] /= sum;
        }
    }
}

static void upsample(const struct tensor *x, const struct tensor *y, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t row = 0; row < (size_t)y->n * y->h; row++) {
        const float *src = (const float *)x->data + row / 2 * x->w * x->ld;
        float *dst = (float *)y->data + row * y->w * y->ld;
        for (uint32_t i = 0; i < y->w; i++)
            memcpy(dst + i * y->ld, src + i / 2 * x->ld, sizeof *dst * y->c);
    }
}

static void downsample(const struct tensor *x, const struct tensor *y, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t row = 0; row < (size_t)y->n * y->h; row++) {
        const float *top = (const float *)x->data + 2 * row * x->w * x->ld;
        const float *low = top + x->w * x->ld;
        float *dst = (float *)y->data + row * y->w * y->ld;
        for (uint32_t i = 0; i < y->w; i++)
            for (uint32_t c = 0; c < y->c; c++)
                dst[i * y->ld + c] =
                    0.25f * (top[2 * i * x->ld + c] + top[(2 * i + 1) * x->ld + c] +
                             low[2 * i * x->ld + c] + low[(2 * i + 1) * x->ld + c]);
    }
}

static void copy(const struct tensor *x, const struct tensor *y, int threads)
{
    size_t pixels = (size_t)x->n * x->h * x->w;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t p = 0; p < pixels; p++)
        memcpy(cpu_pixel(y, 0, p), cpu_pixel(x, 0, p), sizeof(float) * x->c);
}

static void add_channel(const struct tensor *x, const struct tensor *e, const struct tensor *y,
                        int threads)
{
    for (uint32_t n = 0; n < x->n; n++) {
        const float *add = cpu_pixel(e, n, 0);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (size_t p = 0; p < (size_t)x->h * x->w; p++)
            for (uint32_t c = 0; c < x->c; c++)
                cpu_pixel(y, n, p)[c] = cpu_pixel(x, n, p)[c] + add[c];
    }
}

static void silu(const float *x, float *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] = silu_of(x[i]);
}

static void linear(const float *x, const float *weight, const float *bias, float *y, uint32_t ic,
                   uint32_t oc)
{
    memcpy(y, bias, sizeof *y * oc);
    for (uint32_t i = 0; i < ic; i++)
        for (uint32_t o = 0; o < oc; o++)
            y[o] += x[i] * weight[(size_t)i * oc + o];
}

/* Philox4x32-10 (Salmon et al., SC 2011); the layout of counters is in engine/README.md section 3. */
static void philox(uint32_t counter[4], uint64_t seed)
{
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0], c = (uint64_t)0xCD9E8D57u * counter[2];
        counter[0] = (uint32_t)(c >> 32) ^ counter[1] ^ key0;
        counter[1] = (uint32_t)c;
        counter[2] = (uint32_t)(a >> 32) ^ counter[3] ^ key1;
        counter[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

static void box_muller(uint32_t r0, uint32_t r1, float out[2])
{
    double u0 = ((double)(r0 >> 9) + 0.5) * 0x1p-23, u1 = ((double)(r1 >> 9) + 0.5) * 0x1p-23;
    double radius = sqrt(-2.0 * log(u0)), angle = 6.283185307179586477 * u1;
    out[0] = (float)(radius * cos(angle));
    out[1] = (float)(radius * sin(angle));
}

static void normals(const struct normals_args *a, int threads)
{
    uint32_t end = a->x0 + a->w;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (uint32_t y = 0; y < a->h; y++)
        for (uint32_t c = 0; c < a->channels; c++)
            for (uint32_t x4 = a->x0 / 4 * 4; x4 < end; x4 += 4) {
                uint32_t words[4] = { x4 / 4, a->y0 + y, c + 16 * a->stream, a->sample };
                float four[4];
                philox(words, a->seed);
                box_muller(words[0], words[1], four);
                box_muller(words[2], words[3], four + 2);
                for (uint32_t i = 0; i < 4; i++)
                    if (x4 + i >= a->x0 && x4 + i < end)
                        a->dst[((size_t)y * a->w + (x4 + i - a->x0)) * a->channels + c] = four[i];
            }
}

static void sampler_in(const float *y_in, const float *z, float hz, float *x, size_t count,
                       int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < count; i++)
        x[i] = y_in[i] + hz * z[i];
}

static void sampler_out(const struct tensor *x, const struct tensor *eps, float std,
                        const struct tensor *x0, int threads)
{
    size_t pixels = (size_t)x->n * x->h * x->w;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t p = 0; p < pixels; p++)
        for (uint32_t c = 0; c < 3; c++)
            cpu_pixel(x0, 0, p)[c] = tanhf(cpu_pixel(x, 0, p)[c] - std * cpu_pixel(eps, 0, p)[c]);
}

extern const struct cpu_kernels KERNELS;
const struct cpu_kernels KERNELS = {
    .isa = ISA_NAME,
    .group_norm = group_norm,
    .attention = attention,
    .upsample = upsample,
    .downsample = downsample,
    .copy = copy,
    .add_channel = add_channel,
    .silu = silu,
    .linear = linear,
    .normals = normals,
    .sampler_in = sampler_in,
    .sampler_out = sampler_out,
};
