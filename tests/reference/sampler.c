/* Noise and the one step of the sampler (engine/README.md section 3). */
#include <math.h>
#include <stdlib.h>

#include "tests/reference/reference.h"

/* Philox4x32-10 (Salmon et al., SC 2011): ten rounds, the key bumped between them. */
static void philox(uint32_t counter[4], uint64_t seed)
{
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0];
        uint64_t c = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next[4] = { (uint32_t)(c >> 32) ^ counter[1] ^ key0, (uint32_t)c,
                             (uint32_t)(a >> 32) ^ counter[3] ^ key1, (uint32_t)a };
        for (int i = 0; i < 4; i++)
            counter[i] = next[i];
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

static double uniform(uint32_t word)
{
    return ((double)(word >> 9) + 0.5) / 8388608.0;
}

static double normal_at(const struct normals_args *a, uint32_t y, uint32_t x, uint32_t channel)
{
    uint32_t words[4] = { x / 4, y, channel + 16 * a->stream, a->sample };
    philox(words, a->seed);
    const uint32_t *pair = words + (x % 4 < 2 ? 0 : 2);
    double radius = sqrt(-2.0 * log(uniform(pair[0])));
    double angle = 2.0 * acos(-1.0) * uniform(pair[1]);
    return radius * (x % 2 == 0 ? cos(angle) : sin(angle));
}

enum status reference_normals(struct backend *b, const struct normals_args *a, struct error *err)
{
    (void)b;
    (void)err;
    float *dst = a->dst;
    for (uint32_t y = 0; y < a->h; y++)
        for (uint32_t x = 0; x < a->w; x++)
            for (uint32_t c = 0; c < a->channels; c++)
                *dst++ = (float)normal_at(a, a->y0 + y, a->x0 + x, c);
    return ST_OK;
}

enum status reference_sampler_in(struct backend *b, const float *y_in, const float *z, float hz,
                                 float *x, size_t count, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++)
        x[i] = (float)((double)y_in[i] + (double)hz * (double)z[i]);
    return ST_OK;
}

enum status reference_sampler_out(struct backend *b, const struct tensor *x,
                                  const struct tensor *eps, float std, const struct tensor *x0,
                                  struct error *err)
{
    (void)b;
    enum status s = expect(x->c == 3 && x0->c == 3 && eps->c >= 3 && x->h == eps->h &&
                               x->w == eps->w && x->n == eps->n,
                           "the sampler's pictures do not fit", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t i = 0; i < x->h * x->w; i++)
            for (uint32_t c = 0; c < 3; c++)
                pixel(x0, n, 0, i)[c] = (float)tanh((double)pixel(x, n, 0, i)[c] -
                                                    (double)std * (double)pixel(eps, n, 0, i)[c]);
    return s;
}
