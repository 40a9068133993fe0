/* 3x3 convolution by F(4x4, 3x3) (Lavin and Gray, CVPR 2016): 36 matrix products replace 144
 * multiplications per tile. The interpolation points are 0, +-sqrt(1/2), +-sqrt(2) and infinity:
 * their powers stay near 1, which loses less accuracy than the usual 0, +-1, +-2. A piece is
 * WINOGRAD_TILES tiles: transformed, multiplied panel by panel, transformed back. */
#include <omp.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/tables.h"
#include "engine/cpu/vec.h"

#define A1 0.70710678118654752440f
#define B1 1.41421356237309504880f

/* One dimension of the input's transform: a^2 = 1/2, b^2 = 2, a^2 b^2 = 1, a^2 + b^2 = 5/2. */
INLINE void input_1d(vf o[6], vf x0, vf x1, vf x2, vf x3, vf x4, vf x5)
{
    vf ea = x4 - 2.0f * x2, oa = A1 * (x3 - 2.0f * x1);
    vf eb = x4 - 0.5f * x2, ob = B1 * (x3 - 0.5f * x1);
    o[0] = x0 - 2.5f * x2 + x4;
    o[1] = ea + oa;
    o[2] = ea - oa;
    o[3] = eb + ob;
    o[4] = eb - ob;
    o[5] = x1 - 2.5f * x3 + x5;
}

INLINE void output_1d(vf o[4], vf m0, vf m1, vf m2, vf m3, vf m4, vf m5)
{
    vf sa = m1 + m2, da = A1 * (m1 - m2), sb = m3 + m4, db = B1 * (m3 - m4);
    o[0] = m0 + sa + sb;
    o[1] = da + db;
    o[2] = 0.5f * sa + 2.0f * sb;
    o[3] = 0.5f * da + 2.0f * db + m5;
}

/* Transforms tile t of the feature map into v[36][WINOGRAD_TILES][ic] at `slot`. */
INLINE void input_tile(const struct conv_job *j, float *v, size_t t, size_t slot, bool bf16)
{
    const struct conv_desc *d = j->d;
    size_t tw = (d->w + 3) / 4, ic = d->ic;
    int64_t y0 = (int64_t)(t / tw) * 4 - 1, x0 = (int64_t)(t % tw) * 4 - 1;
    size_t offset[36];
    bool inside[36];
    for (int i = 0; i < 36; i++) {
        int64_t y = y0 + i / 6, x = x0 + i % 6;
        inside[i] = y >= 0 && y < d->h && x >= 0 && x < d->w;
        offset[i] = inside[i] ? ((size_t)y * d->w + (size_t)x) * d->x_ld : 0;
    }
    bool whole = y0 >= 0 && x0 >= 0 && y0 + 6 <= d->h && x0 + 6 <= d->w;
    for (size_t c = 0; c < ic; c += VEC) {
        vf rows[6][6];
        for (int k = 0; k < 6; k++) {
            vf in[6];
            for (int i = 0; i < 6; i++)
                in[i] = whole || inside[i * 6 + k] ? vload_full(j->x, offset[i * 6 + k] + c, bf16)
                                                   : vsplat(0);
            vf out[6];
            input_1d(out, in[0], in[1], in[2], in[3], in[4], in[5]);
            for (int i = 0; i < 6; i++)
                rows[i][k] = out[i];
        }
        for (int i = 0; i < 6; i++) {
            vf out[6];
            input_1d(out, rows[i][0], rows[i][1], rows[i][2], rows[i][3], rows[i][4], rows[i][5]);
            for (int k = 0; k < 6; k++)
                vput(v + ((size_t)(i * 6 + k) * WINOGRAD_TILES + slot) * ic + c, out[k]);
        }
    }
}

/* Transforms m[36][WINOGRAD_TILES][NR] at `slot` into the 4x4 pixels of tile t, channels oc0 .. oc0
 * + NR. */
INLINE void output_tile(const struct conv_job *j, const float *m, size_t t, size_t slot, size_t oc0,
                        bool bf16)
{
    const struct conv_desc *d = j->d;
    size_t tw = (d->w + 3) / 4, y0 = t / tw * 4, x0 = t % tw * 4;
    size_t n = d->oc - oc0 < NR ? d->oc - oc0 : NR;
    for (size_t c = 0; c < n; c += VEC) {
        vf rows[4][6], bias = vload(j->bias, oc0 + c, n - c, false);
        for (int k = 0; k < 6; k++) {
            vf in[6], out[4];
            for (int i = 0; i < 6; i++)
                in[i] = vget(m + ((size_t)(i * 6 + k) * WINOGRAD_TILES + slot) * NR + c);
            output_1d(out, in[0], in[1], in[2], in[3], in[4], in[5]);
            for (int i = 0; i < 4; i++)
                rows[i][k] = out[i];
        }
        for (size_t i = 0; i < 4 && y0 + i < d->h; i++) {
            vf out[4];
            output_1d(out, rows[i][0], rows[i][1], rows[i][2], rows[i][3], rows[i][4], rows[i][5]);
            for (size_t k = 0; k < 4 && x0 + k < d->w; k++) {
                size_t pixel = (y0 + i) * d->w + x0 + k;
                vf v = out[k] + bias;
                if (j->residual) v += vload(j->residual, pixel * d->r_ld + oc0 + c, n - c, bf16);
                vstore(j->y, pixel * d->y_ld + oc0 + c, n - c, v, bf16);
            }
        }
    }
}

INLINE void piece(const struct conv_job *j, float *v, size_t first, size_t tiles, bool bf16)
{
    const struct conv_desc *d = j->d;
    size_t ic = d->ic, padded = (tiles + MR - 1) / MR * MR;
    float *m = v + (size_t)WINOGRAD_POINTS * WINOGRAD_TILES * ic;
    for (size_t t = 0; t < tiles; t++)
        input_tile(j, v, first + t, t, bf16);
    for (size_t p = 0; p < WINOGRAD_POINTS && padded > tiles; p++)
        memset(v + (p * WINOGRAD_TILES + tiles) * ic, 0, (padded - tiles) * ic * sizeof *v);
    for (size_t oc0 = 0; oc0 < d->oc; oc0 += NR) {
        const float *u = (const float *)j->weight + oc0 * WINOGRAD_POINTS * ic;
        for (size_t p = 0; p < WINOGRAD_POINTS; p++)
            for (size_t t = 0; t < tiles; t += MR)
                micro(v + (p * WINOGRAD_TILES + t) * ic, ic, u + p * ic * NR, ic,
                      m + (p * WINOGRAD_TILES + t) * NR, NR, false);
        for (size_t t = 0; t < tiles; t++)
            output_tile(j, m, first + t, t, oc0, bf16);
    }
}

void ISA_FN(conv_winograd)(const struct conv_job *j)
{
    const struct conv_desc *d = j->d;
    size_t tiles = (size_t)((d->h + 3) / 4) * ((d->w + 3) / 4);
    size_t blocks = (tiles + WINOGRAD_TILES - 1) / WINOGRAD_TILES;
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t i = 0; i < blocks * j->rows; i++) {
        float *scratch = j->scratch + (size_t)omp_get_thread_num() * j->scratch_stride;
        size_t first = i % blocks * WINOGRAD_TILES;
        size_t n = tiles - first < WINOGRAD_TILES ? tiles - first : WINOGRAD_TILES;
        bool bf16 = d->dtype == DT_BF16;
        const struct conv_job row = conv_row(j, i / blocks, (size_t)d->h * d->w, bf16);
        if (bf16)
            piece(&row, scratch, first, n, true);
        else
            piece(&row, scratch, first, n, false);
    }
}
