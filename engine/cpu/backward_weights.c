/* Gradient of a convolution's weights: for each tap a sum of outer products over all pixels. A block of x's channels and a panel
 * of dy's are packed band by band, x with its border and, where there is a stride, one plane for each of its phases; a tap is
 * then an offset into a plane, and a band is one long sum. */
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/outer.h"

enum { AT_ONCE = 128 }; /* pixels whose products are summed before the sums are put away */

/* How a convolution is cut. Rows and pixels are those of dy. */
struct cut {
    size_t ow;
    size_t reach; /* a plane's rows and columns beyond those of dy */
    size_t width; /* of a plane */
    size_t rows;  /* of a band */
    size_t plane; /* floats */
    size_t planes;
    size_t taps;
};

static struct cut cut_of(const struct trained_conv_desc *d)
{
    struct cut c = { .planes = (size_t)d->stride * d->stride,
                     .taps = (size_t)d->kernel * d->kernel,
                     .reach = (d->kernel - 1) / d->stride };
    size_t border = 2 * (size_t)(d->kernel / 2), oh = (d->h + border - d->kernel) / d->stride + 1;
    c.ow = (d->w + border - d->kernel) / d->stride + 1;
    c.width = c.ow + c.reach;
    c.rows = c.width < WEIGHTS_BAND ? WEIGHTS_BAND / c.width : 1;
    if (c.rows > oh) c.rows = oh;
    c.plane = ((c.rows + c.reach) * c.width + c.reach) * MR;
    return c;
}

static size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* dy of a band, planes of x, sums of each block and tap; the last plane's last pixel may be written beyond. */
static size_t scratch_of(const struct trained_conv_desc *d)
{
    struct cut c = cut_of(d);
    return round_up(c.rows * c.width * NR) + round_up(c.planes * c.plane + 2 * VEC) +
           WEIGHTS_BLOCKS * c.taps * MR * NR;
}

size_t ISA_FN(weights_scratch)(const struct trained_conv_desc *d, int threads)
{
    return round_up(scratch_of(d)) * (size_t)threads;
}

/* Rows y0 .. of dy's panel, with zeros in the columns where a plane has its border. */
INLINE void pack_dy(const struct weights_job *j, const struct cut *c, float *to, uint32_t n,
                    size_t y0, size_t rows, size_t o0, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    size_t left = d->oc - o0;
    for (size_t y = y0; y < y0 + rows; y++) {
        size_t at = ((size_t)n * j->oh + y) * c->ow * d->dy_ld + o0;
        for (size_t x = 0; x < c->ow; x++, at += d->dy_ld, to += NR) {
            if (left >= NR) {
                vput(to, vload_full(j->dy, at, bf16));
                vput(to + VEC, vload_full(j->dy, at + VEC, bf16));
            } else {
                vput(to, vload(j->dy, at, left, bf16));
                vput(to + VEC, left > VEC ? vload(j->dy, at + VEC, left - VEC, bf16) : vsplat(0));
            }
        }
        memset(to, 0, c->reach * NR * sizeof *to);
        to += c->reach * NR;
    }
}

/* One pixel's channels; what lies beyond the block is written over by the next pixel. `whole`: a vector may be read beyond the
 * channels, since there is a pixel after this one. */
INLINE void pack_pixel(const struct weights_job *j, float *to, size_t at, size_t left, bool whole,
                       bool bf16)
{
    for (size_t i = 0; i < MR; i += VEC) {
        if (left >= i + VEC || (whole && left > i))
            vput(to + i, vload_full(j->x, at + i, bf16));
        else
            vput(to + i, left > i ? vload(j->x, at + i, left - i, bf16) : vsplat(0));
    }
}

INLINE void pack_x(const struct weights_job *j, const struct cut *c, float *to, uint32_t n,
                   size_t y0, size_t rows, size_t c0, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    int64_t s = d->stride, pad = d->kernel / 2;
    size_t last = (size_t)j->n * d->h * d->w - 1;
    for (size_t p = 0; p < c->planes; p++, to += c->plane) {
        float *at = to;
        for (size_t row = y0; row < y0 + rows + c->reach; row++) {
            int64_t y = (int64_t)row * s + (int64_t)p / s - pad;
            bool inside = y >= 0 && y < d->h;
            for (size_t col = 0; col < c->width; col++, at += MR) {
                int64_t x = (int64_t)col * s + (int64_t)p % s - pad;
                size_t pixel = ((size_t)n * d->h + (size_t)y) * d->w + (size_t)x;
                if (inside && x >= 0 && x < d->w)
                    pack_pixel(j, at, pixel * d->x_ld + c0, d->ic - c0,
                               pixel < last && d->x_ld >= VEC, bf16);
                else
                    for (size_t i = 0; i < MR; i += VEC)
                        vput(at + i, vsplat(0));
            }
        }
        for (size_t i = 0; i < c->reach * MR; i += VEC)
            vput(at + i, vsplat(0));
    }
}

INLINE void add_bias(float *bias, const float *dy, size_t pixels)
{
    vf s0 = vsplat(0), s1 = vsplat(0);
    for (size_t i = 0; i < pixels; i++, dy += NR) {
        s0 += vget(dy);
        s1 += vget(dy + VEC);
    }
    vput(bias, vget(bias) + s0);
    vput(bias + VEC, vget(bias + VEC) + s1);
}

static void sum_band(const struct weights_job *j, const struct cut *c, const float *x,
                     const float *dy, size_t pixels, float *sums)
{
    uint32_t k = j->d->kernel, s = j->d->stride;
    for (size_t q = 0; q < pixels; q += AT_ONCE) {
        size_t count = pixels - q < AT_ONCE ? pixels - q : AT_ONCE;
        for (uint32_t t = 0; t < c->taps; t++) {
            uint32_t ky = t / k, kx = t % k;
            const float *plane = x + (ky % s * s + kx % s) * c->plane;
            size_t off = ky / s * c->width + kx / s;
            outer(plane + (q + off) * MR, MR, dy + q * NR, NR, count, sums + t * MR * NR, NR);
        }
    }
}

/* sums: [taps][MR][NR] into dweight[o0 ..][c0 ..][taps] */
static void put_away(const struct weights_job *j, const struct cut *c, const float *sums, size_t o0,
                     size_t c0)
{
    const struct trained_conv_desc *d = j->d;
    size_t width = d->oc - o0 < NR ? d->oc - o0 : NR, depth = d->ic - c0 < MR ? d->ic - c0 : MR;
    for (size_t o = 0; o < width; o++) {
        float *to = j->dweight + ((o0 + o) * d->ic + c0) * c->taps;
        for (size_t i = 0; i < depth; i++)
            for (size_t t = 0; t < c->taps; t++)
                to[i * c->taps + t] += sums[(t * MR + i) * NR + o];
    }
}

/* One panel of output channels and WEIGHTS_BLOCKS blocks of input channels, over all rows. */
INLINE void piece(const struct weights_job *j, float *scratch, size_t o0, size_t block, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    const struct cut c = cut_of(d);
    float *dy = scratch, *x = dy + round_up(c.rows * c.width * NR);
    float *sums = x + round_up(c.planes * c.plane + 2 * VEC), bias[NR] = { 0 };
    size_t blocks = (d->ic + MR - 1) / MR, end = block + WEIGHTS_BLOCKS;
    if (end > blocks) end = blocks;
    memset(sums, 0, WEIGHTS_BLOCKS * c.taps * MR * NR * sizeof *sums);
    for (uint32_t n = 0; n < j->n; n++)
        for (size_t y0 = 0; y0 < j->oh; y0 += c.rows) {
            size_t rows = j->oh - y0 < c.rows ? j->oh - y0 : c.rows, pixels = rows * c.width;
            pack_dy(j, &c, dy, n, y0, rows, o0, bf16);
            if (block == 0) add_bias(bias, dy, pixels);
            for (size_t k = block; k < end; k++) {
                pack_x(j, &c, x, n, y0, rows, k * MR, bf16);
                sum_band(j, &c, x, dy, pixels, sums + (k - block) * c.taps * MR * NR);
            }
        }
    for (size_t k = block; k < end; k++)
        put_away(j, &c, sums + (k - block) * c.taps * MR * NR, o0, k * MR);
    for (size_t o = 0; j->dbias && block == 0 && o < NR && o0 + o < d->oc; o++)
        j->dbias[o0 + o] += bias[o];
}

void ISA_FN(weights)(const struct weights_job *j)
{
    size_t panels = (j->d->oc + NR - 1) / NR;
    size_t stride = round_up(scratch_of(j->d));
    size_t groups = (j->d->ic + WEIGHTS_BLOCKS * MR - 1) / (WEIGHTS_BLOCKS * MR);
#pragma omp parallel for schedule(dynamic, 1) num_threads(j->threads)
    for (size_t i = 0; i < panels * groups; i++) {
        float *scratch = j->scratch + (size_t)omp_get_thread_num() * stride;
        size_t o0 = i % panels * NR, block = i / panels * WEIGHTS_BLOCKS;
        if (j->d->dtype == DT_BF16)
            piece(j, scratch, o0, block, true);
        else
            piece(j, scratch, o0, block, false);
    }
}
