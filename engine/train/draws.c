#include "engine/train/draws.h"

#include <math.h>

#include "engine/graph/philox.h"

uint64_t draw_key(uint64_t seed, uint64_t step)
{
    /* No draw has this stream, so no key equals the words of a draw. */
    const uint32_t counter[4] = { (uint32_t)step, (uint32_t)(step >> 32), UINT32_MAX, UINT32_MAX };
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t words[4];
    philox4x32_10(words, counter, key);
    return (uint64_t)words[1] << 32 | words[0];
}

uint32_t draw_stream(enum draw what)
{
    return NOISE_TRAINING + (uint32_t)what;
}

struct rng rng_of(uint64_t seed, uint64_t step, enum draw what, uint32_t row)
{
    return (struct rng){ .key = draw_key(seed, step), .stream = draw_stream(what), .row = row };
}

double rng_uniform(struct rng *d)
{
    if (d->at % 4 == 0) philox_words4(d->words, d->key, d->stream, d->row, 0, d->at / 4, 0);
    return ((double)d->words[d->at++ % 4] + 0.5) / 4294967296.0;
}

uint32_t rng_below(struct rng *d, uint32_t n)
{
    uint32_t i = (uint32_t)(rng_uniform(d) * n);
    return i < n ? i : n - 1;
}

uint32_t draw_bridge_time(struct rng *d)
{
    /* The distribution function of Beta(3, 1) is x^3. */
    double t = floor(1000 * cbrt(rng_uniform(d)) - 0.5);
    return t > 0 ? (uint32_t)t : 0;
}

void draw_add_normals(uint64_t seed, uint64_t step, enum draw what, uint32_t row, float *v,
                      size_t count, double by)
{
    const uint64_t key = draw_key(seed, step);
    for (size_t i = 0; i < count; i += 4) {
        float four[4];
        philox_normals4(four, key, draw_stream(what), row, 0, (uint32_t)(i / 4),
                        (uint32_t)(i >> 34));
        for (size_t k = 0; k < 4 && i + k < count; k++)
            v[i + k] += (float)(by * (double)four[k]);
    }
}
