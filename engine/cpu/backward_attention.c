/* Gradient of attention, head by head. For a block of queries the softmax p is computed again, then
 * ds = p (dy v^T - sum p dy v^T) and dq = ds k; the block's parts of dk = ds^T q and dv = p^T dy
 * are accumulated. Everything is F32. */
#include <math.h>
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/outer.h"

/* One head's matrices. Pixels are padded with zeros to whole panels and to what the micro kernels
 * read. */
struct head {
    size_t pixels, keys, rows; /* keys: rounded up to whole panels; rows: at least keys */
    size_t ch, wide;           /* wide: ch rounded up to whole panels */
    float *q, *k, *v, *dy;     /* [rows][wide]; q times 1 / sqrt(ch) */
    float *dk, *dv;            /* [rows][wide] */
    float *kt, *vt;            /* [keys / NR][ch][NR]: panels of k^T and v^T */
    float *kp;                 /* [wide / NR][rows][NR]: panels of k */
    float *p, *ds;             /* [ATTENTION_BLOCK][rows] */
};

static size_t round_to(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct head shape_of(const struct attention_desc *d)
{
    struct head h = { .pixels = (size_t)d->h * d->w, .ch = d->head_channels };
    size_t rows = round_to(round_to(h.pixels, MR), VEC);
    h.keys = round_to(h.pixels, NR);
    h.rows = rows > h.keys ? rows : h.keys;
    h.wide = round_to(h.ch, NR);
    return h;
}

static struct head head_of(const struct attention_desc *d, float *at)
{
    struct head h = shape_of(d);
    float **const all[] = { &h.q, &h.k, &h.v, &h.dy, &h.dk, &h.dv, &h.kp };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++, at += h.rows * h.wide)
        *all[i] = at;
    h.kt = at;
    h.vt = at + h.rows * h.ch;
    h.p = h.vt + h.rows * h.ch;
    h.ds = h.p + ATTENTION_BLOCK * h.rows;
    return h;
}

size_t ISA_FN(attention_gradient_scratch)(const struct attention_desc *d)
{
    const struct head h = shape_of(d);
    return 7 * h.rows * h.wide + 2 * h.rows * h.ch + 2 * ATTENTION_BLOCK * h.rows;
}

INLINE void unpack(float *to, const struct head *h, const void *from, size_t at, size_t ld,
                   float by, bool bf16)
{
    for (size_t i = 0; i < h->pixels; i++)
        for (size_t c = 0; c < h->ch; c += VEC)
            vstore(to, i * h->wide + c, h->ch - c,
                   by * vload(from, at + i * ld + c, h->ch - c, bf16), false);
}

/* Packs [rows][wide] into panels of its transpose. */
static void pack_transposed(float *to, const struct head *h, const float *from)
{
    for (size_t i = 0; i < h->keys; i++)
        for (size_t c = 0; c < h->ch; c++)
            to[(i / NR * h->ch + c) * NR + i % NR] = from[i * h->wide + c];
}

static void pack_panels(float *to, const struct head *h, const float *from)
{
    for (size_t c = 0; c < h->wide; c += NR)
        for (size_t i = 0; i < h->rows; i++)
            memcpy(to + (c * h->rows + i * NR), from + i * h->wide + c, NR * sizeof *to);
}

/* out[count][keys] = a[count][ch] times the transpose held in `panels`. */
static void products(float *out, const struct head *h, const float *a, size_t count,
                     const float *panels)
{
    for (size_t j = 0; j < h->keys; j += NR)
        for (size_t r = 0; r < count; r += MR)
            micro(a + r * h->wide, h->wide, panels + j * h->ch, h->ch, out + r * h->rows + j,
                  h->rows, false);
}

/* Turns the scores and dy v^T of one query into p and ds, in place; zero where there is no key. */
static void softmax_gradient(const struct head *h, float *p, float *ds)
{
    const float most = vmost(p, h->pixels);
    vf sum = vsplat(0), with_ds = vsplat(0);
    for (size_t j = 0; j < h->pixels; j += VEC) {
        size_t n = h->pixels - j;
        vf e = vexp(vget(p + j) - most);
        if (n < VEC)
            for (size_t l = n; l < VEC; l++)
                e[l] = 0;
        vput(p + j, e);
        sum += e;
        with_ds += e * vget(ds + j);
    }
    float total = 0, mean = 0;
    for (int l = 0; l < VEC; l++) {
        total += sum[l];
        mean += with_ds[l];
    }
    float inverse = 1.0f / total;
    mean *= inverse;
    for (size_t j = 0; j < h->rows; j += VEC) {
        vf e = j < h->pixels ? vget(p + j) * inverse : vsplat(0);
        vput(p + j, e);
        vput(ds + j, e * (vget(ds + j) - mean));
    }
}

/* out[rows][wide] += sum over `count` queries of a[query][row] b[query][channel] */
static void add_outer(float *out, const struct head *h, const float *a, const float *b,
                      size_t count)
{
    for (size_t i = 0; i < h->pixels; i += MR)
        for (size_t c = 0; c < h->wide; c += NR)
            outer(a + i, h->rows, b + c, h->wide, count, out + i * h->wide + c, h->wide);
}

INLINE void one_head(const struct attention_gradient_job *j, float *scratch, size_t n, size_t head,
                     bool bf16)
{
    const struct attention_desc *d = j->d;
    struct head h = head_of(d, scratch);
    float scale = 1.0f / sqrtf((float)h.ch);
    size_t part = d->new_order ? d->heads * h.ch : h.ch;
    size_t first = d->new_order ? head * h.ch : 3 * head * h.ch;
    size_t row = n * h.pixels;
    memset(scratch, 0, 6 * h.rows * h.wide * sizeof *scratch);
    unpack(h.q, &h, j->qkv, row * j->qkv_ld + first, j->qkv_ld, scale, bf16);
    unpack(h.k, &h, j->qkv, row * j->qkv_ld + first + part, j->qkv_ld, 1, bf16);
    unpack(h.v, &h, j->qkv, row * j->qkv_ld + first + 2 * part, j->qkv_ld, 1, bf16);
    unpack(h.dy, &h, j->dy, row * j->dy_ld + head * h.ch, j->dy_ld, 1, bf16);
    pack_transposed(h.kt, &h, h.k);
    pack_transposed(h.vt, &h, h.v);
    pack_panels(h.kp, &h, h.k);
    for (size_t q = 0; q < h.pixels; q += ATTENTION_BLOCK) {
        size_t count = h.pixels - q < ATTENTION_BLOCK ? h.pixels - q : ATTENTION_BLOCK;
        products(h.p, &h, h.q + q * h.wide, count, h.kt);
        products(h.ds, &h, h.dy + q * h.wide, count, h.vt);
        for (size_t r = 0; r < count; r++)
            softmax_gradient(&h, h.p + r * h.rows, h.ds + r * h.rows);
        add_outer(h.dv, &h, h.p, h.dy + q * h.wide, count);
        add_outer(h.dk, &h, h.ds, h.q + q * h.wide, count);
        for (size_t c = 0; c < h.ch; c += NR) {
            float dq[ATTENTION_BLOCK * NR] __attribute__((aligned(64)));
            size_t width = h.ch - c < NR ? h.ch - c : NR;
            for (size_t r = 0; r < count; r += MR)
                micro(h.ds + r * h.rows, h.rows, h.kp + c * h.rows, h.pixels, dq + r * NR, NR,
                      false);
            for (size_t r = 0; r < count; r++)
                for (size_t i = 0; i < width; i += VEC)
                    vstore(j->dqkv, (row + q + r) * j->dqkv_ld + first + c + i, width - i,
                           scale * vget(dq + r * NR + i), bf16);
        }
    }
    for (size_t i = 0; i < h.pixels; i++)
        for (size_t c = 0; c < h.ch; c += VEC) {
            size_t to = (row + i) * j->dqkv_ld + first + part + c;
            vstore(j->dqkv, to, h.ch - c, vget(h.dk + i * h.wide + c), bf16);
            vstore(j->dqkv, to + part, h.ch - c, vget(h.dv + i * h.wide + c), bf16);
        }
}

void ISA_FN(attention_gradient)(const struct attention_gradient_job *j)
{
    size_t heads = j->d->heads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t i = 0; i < heads * j->n; i++) {
        float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
        if (j->d->dtype == DT_BF16)
            one_head(j, scratch, i / heads, i % heads, true);
        else
            one_head(j, scratch, i / heads, i % heads, false);
    }
}
