/* Gradient of the weights of a 3x3 convolution by Winograd's F(4x4, 3x3), the transpose of the
 * forward pass (winograd.c): with y = A^T [(G g G^T) (B^T x B)] A for a tile, dg = G^T [sum over
 * tiles of (A dy A^T) (B^T x B)] G, a quarter of the multiplications. Every thread takes its share
 * of all feature maps' tiles, wave by wave: a wave is transformed and stays in the cache while its
 * outer products are summed, point by point. The threads' sums are added in order. */
#include <omp.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/outer.h"

#define A1 0.70710678118654752440f
#define B1 1.41421356237309504880f

enum {
    TILE = 4,  /* pixels of dy, in each direction */
    PATCH = 6, /* of x */
    TAPS = 9,
    WAVE_FLOATS = 320 << 10, /* floats of transformed tiles */
    SUMS_FLOATS =
        /* The most floats of a thread's sums: each wave reads and writes all of them. */
    512 << 10,
    LEAST_SIDE = 16 /* the smallest side of a feature map for which this pays */
};

struct partition {
    size_t oh, ow, across, tiles; /* tiles: per feature map */
    size_t x_ld, dy_ld;           /* channels, padded to whole blocks and vectors */
    size_t blocks, panels;
    size_t wave;            /* in tiles */
    size_t x_step, dy_step; /* floats between two points */
};

static size_t round_to(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct partition partition_of(const struct trained_conv_desc *d)
{
    struct partition c = { .oh = d->h, .ow = d->w }; /* a border of one pixel keeps the size */
    c.across = (c.ow + TILE - 1) / TILE;
    c.tiles = (c.oh + TILE - 1) / TILE * c.across;
    c.blocks = (d->ic + MR - 1) / MR;
    c.panels = (d->oc + NR - 1) / NR;
    c.x_ld = round_to(c.blocks * MR, VEC);
    c.dy_ld = c.panels * NR;
    c.wave = WAVE_FLOATS / (WINOGRAD_POINTS * (c.x_ld + c.dy_ld));
    if (c.wave < 16) c.wave = 16;
    c.x_step = c.wave * c.x_ld + VEC; /* places the points of a tile in different cache sets */
    c.dy_step = c.wave * c.dy_ld + VEC;
    return c;
}

static size_t sums_floats(const struct partition *c)
{
    return WINOGRAD_POINTS * c->x_ld * c->dy_ld;
}

bool ISA_FN(weights_takes_winograd)(const struct trained_conv_desc *d)
{
    const struct partition c = partition_of(d);
    return d->kernel == 3 && d->stride == 1 && d->h >= LEAST_SIDE && d->w >= LEAST_SIDE &&
           d->ic >= VEC && d->oc >= VEC && sums_floats(&c) <= SUMS_FLOATS;
}

/* A thread's parts of the scratch: tiles of x and dy, [point][tile][channel]; sums of products,
 * [point][channel of x][channel of dy], and sums of dy. */
struct memory {
    float *x, *dy, *sums, *bias;
};

static size_t thread_floats(const struct partition *c)
{
    return WINOGRAD_POINTS * (c->x_step + c->dy_step) + sums_floats(c) + c->dy_ld;
}

static struct memory memory_of(const struct partition *c, float *scratch, size_t thread)
{
    struct memory m = { .x = scratch + thread * thread_floats(c) };
    m.dy = m.x + WINOGRAD_POINTS * c->x_step;
    m.sums = m.dy + WINOGRAD_POINTS * c->dy_step;
    m.bias = m.sums + sums_floats(c);
    return m;
}

size_t ISA_FN(weights_winograd_scratch)(const struct trained_conv_desc *d, int threads)
{
    const struct partition c = partition_of(d);
    return thread_floats(&c) * (size_t)threads;
}

/* One dimension of B^T x, as in winograd.c. */
INLINE void x_1d(vf o[6], const vf x[6])
{
    vf ea = x[4] - 2.0f * x[2], oa = A1 * (x[3] - 2.0f * x[1]);
    vf eb = x[4] - 0.5f * x[2], ob = B1 * (x[3] - 0.5f * x[1]);
    o[0] = x[0] - 2.5f * x[2] + x[4];
    o[1] = ea + oa;
    o[2] = ea - oa;
    o[3] = eb + ob;
    o[4] = eb - ob;
    o[5] = x[1] - 2.5f * x[3] + x[5];
}

/* One dimension of A dy. */
INLINE void dy_1d(vf o[6], const vf y[4])
{
    vf ea = y[0] + 0.5f * y[2], oa = A1 * (y[1] + 0.5f * y[3]);
    vf eb = y[0] + 2.0f * y[2], ob = B1 * (y[1] + 2.0f * y[3]);
    o[0] = y[0];
    o[1] = ea + oa;
    o[2] = ea - oa;
    o[3] = eb + ob;
    o[4] = eb - ob;
    o[5] = y[3];
}

/* One dimension of G^T m. */
INLINE void weight_1d(vf o[3], const vf m[6])
{
    const float na = -2.0f / 3.0f, nb = 1.0f / 6.0f;
    vf sa = na * (m[1] + m[2]), da = (na * A1) * (m[1] - m[2]);
    vf sb = nb * (m[3] + m[4]), db = (nb * B1) * (m[3] - m[4]);
    o[0] = m[0] + sa + sb;
    o[1] = da + db;
    o[2] = 0.5f * sa + 2.0f * sb + m[5];
}

/* A square of pixels of a feature map, from (y0, x0) on. `whole` (below): all of it is inside, and
 * so are all vectors of channels. */
struct square {
    const void *image;
    int64_t y0, x0, h, w;
    size_t ld;
};

INLINE vf square_load(const struct square *q, int row, int col, size_t c, size_t left, bool whole,
                      bool bf16)
{
    int64_t y = q->y0 + row, x = q->x0 + col;
    if (whole) return vload_full(q->image, (size_t)(y * q->w + x) * q->ld + c, bf16);
    if (y < 0 || y >= q->h || x < 0 || x >= q->w) return vsplat(0);
    return vload(q->image, (size_t)(y * q->w + x) * q->ld + c, left, bf16);
}

INLINE bool is_whole(const struct square *q, int side, size_t channels)
{
    return q->y0 >= 0 && q->x0 >= 0 && q->y0 + side <= q->h && q->x0 + side <= q->w &&
           channels % VEC == 0;
}

INLINE void put_x(const struct partition *c, const struct square *q, size_t channels, float *to,
                  bool whole, bool bf16)
{
    for (size_t k = 0; k < channels; k += VEC) {
        vf half[6][6];
        for (int col = 0; col < PATCH; col++) {
            vf in[6], out[6];
            for (int row = 0; row < PATCH; row++)
                in[row] = square_load(q, row, col, k, channels - k, whole, bf16);
            x_1d(out, in);
            for (int row = 0; row < 6; row++)
                half[row][col] = out[row];
        }
        for (int row = 0; row < 6; row++) {
            vf out[6];
            x_1d(out, half[row]);
            for (int col = 0; col < 6; col++)
                vput(to + (size_t)(row * 6 + col) * c->x_step + k, out[col]);
        }
    }
}

INLINE void put_dy(const struct partition *c, const struct square *q, size_t channels, float *to,
                   float *bias, bool whole, bool bf16)
{
    for (size_t k = 0; k < channels; k += VEC) {
        vf half[6][4], sum = vget(bias + k);
        for (int col = 0; col < TILE; col++) {
            vf in[4], out[6];
            for (int row = 0; row < TILE; row++) {
                in[row] = square_load(q, row, col, k, channels - k, whole, bf16);
                sum += in[row];
            }
            dy_1d(out, in);
            for (int row = 0; row < 6; row++)
                half[row][col] = out[row];
        }
        for (int row = 0; row < 6; row++) {
            vf out[6];
            dy_1d(out, half[row]);
            for (int col = 0; col < 6; col++)
                vput(to + (size_t)(row * 6 + col) * c->dy_step + k, out[col]);
        }
        vput(bias + k, sum);
    }
}

/* Transforms tile `i`, counted over all feature maps, into slot `slot` of the wave. */
INLINE void transform(const struct weights_job *j, const struct partition *c,
                      const struct memory *m, size_t i, size_t slot, bool bf16)
{
    const struct trained_conv_desc *d = j->d;
    size_t n = i / c->tiles, pixels = c->oh * c->ow;
    int64_t y = (int64_t)(i % c->tiles / c->across * TILE);
    int64_t x = (int64_t)(i % c->tiles % c->across * TILE);
    const struct square patch = {
        at(j->x, n * pixels * d->x_ld, bf16), y - 1, x - 1, d->h, d->w, d->x_ld
    };
    const struct square tile = {
        at(j->dy, n * pixels * d->dy_ld, bf16), y, x, d->h, d->w, d->dy_ld
    };
    if (is_whole(&patch, PATCH, d->ic))
        put_x(c, &patch, d->ic, m->x + slot * c->x_ld, true, bf16);
    else
        put_x(c, &patch, d->ic, m->x + slot * c->x_ld, false, bf16);
    if (is_whole(&tile, TILE, d->oc))
        put_dy(c, &tile, d->oc, m->dy + slot * c->dy_ld, m->bias, true, bf16);
    else
        put_dy(c, &tile, d->oc, m->dy + slot * c->dy_ld, m->bias, false, bf16);
}

static void multiply(const struct partition *c, const struct memory *m, size_t tiles)
{
    for (size_t point = 0; point < WINOGRAD_POINTS; point++)
        for (size_t block = 0; block < c->blocks; block++)
            for (size_t o = 0; o < c->dy_ld; o += NR)
                outer(m->x + point * c->x_step + block * MR, c->x_ld,
                      m->dy + point * c->dy_step + o, c->dy_ld, tiles,
                      m->sums + (point * c->x_ld + block * MR) * c->dy_ld + o, c->dy_ld);
}

/* Sums tiles from .. to, counted over all feature maps. */
INLINE void sum_tiles(const struct weights_job *j, const struct partition *c,
                      const struct memory *m, size_t from, size_t to, bool bf16)
{
    memset(m->sums, 0, sums_floats(c) * sizeof *m->sums);
    memset(m->bias, 0, c->dy_ld * sizeof *m->bias);
    for (size_t first = from; first < to; first += c->wave) {
        size_t tiles = to - first < c->wave ? to - first : c->wave;
        for (size_t slot = 0; slot < tiles; slot++)
            transform(j, c, m, first + slot, slot, bf16);
        multiply(c, m, tiles);
    }
}

/* The sum over all threads for channel i of x at one point, for a vector of dy's channels. */
INLINE vf total(const struct weights_job *j, const struct partition *c, size_t point, size_t i,
                size_t o)
{
    const float *sums = memory_of(c, j->scratch, 0).sums + (point * c->x_ld + i) * c->dy_ld + o;
    vf sum = vget(sums);
    for (size_t k = 1; k < (size_t)j->threads; k++)
        sum += vget(sums + k * thread_floats(c));
    return sum;
}

/* Stores the weights of one channel of x. */
static void put_away(const struct weights_job *j, const struct partition *c, size_t i)
{
    const struct trained_conv_desc *d = j->d;
    for (size_t o = 0; o < d->oc; o += VEC) {
        vf half[3][6];
        float taps[TAPS][VEC];
        for (int col = 0; col < 6; col++) {
            vf in[6], out[3];
            for (int row = 0; row < 6; row++)
                in[row] = total(j, c, (size_t)row * 6 + (size_t)col, i, o);
            weight_1d(out, in);
            for (int row = 0; row < 3; row++)
                half[row][col] = out[row];
        }
        for (int row = 0; row < 3; row++) {
            vf out[3];
            weight_1d(out, half[row]);
            for (int col = 0; col < 3; col++)
                vput(taps[row * 3 + col], out[col]);
        }
        for (size_t l = 0; l < VEC && o + l < d->oc; l++)
            for (size_t t = 0; t < TAPS; t++)
                j->dweight[((o + l) * d->ic + i) * TAPS + t] += taps[t][l];
    }
}

static void add_bias(const struct weights_job *j, const struct partition *c)
{
    for (size_t k = 0; j->dbias && k < (size_t)j->threads; k++)
        for (size_t o = 0; o < j->d->oc; o++)
            j->dbias[o] += memory_of(c, j->scratch, k).bias[o];
}

void ISA_FN(weights_winograd)(const struct weights_job *j)
{
    const struct partition c = partition_of(j->d);
    const size_t all = j->n * c.tiles, threads = (size_t)j->threads;
#pragma omp parallel num_threads(j->threads)
    {
#pragma omp for schedule(static)
        for (size_t k = 0; k < threads; k++) {
            const struct memory m = memory_of(&c, j->scratch, k);
            size_t from = k * all / threads, to = (k + 1) * all / threads;
            if (j->d->dtype == DT_BF16)
                sum_tiles(j, &c, &m, from, to, true);
            else
                sum_tiles(j, &c, &m, from, to, false);
        }
#pragma omp single nowait
        add_bias(j, &c);
#pragma omp for schedule(static)
        for (size_t i = 0; i < j->d->ic; i++)
            put_away(j, &c, i);
    }
}
