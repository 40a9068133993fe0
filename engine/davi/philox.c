/* Counter-based noise (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and Box-Muller on its words. */
#include "engine/davi/philox.h"

#include <math.h>

static void round_once(uint32_t c[4], const uint32_t k[2])
{
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = { (uint32_t)(p1 >> 32) ^ c[1] ^ k[0], (uint32_t)p1,
                         (uint32_t)(p0 >> 32) ^ c[3] ^ k[1], (uint32_t)p0 };
    for (int i = 0; i < 4; i++)
        c[i] = next[i];
}

void philox4x32_10(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c[4] = { counter[0], counter[1], counter[2], counter[3] };
    uint32_t k[2] = { key[0], key[1] };
    for (int i = 0; i < 10; i++) {
        round_once(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

/* Into (0, 1), never 0: 23 bits and a half. */
static double open_unit(uint32_t r)
{
    return ((double)(r >> 9) + 0.5) / 8388608.0;
}

void philox_normals4(float out[4], uint64_t seed, uint32_t stream, uint32_t sample,
                     uint32_t channel, uint32_t x4, uint32_t y)
{
    const double two_pi = 6.283185307179586476925;
    uint32_t words[4], counter[4] = { x4, y, channel + 16 * stream, sample };
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    philox4x32_10(words, counter, key);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2 * log(open_unit(words[i])));
        double angle = two_pi * open_unit(words[i + 1]);
        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

void philox_normals(float *dst, uint64_t seed, uint32_t stream, uint32_t sample, uint32_t x0,
                    uint32_t y0, uint32_t w, uint32_t h, uint32_t channels)
{
    for (uint32_t y = 0; y < h; y++) {
        for (uint32_t c = 0; c < channels; c++) {
            float four[4];
            float *row = dst + (size_t)y * w * channels + c;
            for (uint32_t x = 0; x < w; x++) {
                uint32_t at = x0 + x;
                if (x == 0 || at % 4 == 0)
                    philox_normals4(four, seed, stream, sample, c, at / 4, y0 + y);
                row[(size_t)x * channels] = four[at % 4];
            }
        }
    }
}
