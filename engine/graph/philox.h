/* philox.h - Philox4x32-10, Box-Muller, and the layout of noise over feature maps (engine/README.md
 * section 3).
 *
 * Key: the 64-bit seed, low word first. Counter: (x div 4, y, channel + 16 * stream, sample). The
 * four words give the four normals at x = 4k .. 4k+3, so the noise at a pixel depends only on its
 * absolute position, the seed, stream, sample and channel. It is in graph/, since it defines the op
 * `normals` of every back end, and inline, so that kernels of every back end (CUDA too) compute the
 * same integers. A back end may compute the normals faster, within 2e-6 of these. Pure
 * functions. */
#ifndef DAVID_GRAPH_PHILOX_H
#define DAVID_GRAPH_PHILOX_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_FN static inline __host__ __device__
#else
#define PHILOX_FN static inline
#endif

enum noise_stream {
    NOISE_SAMPLER = 0,     /* z */
    NOISE_HOLE = 1,        /* fills the hole of a user's image; always sample 0 */
    NOISE_MEASUREMENT = 2, /* degrade and eval; differs from the sampler's z */
    NOISE_TRAINING = 3     /* and up */
};

/* Counter-based random words (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
 * 2011). */
PHILOX_FN void philox4x32_10(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The words at pixels (4 * x4 .. 4 * x4 + 3, y). */
PHILOX_FN void philox_words4(uint32_t out[4], uint64_t seed, uint32_t stream, uint32_t sample,
                             uint32_t channel, uint32_t x4, uint32_t y)
{
    const uint32_t counter[4] = { x4, y, channel + 16 * stream, sample };
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    philox4x32_10(out, counter, key);
}

/* A number in (0, 1), never 0: 23 bits plus one half. */
PHILOX_FN double philox_unit(uint32_t word)
{
    return ((double)(word >> 9) + 0.5) / 8388608.0;
}

/* out[i]: the normal at pixel (4 * x4 + i, y). */
PHILOX_FN void philox_normals4(float out[4], uint64_t seed, uint32_t stream, uint32_t sample,
                               uint32_t channel, uint32_t x4, uint32_t y)
{
    uint32_t words[4];
    philox_words4(words, seed, stream, sample, channel, x4, y);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2 * log(philox_unit(words[i])));
        double angle = 6.283185307179586476925 * philox_unit(words[i + 1]);
        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

#endif
