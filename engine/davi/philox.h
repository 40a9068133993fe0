/* philox.h - Philox4x32-10 and the layout of noise over pictures (engine/README.md section 3).
 *
 * Key: the 64-bit seed, low word first. Counter: (x div 4, y, channel + 16 * stream, sample). The four words give the four
 * normals at x = 4k .. 4k+3, so the noise at a pixel depends on its absolute place and on nothing else. These are the scalar
 * definitions: integers are the same on every back end, the fast normals (backend.h) agree within 2e-6. Pure functions. */
#ifndef DAVID_DAVI_PHILOX_H
#define DAVID_DAVI_PHILOX_H

#include <stddef.h>
#include <stdint.h>

enum noise_stream {
    NOISE_SAMPLER = 0,     /* z */
    NOISE_HOLE = 1,        /* put in the hole of a user's picture; always sample 0 */
    NOISE_MEASUREMENT = 2, /* degrade and eval: never the sampler's own z */
    NOISE_TRAINING = 3     /* and up */
};

void philox4x32_10(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* out[i]: the normal at pixel (4 * x4 + i, y). */
void philox_normals4(float out[4], uint64_t seed, uint32_t stream, uint32_t sample,
                     uint32_t channel, uint32_t x4, uint32_t y);
/* dst: [h][w][channels], pixels (x0 + x, y0 + y). */
void philox_normals(float *dst, uint64_t seed, uint32_t stream, uint32_t sample, uint32_t x0,
                    uint32_t y0, uint32_t w, uint32_t h, uint32_t channels);

#endif
