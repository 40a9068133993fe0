/* Convolution plans: which of the three algorithms a shape uses (a fixed rule, never a
 * measurement), and the packing of weights. */
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/bf16_shape.h"
#include "engine/cpu/internal.h"

struct conv_plan {
    struct conv_desc d;
    enum way way;
    struct bf16_shape bf16;
    /* Direct: [oc / nr][kernel * kernel * ic][nr] F32; Winograd: [oc / nr][36][ic][nr] F32; BF16:
     * as in bf16_pack(). */
    void *weight;
    float *bias; /* [conditions][oc] */
    /* Scratch, in floats: the prologue's constants, the partial sums of moments, then one stride
     * per thread. */
    size_t constants, partial, scratch_stride;
    size_t bytes; /* of weight and bias */
};

/* Winograd's weights are four times as large, so it pays only for feature maps of many pixels. */
static bool wants_bf16(const struct conv_desc *d, const struct kernels *k)
{
    return d->dtype == DT_BF16 && k->conv_bf16;
}

static bool wants_winograd(const struct conv_desc *d, const struct kernels *k)
{
    return d->kernel == 3 && d->stride == 1 && d->h >= 32 && d->w >= 32 && d->ic % k->vec == 0;
}

static void pack_direct(struct conv_plan *p, const float *weight, uint32_t nr)
{
    size_t ic = p->d.ic, taps = (size_t)p->d.kernel * p->d.kernel;
    for (size_t o = 0; o < p->d.oc; o++)
        for (size_t i = 0; i < ic; i++)
            for (size_t t = 0; t < taps; t++)
                ((float *)p->weight)[((o / nr * taps + t) * ic + i) * nr + o % nr] =
                    weight[(o * ic + i) * taps + t];
}

/* G g G^T, with the points of winograd.c: rows [1 p p^2] / prod(p - q). */
static void pack_winograd(struct conv_plan *p, const float *weight, uint32_t nr)
{
    const double a = 0.70710678118654752440, b = 1.41421356237309504880;
    const double na = 1.0 / (2 * 0.5 * (0.5 - 2.0)), nb = 1.0 / (2 * 2.0 * (2.0 - 0.5));
    const double g[6][3] = { { 1, 0, 0 },
                             { na, na * a, na * 0.5 },
                             { na, -na * a, na * 0.5 },
                             { nb, nb * b, nb * 2 },
                             { nb, -nb * b, nb * 2 },
                             { 0, 0, 1 } };
    size_t ic = p->d.ic;
    for (size_t o = 0; o < p->d.oc; o++)
        for (size_t i = 0; i < ic; i++) {
            const float *w = weight + (o * ic + i) * 9;
            double half[6][3];
            for (int r = 0; r < 6; r++)
                for (int c = 0; c < 3; c++)
                    half[r][c] = g[r][0] * (double)w[c] + g[r][1] * (double)w[3 + c] +
                                 g[r][2] * (double)w[6 + c];
            float *to = (float *)p->weight + (o / nr * WINOGRAD_POINTS * ic + i) * nr + o % nr;
            for (int r = 0; r < 6; r++)
                for (int c = 0; c < 6; c++)
                    to[(size_t)(r * 6 + c) * ic * nr] =
                        (float)(half[r][0] * g[c][0] + half[r][1] * g[c][1] + half[r][2] * g[c][2]);
        }
}

static void pack(struct conv_plan *p, const struct cpu_backend *cpu, const float *weight)
{
    switch (p->way) {
    case WAY_DIRECT: pack_direct(p, weight, cpu->k->nr); break;
    case WAY_WINOGRAD: pack_winograd(p, weight, cpu->k->nr); break;
    case WAY_BF16: bf16_pack(&p->bf16, &p->d, weight, p->weight); break;
    }
}

struct conv_packing cpu_conv_packing(struct conv_plan *p)
{
    return (struct conv_packing){ p->way, &p->bf16, p->weight, p->bias };
}

void cpu_conv_plan_free(struct backend *b, struct conv_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weight);
    free(p->bias);
    free(p);
}

/* Sets the plan's algorithm and its scratch; returns the bytes of packed weights. */
static size_t choose_way(struct conv_plan *p, const struct cpu_backend *cpu)
{
    const struct conv_desc *d = &p->d;
    size_t ic = d->ic, nr = cpu->k->nr, padded = (d->oc + nr - 1) / nr * nr;
    if (wants_bf16(d, cpu->k)) {
        p->way = WAY_BF16;
        p->bf16 = bf16_shape_of(d, cpu->threads);
        size_t k = p->bf16.k, wide = (size_t)p->bf16.panels * BF16_PANEL;
        p->constants = cpu_norm_scratch(ic > wide ? ic : wide) + 2 * k;
        p->partial = 2 * wide * (p->bf16.exact ? p->bf16.oh : p->bf16.blocks);
        p->scratch_stride = (p->bf16.tile_buffer_elements + 31) / 32 * 16;
        return p->bf16.weight_elements * sizeof(uint16_t);
    }
    p->way = wants_winograd(d, cpu->k) ? WAY_WINOGRAD : WAY_DIRECT;
    bool winograd = p->way == WAY_WINOGRAD;
    size_t k = winograd ? (size_t)WINOGRAD_POINTS * ic : (size_t)d->kernel * d->kernel * ic;
    p->scratch_stride =
        winograd ? (size_t)WINOGRAD_POINTS * WINOGRAD_TILES * (ic + nr) : (size_t)DIRECT_PIXELS * k;
    p->scratch_stride = (p->scratch_stride + 15) / 16 * 16;
    return k * padded * sizeof(float);
}

/* Only a BF16 tile_buffer supports a prologue: the other algorithms read their input more than
 * once. */
bool cpu_supports_prologue(struct backend *b, const struct conv_desc *d)
{
    return wants_bf16(d, ((struct cpu_backend *)b)->k) && d->stride == 1 && d->ic >= BF16_DEPTH &&
           (d->prologue.resample == RESAMPLE_NONE || d->kernel == 3);
}

enum status cpu_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                          const float *bias, struct conv_plan **out, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    enum status s =
        cpu_expect((d->kernel == 1 || d->kernel == 3) && (d->stride == 1 || d->stride == 2) &&
                       d->conditions > 0 && d->h > 0 && d->w > 0 && d->ic > 0 && d->oc > 0 &&
                       b->ops->device.has_dtype(b, d->dtype) &&
                       (!d->prologue.norm || cpu_supports_prologue(b, d)) && d->x_ld >= d->ic &&
                       d->y_ld >= d->oc && (d->r_ld == 0 || d->r_ld >= d->oc),
                   "a convolution that cannot be", err);
    if (s) return s;
    struct conv_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution's plan");
    p->d = *d;
    size_t weights = choose_way(p, cpu), biases = (size_t)d->conditions * d->oc * sizeof *p->bias;
    p->bytes = weights + biases;
    p->weight = cpu_floats(weights / sizeof(float) + 1);
    p->bias = calloc((size_t)d->conditions * d->oc, sizeof *p->bias);
    if (!p->weight || !p->bias) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes of packed weights", weights);
        goto done;
    }
    size_t scratch = p->constants + p->partial + p->scratch_stride * (size_t)cpu->threads;
    size_t norm = cpu_norm_scratch(d->ic); /* of the preceding norm, which has no plan */
    s = cpu_scratch_reserve(cpu, scratch > norm ? scratch : norm, err);
    if (s) goto done;
    memset(p->weight, 0, weights);
    if (weight) pack(p, cpu, weight);
    if (bias) memcpy(p->bias, bias, biases);
    *out = p;
    p = NULL;
done:
    cpu_conv_plan_free(b, p);
    return s;
}

size_t cpu_conv_plan_bytes(const struct conv_plan *p)
{
    return p->bytes;
}

static bool fits(const struct tensor *t, uint32_t h, uint32_t w, uint32_t c, size_t ld,
                 enum dtype dtype)
{
    return t->h == h && t->w == w && t->c == c && t->ld == ld && t->dtype == dtype;
}

/* True if the prologue turns x into d->h x d->w. */
static bool fits_input(const struct conv_desc *d, const struct tensor *x)
{
    uint32_t h = d->h, w = d->w;
    if (d->prologue.resample == RESAMPLE_UP) {
        if (h % 2 || w % 2) return false;
        h /= 2;
        w /= 2;
    } else if (d->prologue.resample == RESAMPLE_DOWN) {
        h *= 2;
        w *= 2;
    }
    return fits(x, h, w, d->ic, d->x_ld, d->dtype);
}

struct norm_job cpu_norm_job(const struct cpu_backend *cpu, const struct tensor *x, uint32_t row)
{
    return (struct norm_job){ .x = cpu_row(x, row),
                              .dtype = x->dtype,
                              .pixels = (size_t)x->h * x->w,
                              .x_ld = x->ld,
                              .c = x->c,
                              .scratch = cpu->scratch,
                              .threads = cpu->threads };
}

/* Row n's scale and offset, at the end of the scratch for constants. */
static void prologue_constants(const struct cpu_backend *cpu, const struct conv_plan *p,
                               const struct tensor *x, const struct prologue_args *prologue,
                               uint32_t n, struct conv_job *j)
{
    size_t k = p->bf16.k, condition = prologue->condition ? prologue->condition[n] : 0;
    float *scale = cpu->scratch + p->constants - 2 * k, *offset = scale + k;
    struct norm_job norm = cpu_norm_job(cpu, x, n);
    norm.groups = p->d.prologue.groups;
    norm.eps = p->d.prologue.eps;
    norm.gamma = prologue->gamma + condition * x->c;
    norm.beta = prologue->beta + condition * x->c;
    norm.scale_shift = prologue->scale_shift ? cpu_row(prologue->scale_shift, n) : NULL;
    norm.split = prologue->split;
    for (int i = 0; i < 2; i++) {
        const struct moments *m = &prologue->in[i];
        norm.moments[i] = m->data ? m->data + 2 * n * m->ld : NULL;
        norm.moments_ld[i] = m->ld;
    }
    memset(scale, 0, 2 * k * sizeof *scale);
    cpu->k->norm_constants(&norm, scale, offset);
    j->scale = scale;
    j->offset = offset;
}

static void run_bf16(const struct cpu_backend *cpu, const struct conv_plan *p,
                     const struct tensor *x, const struct prologue_args *prologue,
                     const struct tensor *y, uint32_t n, struct conv_job *j)
{
    double *moments =
        prologue && prologue->out.data ? prologue->out.data + 2 * n * prologue->out.ld : NULL;
    bool apart = p->bf16.padded && !p->bf16.exact;
    j->bf16 = &p->bf16;
    j->scratch = cpu->scratch + p->constants + p->partial;
    if (prologue && p->d.prologue.norm) prologue_constants(cpu, p, x, prologue, n, j);
    if (moments && !apart) {
        j->partial = cpu->scratch + p->constants;
        memset(j->partial, 0, p->partial * sizeof *j->partial);
        j->moments = moments;
        j->moments_ld = prologue->out.ld;
    }
    cpu->k->conv_bf16(j);
    if (moments && apart) {
        struct norm_job sums = cpu_norm_job(cpu, y, n);
        cpu->k->moments(&sums, moments, prologue->out.ld);
    }
}

enum status cpu_conv_with_prologue(struct backend *b, struct conv_plan *p, const struct tensor *x,
                                   const struct prologue_args *prologue,
                                   const struct tensor *residual, const struct tensor *y,
                                   const uint32_t *condition, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct conv_desc *d = &p->d;
    uint32_t oh = (d->h + d->stride - 1) / d->stride, ow = (d->w + d->stride - 1) / d->stride;
    enum status s =
        cpu_expect(fits_input(d, x) && fits(y, oh, ow, d->oc, d->y_ld, d->dtype) && x->n == y->n &&
                       !residual == !d->r_ld &&
                       (!residual || (residual->n == y->n &&
                                      fits(residual, oh, ow, d->oc, d->r_ld, d->dtype))) &&
                       (prologue ? p->way == WAY_BF16 : !d->prologue.norm),
                   "a convolution's tensors are not those of its plan", err);
    uint32_t rows = p->way == WAY_BF16 || condition ? 1 : y->n; /* that run together */
    for (uint32_t n = 0; !s && n < y->n; n += rows) {
        uint32_t k = condition ? condition[n] : 0;
        s = cpu_expect(k < d->conditions, "a bias set that does not exist", err);
        if (s) return s;
        struct conv_job j = { .d = d,
                              .weight = p->weight,
                              .bias = p->bias + (size_t)k * d->oc,
                              .x = cpu_row(x, n),
                              .residual = residual ? cpu_row(residual, n) : NULL,
                              .y = cpu_row(y, n),
                              .scratch = cpu->scratch,
                              .scratch_stride = p->scratch_stride,
                              .threads = cpu->threads,
                              .rows = rows };
        switch (p->way) {
        case WAY_DIRECT: cpu->k->conv_direct(&j); break;
        case WAY_WINOGRAD: cpu->k->conv_winograd(&j); break;
        case WAY_BF16: run_bf16(cpu, p, x, prologue, y, n, &j); break;
        }
    }
    return s;
}

enum status cpu_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                     const struct tensor *residual, const struct tensor *y,
                     const uint32_t *condition, struct error *err)
{
    return cpu_conv_with_prologue(b, p, x, NULL, residual, y, condition, err);
}
