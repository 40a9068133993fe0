/* Gradients of norms. Group norm: u is the input of SiLU, x^ the normalised x. A row needs the sums
 * of du and of du x^ over each channel. The parameters' gradients follow from them and, per group,
 * what is subtracted from every pixel. Batch norm: the same over all rows; between its two passes
 * the caller adds up the sums. */
#include <math.h>

#include "engine/cpu/backward.h"
#include "engine/cpu/backward_tables.h"
#include "engine/cpu/sigmoid.h"

/* d/du of u / (1 + e^-u) */
INLINE vf silu_slope(vf u)
{
    vf s = vsigmoid(u);
    return s + s * u * (1.0f - s);
}

/* One row's scratch: constants of its channels, and the sums of its chunks. Each is [ld]. */
struct row {
    size_t ld, chunks;
    float *shift, *rstd; /* x^ = (x - shift) rstd + centre */
    float *centre;
    float *scale, *offset; /* u = x^ scale + offset */
    float *off, *off_x;    /* dx = rstd (scale du - off - x^ off_x) */
    float *dgamma, *dbeta;
    float *sums; /* [chunks][2] */
};

static size_t padded(uint32_t c)
{
    return ((size_t)c + 15) / 16 * 16;
}

static size_t chunks_of(size_t pixels)
{
    size_t chunks = (pixels + 255) / 256;
    return chunks < BACKWARD_CHUNKS ? chunks : BACKWARD_CHUNKS;
}

static struct row row_of(const struct norm_gradient_job *j, uint32_t n)
{
    size_t ld = padded(j->c);
    float *at = j->scratch + n * (9 + 2 * BACKWARD_CHUNKS) * ld;
    return (struct row){ .ld = ld,
                         .chunks = chunks_of(j->pixels),
                         .shift = at,
                         .rstd = at + ld,
                         .centre = at + 2 * ld,
                         .scale = at + 3 * ld,
                         .offset = at + 4 * ld,
                         .off = at + 5 * ld,
                         .off_x = at + 6 * ld,
                         .dgamma = at + 7 * ld,
                         .dbeta = at + 8 * ld,
                         .sums = at + 9 * ld };
}

/* A pass over a chunk's pixels covers up to SPAN vectors of channels at a time, so that it reads
 * whole cache lines in order. */
enum { SPAN = 4 };

/* Calls loop(j, row, n, chunk, first channel, vectors, bf16) with the last two as constants. Only a
 * span of one vector may end in a partial vector. */
#define BY_SPAN(loop, j, r, n, k, bf16)                                                            \
    for (size_t c = 0; c < (j)->c;) {                                                              \
        if ((j)->c - c >= SPAN * VEC) {                                                            \
            loop(j, r, n, k, c, SPAN, bf16);                                                       \
            c += SPAN * VEC;                                                                       \
        } else if ((j)->c - c >= 2 * VEC) {                                                        \
            loop(j, r, n, k, c, 2, bf16);                                                          \
            c += 2 * VEC;                                                                          \
        } else {                                                                                   \
            loop(j, r, n, k, c, 1, bf16);                                                          \
            c += VEC;                                                                              \
        }                                                                                          \
    }

/* Vector w of a span that begins at channel c of a pixel. */
INLINE vf span_load(const void *p, size_t pixel, size_t ld, const struct norm_gradient_job *j,
                    size_t c, size_t w, size_t width, bool bf16)
{
    size_t at = pixel * ld + c + w * VEC;
    return width > 1 ? vload_full(p, at, bf16) : vload(p, at, j->c - c, bf16);
}

INLINE void span_store(void *p, size_t pixel, size_t ld, const struct norm_gradient_job *j,
                       size_t c, size_t w, size_t width, vf v, bool bf16)
{
    vstore(p, pixel * ld + c + w * VEC, width > 1 ? VEC : j->c - c, v, bf16);
}

struct chunk {
    size_t first, from, to; /* first pixel of the row; pixels of the chunk */
};

INLINE struct chunk chunk_of(const struct norm_gradient_job *j, const struct row *r, uint32_t n,
                             size_t k)
{
    size_t first = n * j->pixels;
    return (struct chunk){ first, first + k * j->pixels / r->chunks,
                           first + (k + 1) * j->pixels / r->chunks };
}

/* For each channel of chunk k, the sums of x - shift and of its square. */
INLINE void moments_span(const struct norm_gradient_job *j, const struct row *r, uint32_t n,
                         size_t k, size_t c, size_t width, bool bf16)
{
    const struct chunk p = chunk_of(j, r, n, k);
    float *sum = r->sums + 2 * k * r->ld + c, *square = sum + r->ld;
    vf shift[SPAN], s[SPAN], q[SPAN];
    for (size_t w = 0; w < width; w++) {
        shift[w] = span_load(j->x, p.first, j->x_ld, j, c, w, width, bf16);
        s[w] = q[w] = vsplat(0);
    }
    for (size_t i = p.from; i < p.to; i++)
        for (size_t w = 0; w < width; w++) {
            vf v = span_load(j->x, i, j->x_ld, j, c, w, width, bf16) - shift[w];
            s[w] += v;
            q[w] += v * v;
        }
    for (size_t w = 0; w < width; w++) {
        vput(sum + w * VEC, s[w]);
        vput(square + w * VEC, q[w]);
    }
}

static void total(const struct row *r, size_t c, double *sum, double *other)
{
    *sum = *other = 0;
    for (size_t k = 0; k < r->chunks; k++) {
        *sum += (double)r->sums[2 * k * r->ld + c];
        *other += (double)r->sums[(2 * k + 1) * r->ld + c];
    }
}

/* Mean and 1 / standard deviation of each group of row n, from its channels' sums. */
static void find_moments(const struct norm_gradient_job *j, const struct row *r, uint32_t n)
{
    uint32_t width = j->c / j->groups;
    double *out = j->moments + (size_t)n * j->groups * 2, count = (double)j->pixels, sum, square;
    for (uint32_t g = 0; g < j->groups; g++, out += 2) {
        double mean = 0, spread = 0;
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t c = g * width; c < (g + 1) * width; c++) {
                total(r, c, &sum, &square);
                double m = (double)r->shift[c] + sum / count;
                if (pass == 0)
                    mean += m / width;
                else
                    spread += (square - sum * sum / count) / count + (m - mean) * (m - mean);
            }
        if (spread < 0) spread = 0; /* rounding; a NaN stays a NaN */
        out[0] = mean;
        out[1] = 1.0 / sqrt(spread / width + (double)j->eps);
    }
}

static void norm_constants(const struct norm_gradient_job *j, const struct row *r, uint32_t n)
{
    uint32_t width = j->c / j->groups;
    const double *moments = j->moments + (size_t)n * j->groups * 2;
    const float *ss = j->scale_shift ? j->scale_shift + n * j->ss_ld : NULL;
    for (uint32_t c = 0; c < j->c; c++) {
        double mean = moments[c / width * 2], rstd = moments[c / width * 2 + 1];
        double by = ss ? 1.0 + (double)ss[c] : 1.0, shift = ss ? (double)ss[j->c + c] : 0.0;
        float centre = (float)mean;
        r->shift[c] = centre;
        r->rstd[c] = (float)rstd;
        r->centre[c] = (float)(((double)centre - mean) * rstd);
        r->scale[c] = (float)((double)j->gamma[c] * by);
        r->offset[c] = (float)((double)j->beta[c] * by + shift);
    }
}

/* Sums of du and du x^. du replaces dy for the pass that follows. */
INLINE void gradient_span(const struct norm_gradient_job *j, const struct row *r, uint32_t n,
                          size_t k, size_t c, size_t width, bool bf16)
{
    const struct chunk p = chunk_of(j, r, n, k);
    float *sum = r->sums + 2 * k * r->ld + c, *with_x = sum + r->ld;
    vf s[SPAN], q[SPAN], shift[SPAN], rstd[SPAN], centre[SPAN], scale[SPAN], offset[SPAN];
    for (size_t w = 0; w < width; w++) {
        s[w] = q[w] = vsplat(0);
        shift[w] = vget(r->shift + c + w * VEC);
        rstd[w] = vget(r->rstd + c + w * VEC);
        centre[w] = vget(r->centre + c + w * VEC);
        scale[w] = vget(r->scale + c + w * VEC);
        offset[w] = vget(r->offset + c + w * VEC);
    }
    for (size_t i = p.from; i < p.to; i++)
        for (size_t w = 0; w < width; w++) {
            vf x = span_load(j->x, i, j->x_ld, j, c, w, width, bf16);
            vf xhat = (x - shift[w]) * rstd[w] + centre[w];
            vf du = span_load(j->dy, i, j->dy_ld, j, c, w, width, bf16);
            if (j->silu) {
                du *= silu_slope(xhat * scale[w] + offset[w]);
                span_store(j->dy, i, j->dy_ld, j, c, w, width, du, bf16);
            }
            s[w] += du;
            q[w] += du * xhat;
        }
    for (size_t w = 0; w < width; w++) {
        vput(sum + w * VEC, s[w]);
        vput(with_x + w * VEC, q[w]);
    }
}

static void give(float *to, bool add, double v)
{
    *to = add ? *to + (float)v : (float)v;
}

static void gradient_constants(const struct norm_gradient_job *j, const struct row *r, uint32_t n)
{
    uint32_t width = j->c / j->groups;
    const float *ss = j->scale_shift ? j->scale_shift + n * j->ss_ld : NULL;
    float *dss = j->dscale_shift ? j->dscale_shift + n * j->dss_ld : NULL;
    for (uint32_t g = 0; g < j->groups; g++) {
        double count = (double)j->pixels * width, off = 0, off_x = 0, du, du_x;
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            double by = ss ? 1.0 + (double)ss[c] : 1.0;
            total(r, c, &du, &du_x);
            off += (double)r->scale[c] * du / count;
            off_x += (double)r->scale[c] * du_x / count;
            r->dgamma[c] = (float)(by * du_x);
            r->dbeta[c] = (float)(by * du);
            if (!dss) continue;
            give(dss + c, j->add_ss, (double)j->gamma[c] * du_x + (double)j->beta[c] * du);
            give(dss + j->c + c, j->add_ss, du);
        }
        for (uint32_t c = g * width; c < (g + 1) * width; c++) {
            r->off[c] = (float)off;
            r->off_x[c] = (float)off_x;
        }
    }
}

INLINE void put_span(const struct norm_gradient_job *j, const struct row *r, uint32_t n, size_t k,
                     size_t c, size_t width, bool bf16)
{
    const struct chunk p = chunk_of(j, r, n, k);
    vf shift[SPAN], rstd[SPAN], centre[SPAN], by[SPAN], off[SPAN], off_x[SPAN];
    for (size_t w = 0; w < width; w++) {
        shift[w] = vget(r->shift + c + w * VEC);
        rstd[w] = vget(r->rstd + c + w * VEC);
        centre[w] = vget(r->centre + c + w * VEC);
        by[w] = vget(r->scale + c + w * VEC);
        off[w] = vget(r->off + c + w * VEC);
        off_x[w] = vget(r->off_x + c + w * VEC);
    }
    for (size_t i = p.from; i < p.to; i++)
        for (size_t w = 0; w < width; w++) {
            vf x = span_load(j->x, i, j->x_ld, j, c, w, width, bf16);
            vf xhat = (x - shift[w]) * rstd[w] + centre[w];
            vf du = span_load(j->dy, i, j->dy_ld, j, c, w, width, bf16);
            vf v = (by[w] * du - off[w] - xhat * off_x[w]) * rstd[w];
            if (j->add) v += span_load(j->dx, i, j->dx_ld, j, c, w, width, bf16);
            span_store(j->dx, i, j->dx_ld, j, c, w, width, v, bf16);
        }
}

/* The last vector of a row's constants may extend beyond the channels. */
static void clear(const struct norm_gradient_job *j, const struct row *r, uint32_t n)
{
    memset(r->shift, 0, 9 * r->ld * sizeof *r->shift);
    for (size_t c = 0; c < j->c; c += VEC)
        vstore(r->shift, c, j->c - c,
               j->dtype == DT_BF16 ? vload(j->x, n * j->pixels * j->x_ld + c, j->c - c, true)
                                   : vload(j->x, n * j->pixels * j->x_ld + c, j->c - c, false),
               false);
}

static void add_parameters(const struct norm_gradient_job *j)
{
    for (uint32_t n = 0; n < j->n; n++) {
        struct row r = row_of(j, n);
        for (uint32_t c = 0; c < j->c; c++) {
            if (j->dgamma) j->dgamma[c] += r.dgamma[c];
            if (j->dbeta) j->dbeta[c] += r.dbeta[c];
        }
    }
}

/* Calls loop(j, row, n, chunk, bf16) for every chunk of every row, divided among the team's
 * threads. */
#define BY_CHUNK(loop)                                                                             \
    _Pragma("omp for schedule(static)") for (size_t i = 0; i < j->n * chunks; i++)                 \
    {                                                                                              \
        const uint32_t n = (uint32_t)(i / chunks);                                                 \
        const struct row r = row_of(j, n);                                                         \
        if (j->dtype == DT_BF16)                                                                   \
            BY_SPAN(loop, j, &r, n, i % chunks, true)                                              \
        else                                                                                       \
            BY_SPAN(loop, j, &r, n, i % chunks, false)                                             \
    }

/* Run by the whole team: every row's moments, unless they are known, and the constants that follow
 * from them. */
static void prepare(const struct norm_gradient_job *j, size_t chunks)
{
    if (!j->known_moments) BY_CHUNK(moments_span)
#pragma omp for schedule(static)
    for (uint32_t n = 0; n < j->n; n++) {
        const struct row r = row_of(j, n);
        clear(j, &r, n);
        if (!j->known_moments) find_moments(j, &r, n);
        norm_constants(j, &r, n);
    }
}

INLINE void forward_span(const struct norm_gradient_job *j, const struct row *r, uint32_t n,
                         size_t k, size_t c, size_t width, bool bf16)
{
    const struct chunk p = chunk_of(j, r, n, k);
    vf shift[SPAN], by[SPAN], offset[SPAN];
    for (size_t w = 0; w < width; w++) {
        vf scale = vget(r->scale + c + w * VEC);
        shift[w] = vget(r->shift + c + w * VEC);
        by[w] = vget(r->rstd + c + w * VEC) * scale;
        offset[w] = vget(r->centre + c + w * VEC) * scale + vget(r->offset + c + w * VEC);
    }
    for (size_t i = p.from; i < p.to; i++)
        for (size_t w = 0; w < width; w++) {
            vf u = span_load(j->x, i, j->x_ld, j, c, w, width, bf16);
            u = (u - shift[w]) * by[w] + offset[w];
            if (j->silu) u *= vsigmoid(u);
            span_store(j->dx, i, j->dx_ld, j, c, w, width, u, bf16);
        }
}

/* Where every thread gets the same number of rows, it takes whole rows one after the other: the
 * second pass then finds in the cache what the first one read. The sums are the same. */
static bool by_whole_rows(const struct norm_gradient_job *j)
{
    return j->n % (uint32_t)j->threads == 0;
}

/* The same for one row, by one thread. */
#define CHUNKS_OF_ROW(loop)                                                                        \
    for (size_t k = 0; k < r.chunks; k++) {                                                        \
        if (j->dtype == DT_BF16)                                                                   \
            BY_SPAN(loop, j, &r, n, k, true)                                                       \
        else                                                                                       \
            BY_SPAN(loop, j, &r, n, k, false)                                                      \
    }

static void prepare_row(const struct norm_gradient_job *j, uint32_t n)
{
    const struct row r = row_of(j, n);
    clear(j, &r, n);
    if (!j->known_moments) {
        CHUNKS_OF_ROW(moments_span)
        find_moments(j, &r, n);
    }
    norm_constants(j, &r, n);
}

static void forward_row(const struct norm_gradient_job *j, uint32_t n)
{
    const struct row r = row_of(j, n);
    prepare_row(j, n);
    CHUNKS_OF_ROW(forward_span)
}

static void gradient_row(const struct norm_gradient_job *j, uint32_t n)
{
    const struct row r = row_of(j, n);
    prepare_row(j, n);
    CHUNKS_OF_ROW(gradient_span)
    gradient_constants(j, &r, n);
    if (j->dx) CHUNKS_OF_ROW(put_span)
}

void ISA_FN(trained_group_norm)(const struct norm_gradient_job *j)
{
    size_t chunks = chunks_of(j->pixels);
    if (by_whole_rows(j)) {
#pragma omp parallel for schedule(static) num_threads(j->threads)
        for (uint32_t n = 0; n < j->n; n++)
            forward_row(j, n);
        return;
    }
#pragma omp parallel num_threads(j->threads)
    {
        prepare(j, chunks);
        BY_CHUNK(forward_span)
    }
}

void ISA_FN(group_norm_gradient)(const struct norm_gradient_job *j)
{
    size_t chunks = chunks_of(j->pixels);
    if (by_whole_rows(j)) {
#pragma omp parallel for schedule(static) num_threads(j->threads)
        for (uint32_t n = 0; n < j->n; n++)
            gradient_row(j, n);
        add_parameters(j);
        return;
    }
#pragma omp parallel num_threads(j->threads)
    {
        prepare(j, chunks);
        BY_CHUNK(gradient_span)
#pragma omp for schedule(static)
        for (uint32_t n = 0; n < j->n; n++) {
            struct row r = row_of(j, n);
            gradient_constants(j, &r, n);
        }
#pragma omp single nowait
        add_parameters(j);
        if (j->dx) BY_CHUNK(put_span)
    }
}

/* ---- batch norm ---- */

/* The value that is multiplied by itself (forward) or by dy: x, or its normalised form. */
INLINE void batch_chunk(const struct batch_job *j, float *sum, size_t from, size_t to, bool bf16)
{
    size_t ld = padded(j->c);
    for (size_t c = 0; c < j->c; c += VEC) {
        vf s = vsplat(0), q = vsplat(0);
        for (size_t i = from; i < to; i++) {
            vf x = vload(j->x, i * j->x_ld + c, j->c - c, bf16), g = x;
            if (j->dy) {
                g = vload(j->dy, i * j->dy_ld + c, j->c - c, bf16);
                x = x * vload(j->scale, c, j->c - c, false) + vload(j->offset, c, j->c - c, false);
            }
            s += g;
            q += g * x;
        }
        vput(sum + c, s);
        vput(sum + ld + c, q);
    }
}

void ISA_FN(batch_sums)(const struct batch_job *j)
{
    size_t ld = padded(j->c), count = j->n * j->pixels;
    size_t chunks = chunks_of(count) * (count > 4096 ? j->n : 1);
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t k = 0; k < chunks; k++) {
        size_t from = k * count / chunks, to = (k + 1) * count / chunks;
        if (j->dtype == DT_BF16)
            batch_chunk(j, j->scratch + 2 * k * ld, from, to, true);
        else
            batch_chunk(j, j->scratch + 2 * k * ld, from, to, false);
    }
    for (uint32_t c = 0; c < j->c; c++) {
        j->sums[c] = j->sums[j->c + c] = 0;
        for (size_t k = 0; k < chunks; k++) {
            j->sums[c] += (double)j->scratch[2 * k * ld + c];
            j->sums[j->c + c] += (double)j->scratch[(2 * k + 1) * ld + c];
        }
    }
}

INLINE void batch_pixel(const struct batch_job *j, size_t i, bool bf16)
{
    for (size_t c = 0; c < j->c; c += VEC) {
        size_t left = j->c - c;
        vf v = vload(j->x, i * j->x_ld + c, left, bf16) * vload(j->scale, c, left, false) +
               vload(j->offset, c, left, false);
        if (j->by_dy)
            v += vload(j->dy, i * j->dy_ld + c, left, bf16) * vload(j->by_dy, c, left, false);
        if (j->add) v += vload(j->out, i * j->out_ld + c, left, bf16);
        vstore(j->out, i * j->out_ld + c, left, v, bf16);
    }
}

void ISA_FN(batch_apply)(const struct batch_job *j)
{
#pragma omp parallel for schedule(static) num_threads(j->threads)
    for (size_t i = 0; i < j->n * j->pixels; i++) {
        if (j->dtype == DT_BF16)
            batch_pixel(j, i, true);
        else
            batch_pixel(j, i, false);
    }
}
