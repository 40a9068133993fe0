/* Attention over the pixels of one feature map. Keys and values are packed once per head; then
 * blocks of queries are multiplied by them. Only [ATTENTION_QUERIES][pixels] of the products are
 * held at a time. */
#include <math.h>
#include <omp.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

INLINE float load_one(const void *p, size_t i, bool bf16)
{
    if (!bf16) return ((const float *)p)[i];
    uint32_t u = (uint32_t)((const uint16_t *)p)[i] << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

struct shape {
    size_t pixels, padded, ch, ch_padded; /* padded to NR */
    size_t q, k, v;                       /* first channel of this head's q, k, v */
    float *keys, *values;                 /* [padded / NR][ch][NR], [ch_padded / NR][pixels][NR] */
};

INLINE struct shape shape_of(const struct attention_job *j, size_t head)
{
    const struct attention_desc *d = j->d;
    struct shape s = { .pixels = (size_t)d->h * d->w, .ch = d->head_channels };
    s.padded = (s.pixels + NR - 1) / NR * NR;
    s.ch_padded = (s.ch + NR - 1) / NR * NR;
    size_t part = d->new_order ? d->heads * s.ch : s.ch;
    s.q = d->new_order ? head * s.ch : 3 * head * s.ch;
    s.k = s.q + part;
    s.v = s.k + part;
    s.keys = j->packed + head * (s.padded * s.ch + s.pixels * s.ch_padded);
    s.values = s.keys + s.padded * s.ch;
    return s;
}

INLINE void pack_head(const struct attention_job *j, const struct shape *s, bool bf16)
{
    size_t ld = j->d->qkv_ld;
    for (size_t i = 0; i < s->padded; i++)
        for (size_t c = 0; c < s->ch; c++)
            s->keys[(i / NR * s->ch + c) * NR + i % NR] =
                i < s->pixels ? load_one(j->qkv, i * ld + s->k + c, bf16) : 0.0f;
    for (size_t i = 0; i < s->pixels; i++)
        for (size_t c = 0; c < s->ch_padded; c += VEC)
            vput(s->values + (c / NR * s->pixels + i) * NR + c % NR,
                 c < s->ch ? vload(j->qkv, i * ld + s->v + c, s->ch - c, bf16) : vsplat(0));
}

/* Writes e^(x - max) in place and returns the sum. Lanes are summed in a fixed order. */
INLINE float softmax_row(float *x, size_t n)
{
    float most = vmost(x, n), total = 0;
    vf sum = vsplat(0);
    size_t i = 0;
    for (; i + VEC <= n; i += VEC) {
        vf e = vexp(vget(x + i) - most);
        vput(x + i, e);
        sum += e;
    }
    for (int l = 0; l < VEC; l++)
        total += sum[l];
    if (i < n) {
        vf e = vexp(vload(x, i, n - i, false) - most);
        vstore(x, i, n - i, e, false);
        for (size_t l = 0; l < n - i; l++)
            total += e[l];
    }
    return total;
}

INLINE void attend(const struct attention_job *j, const struct shape *s, float *scratch,
                   size_t head, size_t first, bool bf16)
{
    const struct attention_desc *d = j->d;
    size_t n = s->pixels - first < ATTENTION_QUERIES ? s->pixels - first : ATTENTION_QUERIES;
    size_t padded = (n + MR - 1) / MR * MR;
    float *q = scratch, *w = q + ATTENTION_QUERIES * s->ch, inverse[ATTENTION_QUERIES];
    float scale = 1.0f / sqrtf((float)s->ch);
    for (size_t r = 0; r < padded; r++)
        for (size_t c = 0; c < s->ch; c += VEC)
            vstore(q + r * s->ch, c, s->ch - c,
                   r < n
                       ? scale * vload(j->qkv, (first + r) * d->qkv_ld + s->q + c, s->ch - c, bf16)
                       : vsplat(0),
                   false);
    for (size_t k = 0; k < s->padded; k += NR)
        for (size_t r = 0; r < padded; r += MR)
            micro(q + r * s->ch, s->ch, s->keys + k * s->ch, s->ch, w + r * s->padded + k,
                  s->padded, false);
    for (size_t r = 0; r < n; r++)
        inverse[r] = 1.0f / softmax_row(w + r * s->padded, s->pixels);
    for (size_t c = 0; c < s->ch; c += NR) {
        float out[ATTENTION_QUERIES * NR] __attribute__((aligned(64)));
        size_t width = s->ch - c < NR ? s->ch - c : NR;
        for (size_t r = 0; r < padded; r += MR)
            micro(w + r * s->padded, s->padded, s->values + c * s->pixels, s->pixels, out + r * NR,
                  NR, false);
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < width; i += VEC)
                vstore(j->y, (first + r) * d->y_ld + head * s->ch + c + i, width - i,
                       vget(out + r * NR + i) * inverse[r], bf16);
    }
}

void ISA_FN(attention)(const struct attention_job *j)
{
    const struct attention_desc *d = j->d;
    size_t pixels = (size_t)d->h * d->w, heads = d->heads;
    size_t blocks = (pixels + ATTENTION_QUERIES - 1) / ATTENTION_QUERIES;
    bool bf16 = d->dtype == DT_BF16;
#pragma omp parallel num_threads(j->threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (size_t head = 0; head < heads; head++) {
            struct shape s = shape_of(j, head);
            if (bf16)
                pack_head(j, &s, true);
            else
                pack_head(j, &s, false);
        }
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < heads * blocks; i++) {
            struct shape s = shape_of(j, i / blocks);
            float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
            if (bf16)
                attend(j, &s, scratch, i / blocks, i % blocks * ATTENTION_QUERIES, true);
            else
                attend(j, &s, scratch, i / blocks, i % blocks * ATTENTION_QUERIES, false);
        }
    }
}
