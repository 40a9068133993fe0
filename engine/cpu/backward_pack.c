/* Packs weights that change at every step: in the layout of conv.c and bf16_shape.c, but many
 * output channels at a time and with all threads. For the gradient of the input, the kernel is
 * reversed and the channels are exchanged; only the strides of the reads differ. */
#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/bf16_shape.h"
#include "engine/cpu/vec.h"

/* p[0], p[step], ...: n lanes, the others zero. */
INLINE vf gather_lanes(const float *p, size_t step, size_t n)
{
#ifdef __AVX512F__
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 some = n >= 16 ? (__mmask16)-1 : (__mmask16)((1u << n) - 1);
    __m512i at = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)step));
    return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, at, p, 4);
#else
    vf v = vsplat(0);
    for (size_t l = 0; l < VEC && l < n; l++)
        v[l] = p[l * step];
    return v;
#endif
}

/* Where tap t is read: reversed, the last tap comes first. */
INLINE size_t tap_of(const struct pack_job *j, size_t t)
{
    if (j->tap) return j->tap[t];
    return j->turned ? j->taps - 1 - t : t;
}

/* [oc / NR][taps * ic][NR] */
static void pack_direct(const struct pack_job *j, size_t panel)
{
    float *to = (float *)j->to + panel * j->taps * j->ic * NR;
    for (size_t half = 0; half < 2; half++) {
        size_t o = panel * NR + half * VEC;
        if (o >= j->oc) return;
        const float *from = j->weight + o * j->o_step;
        for (size_t i = 0; i < j->ic; i++)
            for (size_t t = 0; t < j->taps; t++)
                vput(to + (t * j->ic + i) * NR + half * VEC,
                     gather_lanes(from + i * j->i_step + tap_of(j, t), j->o_step, j->oc - o));
    }
}

/* One dimension of G g, with the points of winograd.c. */
INLINE void transform(vf out[6], vf g0, vf g1, vf g2)
{
    const float na = -2.0f / 3.0f,
                nb = 1.0f / 6.0f; /* 1 / (2 a^2 (a^2 - b^2)), and a and b exchanged */
    const float a = 0.70710678118654752440f, b = 1.41421356237309504880f;
    vf even = na * (g0 + 0.5f * g2), odd = (na * a) * g1;
    out[0] = g0;
    out[1] = even + odd;
    out[2] = even - odd;
    even = nb * (g0 + 2.0f * g2);
    odd = (nb * b) * g1;
    out[3] = even + odd;
    out[4] = even - odd;
    out[5] = g2;
}

/* [oc / NR][36][ic][NR] */
static void pack_winograd(const struct pack_job *j, size_t panel)
{
    float *to = (float *)j->to + panel * WINOGRAD_POINTS * j->ic * NR;
    for (size_t half = 0; half < 2; half++) {
        size_t o = panel * NR + half * VEC;
        if (o >= j->oc) return;
        for (size_t i = 0; i < j->ic; i++) {
            const float *from = j->weight + o * j->o_step + i * j->i_step;
            vf g[9], rows[3][6];
            for (size_t t = 0; t < 9; t++)
                g[t] = gather_lanes(from + tap_of(j, t), j->o_step, j->oc - o);
            for (int c = 0; c < 3; c++)
                transform(rows[c], g[c], g[3 + c], g[6 + c]);
            for (int r = 0; r < 6; r++) {
                vf out[6];
                transform(out, rows[0][r], rows[1][r], rows[2][r]);
                for (int c = 0; c < 6; c++)
                    vput(to + ((size_t)(r * 6 + c) * j->ic + i) * NR + half * VEC, out[c]);
            }
        }
    }
}

#if VEC == 16
/* Interleaves two neighbours of the depth in BF16. */
INLINE void put_pair(uint16_t *to, vf first, vf second)
{
    vu low = __builtin_convertvector(vround_bf16(first), vu);
    vu high = __builtin_convertvector(vround_bf16(second), vu);
    vput((void *)to, (vf)(low | high << 16));
}

/* The weights at depth k of tap `tap` for output channels o, o + 1, ... */
INLINE vf depth_of(const struct pack_job *j, size_t o, size_t k, size_t tap)
{
    size_t i = j->bf16->unrolled ? k % j->ic : k, t = j->bf16->unrolled ? k / j->ic : tap;
    if (i >= j->ic || t >= j->taps) return vsplat(0);
    return gather_lanes(j->weight + o * j->o_step + i * j->i_step + tap_of(j, t), j->o_step,
                        j->oc - o);
}

/* As bf16_pack(): [panel][k / 32][tap][2][16 pairs][16 oc][2] */
static void pack_bf16(const struct pack_job *j, size_t panel)
{
    const struct bf16_shape *s = j->bf16;
    uint16_t *to = (uint16_t *)j->to + panel * (s->weight_elements / s->panels);
    for (size_t k0 = 0; k0 < s->k; k0 += BF16_DEPTH)
        for (size_t tap = 0; tap < s->taps; tap++)
            for (size_t half = 0; half < 2; half++, to += BF16_TILE) {
                size_t o = panel * BF16_PANEL + half * BF16_CHANNELS;
                for (size_t k = 0; o < j->oc && k < BF16_DEPTH; k += 2)
                    put_pair(to + k * BF16_CHANNELS, depth_of(j, o, k0 + k, tap),
                             depth_of(j, o, k0 + k + 1, tap));
            }
}
#else
/* this instruction set has no such convolution */
static void pack_bf16(const struct pack_job *j, size_t panel)
{
    (void)j;
    (void)panel;
}
#endif

void ISA_FN(pack_weights)(const struct pack_job *j)
{
    size_t width = j->way == WAY_BF16 ? BF16_PANEL : NR, panels = (j->oc + width - 1) / width;
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t panel = 0; panel < panels; panel++) {
        switch (j->way) {
        case WAY_DIRECT: pack_direct(j, panel); break;
        case WAY_WINOGRAD: pack_winograd(j, panel); break;
        case WAY_BF16: pack_bf16(j, panel); break;
        }
    }
}
