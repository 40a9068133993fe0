/* Convolution plans: which of the two ways a shape goes (a fixed rule, never a measurement), and the packing of weights. */
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/inside.h"

struct conv_plan {
    struct conv_desc d;
    bool winograd;
    float
        *weight; /* direct: [oc / nr][kernel * kernel * ic][nr]; Winograd: [oc / nr][36][ic][nr] */
    float *bias; /* [sets][oc] */
    size_t scratch_stride;
    size_t bytes; /* of weight and bias */
};

/* Winograd's weights are four times as large, so it pays only where a picture has many pixels. */
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
                p->weight[((o / nr * taps + t) * ic + i) * nr + o % nr] =
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
            float *to = p->weight + (o / nr * WINOGRAD_POINTS * ic + i) * nr + o % nr;
            for (int r = 0; r < 6; r++)
                for (int c = 0; c < 6; c++)
                    to[(size_t)(r * 6 + c) * ic * nr] =
                        (float)(half[r][0] * g[c][0] + half[r][1] * g[c][1] + half[r][2] * g[c][2]);
        }
}

void cpu_conv_plan_free(struct backend *b, struct conv_plan *p)
{
    (void)b;
    if (!p) return;
    free(p->weight);
    free(p->bias);
    free(p);
}

enum status cpu_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                          const float *bias, struct conv_plan **out, struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    enum status s = cpu_expect(
        (d->kernel == 1 || d->kernel == 3) && (d->stride == 1 || d->stride == 2) && d->sets > 0 &&
            d->h > 0 && d->w > 0 && d->ic > 0 && d->oc > 0 && b->ops->has_dtype(b, d->dtype) &&
            d->x_ld >= d->ic && d->y_ld >= d->oc && (d->r_ld == 0 || d->r_ld >= d->oc),
        "a convolution that cannot be", err);
    if (s) return s;
    uint32_t nr = cpu->k->nr;
    size_t ic = d->ic, padded = ((size_t)d->oc + nr - 1) / nr * nr;
    struct conv_plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a convolution's plan");
    p->d = *d;
    p->winograd = wants_winograd(d, cpu->k);
    size_t k = p->winograd ? (size_t)WINOGRAD_POINTS * ic : (size_t)d->kernel * d->kernel * ic;
    p->scratch_stride = p->winograd ? (size_t)WINOGRAD_POINTS * WINOGRAD_TILES * (ic + nr)
                                    : (size_t)DIRECT_PIXELS * k;
    p->scratch_stride = (p->scratch_stride + 15) / 16 * 16;
    p->weight = cpu_floats(k * padded);
    p->bias = calloc((size_t)d->sets * d->oc, sizeof *p->bias);
    p->bytes = (k * padded + (size_t)d->sets * d->oc) * sizeof *p->weight;
    if (!p->weight || !p->bias) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes of packed weights",
                      k * padded * sizeof *p->weight);
        goto done;
    }
    s = cpu_scratch_reserve(cpu, p->scratch_stride * (size_t)cpu->threads, err);
    if (s) goto done;
    memset(p->weight, 0, k * padded * sizeof *p->weight);
    if (p->winograd)
        pack_winograd(p, weight, nr);
    else
        pack_direct(p, weight, nr);
    if (bias) memcpy(p->bias, bias, (size_t)d->sets * d->oc * sizeof *bias);
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

enum status cpu_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                     const struct tensor *residual, const struct tensor *y, const uint32_t *set,
                     struct error *err)
{
    struct cpu_backend *cpu = (struct cpu_backend *)b;
    const struct conv_desc *d = &p->d;
    uint32_t oh = (d->h + d->stride - 1) / d->stride, ow = (d->w + d->stride - 1) / d->stride;
    enum status s = cpu_expect(
        fits(x, d->h, d->w, d->ic, d->x_ld, d->dtype) &&
            fits(y, oh, ow, d->oc, d->y_ld, d->dtype) && x->n == y->n && !residual == !d->r_ld &&
            (!residual ||
             (residual->n == y->n && fits(residual, oh, ow, d->oc, d->r_ld, d->dtype))),
        "a convolution's tensors are not those of its plan", err);
    for (uint32_t n = 0; !s && n < y->n; n++) {
        uint32_t k = set ? set[n] : 0;
        s = cpu_expect(k < d->sets, "a bias set that does not exist", err);
        if (s) return s;
        struct conv_job j = { .d = d,
                              .weight = p->weight,
                              .bias = p->bias + (size_t)k * d->oc,
                              .x = cpu_row(x, n),
                              .residual = residual ? cpu_row(residual, n) : NULL,
                              .y = cpu_row(y, n),
                              .scratch = cpu->scratch,
                              .scratch_stride = p->scratch_stride,
                              .threads = cpu->threads };
        if (p->winograd)
            cpu->k->conv_winograd(&j);
        else
            cpu->k->conv_direct(&j);
    }
    return s;
}
