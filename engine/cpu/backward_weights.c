/* Gradient of a convolution's weights: for each tap a sum of outer products over all pixels. A
 * block of x's channels and a panel of dy's are packed band by band. The packed x has a border and,
 * where there is a stride, one plane per phase; so a tap is an offset into a plane, and a band is
 * one long sum. A 1x1 convolution in F32 reads both in place. Where there are few blocks and
 * panels, the bands of all feature maps are divided into shares; each share has sums of its own,
 * added in order. */
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/outer.h"

enum { AT_ONCE = 128 }; /* pixels summed in registers before the sums are stored */

/* How a convolution is partitioned. Rows and pixels are those of dy. */
struct partition {
    size_t ow;
    size_t reach;       /* rows and columns of a plane beyond those of dy */
    size_t width;       /* of a plane */
    size_t rows, bands; /* rows of a band; bands of a feature map */
    size_t plane;       /* floats */
    size_t planes;
    size_t taps;
    size_t panels;         /* of NR channels of dy */
    size_t blocks, groups; /* of MR channels of x; groups of blocks that share the packed dy */
};

static struct partition partition_of(const struct trained_conv_desc *d)
{
    struct partition c = { .planes = (size_t)d->stride * d->stride,
                           .taps = (size_t)d->kernel * d->kernel,
                           .reach = (d->kernel - 1) / d->stride };
    size_t border = 2 * (size_t)(d->kernel / 2), oh = (d->h + border - d->kernel) / d->stride + 1;
    c.ow = (d->w + border - d->kernel) / d->stride + 1;
    c.width = c.ow + c.reach;
    c.rows = c.width < WEIGHTS_BAND ? WEIGHTS_BAND / c.width : 1;
    c.bands = (oh + c.rows - 1) / c.rows;
    c.rows = (oh + c.bands - 1) / c.bands;
    c.bands = (oh + c.rows - 1) / c.rows;
    c.panels = (d->oc + NR - 1) / NR;
    c.blocks = (d->ic + MR - 1) / MR;
    c.groups = (c.blocks + WEIGHTS_BLOCKS - 1) / WEIGHTS_BLOCKS;
    c.plane = ((c.rows + c.reach) * c.width + c.reach) * MR;
    return c;
}

static size_t round_up(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* Number of shares of the bands: enough to balance the threads. */
static size_t shares_of(const struct partition *c, int threads)
{
    size_t pieces = c->panels * c->groups, wanted = 4 * (size_t)threads;
    return pieces < wanted ? (wanted + pieces - 1) / pieces : 1;
}

/* Floats that a thread packs: dy of a band, and planes of x, whose last pixel may be written beyond
 * its end. */
static size_t packed_dy(const struct partition *c)
{
    return round_up(c->rows * c->width * NR);
}

static size_t packed_floats(const struct partition *c)
{
    return packed_dy(c) + round_up(c->planes * c->plane + 2 * VEC);
}

/* Sums of each block and tap, and of dy. */
static size_t sums_floats(const struct partition *c)
{
    return WEIGHTS_BLOCKS * c->taps * MR * NR + NR;
}

size_t ISA_FN(weights_scratch)(const struct trained_conv_desc *d, int threads)
{
    const struct partition c = partition_of(d);
    size_t shares = shares_of(&c, threads);
    size_t places = shares > 1 ? c.panels * c.groups * shares : (size_t)threads;
    return packed_floats(&c) * (size_t)threads + sums_floats(&c) * places;
}

/* Packs rows y0, ... of dy's panel, with zeros in the columns where a plane has its border. */
INLINE void pack_dy(const struct weights_job *j, const struct partition *c, float *to, uint32_t n,
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

/* Packs one pixel's channels; the next pixel overwrites what is written beyond the block. `whole`:
 * a vector may be read beyond the channels, since another pixel follows. */
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

INLINE void pack_x(const struct weights_job *j, const struct partition *c, float *to, uint32_t n,
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

/* Rows of pixels, `step` floats apart: packed, or in place. */
struct rows {
    const float *at;
    size_t step;
};

INLINE void add_bias(float *bias, struct rows dy, size_t pixels)
{
    vf s0 = vsplat(0), s1 = vsplat(0);
    for (size_t i = 0; i < pixels; i++, dy.at += dy.step) {
        s0 += vget(dy.at);
        s1 += vget(dy.at + VEC);
    }
    vput(bias, vget(bias) + s0);
    vput(bias + VEC, vget(bias + VEC) + s1);
}

static void sum_band(const struct weights_job *j, const struct partition *c, struct rows x,
                     struct rows dy, size_t pixels, float *sums)
{
    uint32_t k = j->d->kernel, s = j->d->stride;
    for (size_t q = 0; q < pixels; q += AT_ONCE) {
        size_t count = pixels - q < AT_ONCE ? pixels - q : AT_ONCE;
        for (uint32_t t = 0; t < c->taps; t++) {
            uint32_t ky = t / k, kx = t % k;
            const float *plane = x.at + (ky % s * s + kx % s) * c->plane;
            size_t off = ky / s * c->width + kx / s;
            outer(plane + (q + off) * x.step, x.step, dy.at + q * dy.step, dy.step, count,
                  sums + t * MR * NR, NR);
        }
    }
}

/* Adds sums, [taps][MR][NR], to dweight[o0 ..][c0 ..][taps]. */
static void put_away(const struct weights_job *j, const struct partition *c, const float *sums,
                     size_t o0, size_t c0)
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

/* One panel of output channels and one group of blocks of input channels. */
struct piece {
    size_t o0, first, end; /* channel of dy; blocks of x */
};

static struct piece piece_of(const struct partition *c, size_t i)
{
    size_t group = i / c->panels;
    return (struct piece){ i % c->panels * NR, group * c->blocks / c->groups,
                           (group + 1) * c->blocks / c->groups };
}

static void put_piece_away(const struct weights_job *j, const struct partition *c,
                           const struct piece *p, const float *sums)
{
    for (size_t k = p->first; k < p->end; k++)
        put_away(j, c, sums + (k - p->first) * c->taps * MR * NR, p->o0, k * MR);
    const float *bias = sums + WEIGHTS_BLOCKS * c->taps * MR * NR;
    for (size_t o = 0; j->dbias && p->first == 0 && o < NR && p->o0 + o < j->d->oc; o++)
        j->dbias[p->o0 + o] += bias[o];
}

/* True if a band of both feature maps may be read in place, one vector beyond its channels: all but
 * the last band. */
INLINE bool stands(const struct weights_job *j, size_t band, size_t all, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    return !bf16 && d->kernel == 1 && d->stride == 1 && d->x_ld >= MR && d->dy_ld >= NR &&
           band + 1 < all;
}

/* Sums the bands from .. to, counted over all feature maps, into `sums`. */
INLINE void sum_piece(const struct weights_job *j, const struct partition *c, const struct piece *p,
                      size_t from, size_t to, float *packed, float *sums, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    memset(sums, 0, sums_floats(c) * sizeof *sums);
    for (size_t band = from; band < to; band++) {
        uint32_t n = (uint32_t)(band / c->bands);
        size_t y0 = band % c->bands * c->rows;
        size_t rows = j->oh - y0 < c->rows ? j->oh - y0 : c->rows, pixels = rows * c->width;
        bool there = stands(j, band, j->n * c->bands, bf16);
        size_t pixel = ((size_t)n * j->oh + y0) * c->ow; /* of both, in place */
        struct rows dy = { packed, NR }, x = { packed + packed_dy(c), MR };
        if (there)
            dy = (struct rows){ (const float *)j->dy + pixel * d->dy_ld + p->o0, d->dy_ld };
        else
            pack_dy(j, c, packed, n, y0, rows, p->o0, bf16);
        if (p->first == 0) add_bias(sums + WEIGHTS_BLOCKS * c->taps * MR * NR, dy, pixels);
        for (size_t k = p->first; k < p->end; k++) {
            if (there)
                x = (struct rows){ (const float *)j->x + pixel * d->x_ld + k * MR, d->x_ld };
            else
                pack_x(j, c, packed + packed_dy(c), n, y0, rows, k * MR, bf16);
            sum_band(j, c, x, dy, pixels, sums + (k - p->first) * c->taps * MR * NR);
        }
    }
}

static void add_into(float *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] += from[i];
}

void ISA_FN(weights)(const struct weights_job *j)
{
    const struct partition c = partition_of(j->d);
    size_t pieces = c.panels * c.groups, shares = shares_of(&c, j->threads), all = j->n * c.bands;
    size_t floats = sums_floats(&c);
    float *places = j->scratch + packed_floats(&c) * (size_t)j->threads;
#pragma omp parallel num_threads(j->threads)
    {
        size_t thread = (size_t)omp_get_thread_num();
        float *packed = j->scratch + packed_floats(&c) * thread;
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < pieces * shares; i++) {
            const struct piece p = piece_of(&c, i / shares);
            float *sums = places + floats * (shares > 1 ? i : thread);
            size_t from = i % shares * all / shares, to = (i % shares + 1) * all / shares;
            if (j->d->dtype == DT_BF16)
                sum_piece(j, &c, &p, from, to, packed, sums, true);
            else
                sum_piece(j, &c, &p, from, to, packed, sums, false);
            if (shares == 1) put_piece_away(j, &c, &p, sums);
        }
        if (shares > 1) {
#pragma omp for schedule(dynamic, 1)
            for (size_t i = 0; i < pieces; i++) {
                const struct piece p = piece_of(&c, i);
                float *sums = places + floats * i * shares;
                for (size_t k = 1; k < shares; k++)
                    add_into(sums, sums + k * floats, floats);
                put_piece_away(j, &c, &p, sums);
            }
        }
    }
}
