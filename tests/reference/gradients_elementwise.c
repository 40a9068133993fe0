/* Gradients of the elementwise ops and norms, batch norm, and the optimiser. */
#include <math.h>

#include "tests/reference/gradients.h"

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c;
}

static size_t pixels_of(const struct tensor *t)
{
    return (size_t)t->h * t->w;
}

/* d/du of u / (1 + e^-u) */
static double silu_slope(double u)
{
    double s = 1.0 / (1.0 + exp(-u));
    return s * (1.0 + u * (1.0 - s));
}

enum status reference_silu_gradient(struct backend *b, const struct tensor *x,
                                    const struct tensor *dy, const struct into *dx,
                                    struct error *err)
{
    (void)b;
    enum status s =
        expect(same_shape(x, dy) && same_shape(x, &dx->dst), "SiLU of different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (size_t c = 0; c < x->c; c++)
            put(dx, n, 0, c,
                (double)pixel(dy, n, 0, 0)[c] * silu_slope((double)pixel(x, n, 0, 0)[c]));
    return s;
}

enum status reference_label_gradient(struct backend *b, const uint32_t *label,
                                     const struct tensor *dy, float *dtable, struct error *err)
{
    (void)b;
    (void)err;
    for (uint32_t n = 0; n < dy->n; n++)
        for (size_t c = 0; c < dy->c; c++)
            dtable[label[n] * dy->c + c] += pixel(dy, n, 0, 0)[c];
    return ST_OK;
}

struct channel {
    double gamma, scale, shift, beta; /* y = silu((xhat gamma + beta) (1 + scale) + shift) */
    double du, du_xhat;               /* sums over the image; u: the input of SiLU */
};

struct group {
    double mean, rstd, du,
        du_xhat; /* the last two: means over the group, weighted with gamma (1 + scale) */
};

static double normed(const struct group_norm_args *f, const struct group *g, uint32_t n, size_t i,
                     size_t c)
{
    return ((double)pixel(&f->x, n, 0, (uint32_t)i)[c] - g->mean) * g->rstd;
}

static double du_at(const struct group_norm_gradient_args *a, const struct channel *k, double xhat,
                    uint32_t n, size_t i, size_t c)
{
    double dy = (double)pixel(&a->dy, n, 0, (uint32_t)i)[c];
    if (!a->forward.silu) return dy;
    return dy * silu_slope((xhat * k->gamma + k->beta) * (1.0 + k->scale) + k->shift);
}

static void group_moments(const struct group_norm_args *f, struct group *g, uint32_t n,
                          uint32_t first, uint32_t width)
{
    double count = (double)pixels_of(&f->x) * width, sum = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < pixels_of(&f->x); i++)
            for (uint32_t c = first; c < first + width; c++) {
                double v = (double)pixel(&f->x, n, 0, (uint32_t)i)[c];
                if (pass == 0)
                    sum += v;
                else
                    squares += (v - g->mean) * (v - g->mean);
            }
        g->mean = sum / count;
    }
    g->rstd = 1.0 / sqrt(squares / count + (double)f->eps);
}

enum status reference_trained_group_norm(struct backend *b, const struct group_norm_args *a,
                                         double *moments, struct error *err)
{
    uint32_t width = a->groups ? a->x.c / a->groups : 0;
    enum status s =
        expect(width > 0 && !a->condition, "a group norm whose groups do not divide", err);
    for (uint32_t n = 0; !s && n < a->x.n; n++)
        for (uint32_t i = 0; i < a->groups; i++) {
            struct group g = { 0 };
            group_moments(a, &g, n, i * width, width);
            moments[2 * (n * a->groups + i)] = g.mean;
            moments[2 * (n * a->groups + i) + 1] = g.rstd;
        }
    return s ? s : reference_group_norm(b, a, err);
}

static struct channel channel_of(const struct group_norm_gradient_args *a, const struct group *g,
                                 uint32_t n, uint32_t c)
{
    const struct group_norm_args *f = &a->forward;
    const float *ss = f->scale_shift ? pixel(f->scale_shift, n, 0, 0) : NULL;
    struct channel k = { .gamma = (double)f->gamma[c], .beta = (double)f->beta[c] };
    if (ss) k.scale = (double)ss[c];
    if (ss) k.shift = (double)ss[f->x.c + c];
    for (size_t i = 0; i < pixels_of(&f->x); i++) {
        double xhat = normed(f, g, n, i, c), du = du_at(a, &k, xhat, n, i, c);
        k.du += du;
        k.du_xhat += du * xhat;
    }
    return k;
}

enum status reference_group_norm_gradient(struct backend *b,
                                          const struct group_norm_gradient_args *a,
                                          struct error *err)
{
    (void)b;
    const struct group_norm_args *f = &a->forward;
    uint32_t c = f->x.c, width = f->groups ? c / f->groups : 0;
    size_t pixels = pixels_of(&f->x);
    enum status s = expect(width > 0 && width * f->groups == c && same_shape(&f->x, &a->dy) &&
                               (!a->dx.dst.data || same_shape(&f->x, &a->dx.dst)) && !f->condition,
                           "a group norm's gradient of different shapes", err);
    for (uint32_t n = 0; !s && n < f->x.n; n++)
        for (uint32_t first = 0; first < c; first += width) {
            struct group g = { 0 };
            group_moments(f, &g, n, first, width);
            for (uint32_t k = first; k < first + width; k++) {
                struct channel ch = channel_of(a, &g, n, k);
                double by = 1.0 + ch.scale;
                g.du += ch.gamma * by * ch.du / (double)(pixels * width);
                g.du_xhat += ch.gamma * by * ch.du_xhat / (double)(pixels * width);
                if (a->dgamma) a->dgamma[k] = (float)((double)a->dgamma[k] + by * ch.du_xhat);
                if (a->dbeta) a->dbeta[k] = (float)((double)a->dbeta[k] + by * ch.du);
                if (!a->dscale_shift.dst.data) continue;
                put(&a->dscale_shift, n, 0, k, ch.gamma * ch.du_xhat + ch.beta * ch.du);
                put(&a->dscale_shift, n, 0, c + k, ch.du);
            }
            for (uint32_t k = first; a->dx.dst.data && k < first + width; k++) {
                struct channel ch = channel_of(a, &g, n, k);
                for (size_t i = 0; i < pixels; i++) {
                    double xhat = normed(f, &g, n, i, k), du = du_at(a, &ch, xhat, n, i, k);
                    put(&a->dx, n, i, k,
                        g.rstd * (ch.gamma * (1.0 + ch.scale) * du - g.du - xhat * g.du_xhat));
                }
            }
        }
    return s;
}

enum status reference_upsample_gradient(struct backend *b, const struct tensor *dy,
                                        const struct into *dx, struct error *err)
{
    (void)b;
    const struct tensor *x = &dx->dst;
    enum status s = expect(dy->h == 2 * x->h && dy->w == 2 * x->w && dy->c == x->c && dy->n == x->n,
                           "upsampling to another size than twice", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t i = 0; i < x->h * x->w; i++)
            for (uint32_t c = 0; c < x->c; c++) {
                double sum = 0;
                for (uint32_t k = 0; k < 4; k++)
                    sum += (double)pixel(dy, n, i / x->w * 2 + k / 2, i % x->w * 2 + k % 2)[c];
                put(dx, n, i, c, sum);
            }
    return s;
}

enum status reference_downsample_gradient(struct backend *b, const struct tensor *dy,
                                          const struct into *dx, struct error *err)
{
    (void)b;
    const struct tensor *x = &dx->dst;
    enum status s = expect(x->h == 2 * dy->h && x->w == 2 * dy->w && dy->c == x->c && dy->n == x->n,
                           "downsampling to another size than half", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t i = 0; i < x->h * x->w; i++)
            for (uint32_t c = 0; c < x->c; c++)
                put(dx, n, i, c, (double)pixel(dy, n, i / x->w / 2, i % x->w / 2)[c] / 4);
    return s;
}

enum status reference_copy_into(struct backend *b, const struct tensor *x, const struct into *dst,
                                struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, &dst->dst), "a gradient passed to another shape", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (size_t i = 0; i < pixels_of(x); i++)
            for (size_t c = 0; c < x->c; c++)
                put(dst, n, i, c, (double)pixel(x, n, 0, (uint32_t)i)[c]);
    return s;
}

enum status reference_channel_sums(struct backend *b, const struct tensor *dy,
                                   const struct into *de, struct error *err)
{
    (void)b;
    enum status s = expect(dy->n == de->dst.n && dy->c == de->dst.c, "sums of other channels", err);
    for (uint32_t n = 0; !s && n < dy->n; n++)
        for (size_t c = 0; c < dy->c; c++) {
            double sum = 0;
            for (size_t i = 0; i < pixels_of(dy); i++)
                sum += (double)pixel(dy, n, 0, (uint32_t)i)[c];
            put(de, n, 0, c, sum);
        }
    return s;
}

enum status reference_batch_norm_sums(struct backend *b, const struct tensor *x, double *sums,
                                      struct error *err)
{
    (void)b;
    (void)err;
    for (size_t c = 0; c < x->c; c++) {
        sums[c] = sums[x->c + c] = 0;
        for (uint32_t n = 0; n < x->n; n++)
            for (size_t i = 0; i < pixels_of(x); i++) {
                double v = (double)pixel(x, n, 0, (uint32_t)i)[c];
                sums[c] += v;
                sums[x->c + c] += v * v;
            }
    }
    return ST_OK;
}

struct batch_channel {
    double mean, rstd;
};

static struct batch_channel batch_channel(const struct batch_norm_args *a, size_t c)
{
    double mean = a->sums[c] / a->count;
    double variance = a->sums[a->x.c + c] / a->count - mean * mean;
    return (struct batch_channel){ mean, 1.0 / sqrt(variance + (double)a->eps) };
}

enum status reference_batch_norm(struct backend *b, const struct batch_norm_args *a,
                                 const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(&a->x, y), "a batch norm of different shapes", err);
    for (size_t c = 0; !s && c < y->c; c++) {
        struct batch_channel k = batch_channel(a, c);
        for (uint32_t n = 0; n < y->n; n++)
            for (size_t i = 0; i < pixels_of(y); i++) {
                double v = ((double)pixel(&a->x, n, 0, (uint32_t)i)[c] - k.mean) * k.rstd;
                pixel(y, n, 0, (uint32_t)i)[c] =
                    (float)(v * (double)a->gamma[c] + (double)a->beta[c]);
            }
    }
    return s;
}

enum status reference_batch_norm_gradient_sums(struct backend *b, const struct batch_norm_args *a,
                                               const struct tensor *dy, double *dsums,
                                               float *dgamma, float *dbeta, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(&a->x, dy), "a batch norm of different shapes", err);
    for (size_t c = 0; !s && c < dy->c; c++) {
        struct batch_channel k = batch_channel(a, c);
        double sum = 0, with_x = 0;
        for (uint32_t n = 0; n < dy->n; n++)
            for (size_t i = 0; i < pixels_of(dy); i++) {
                double g = (double)pixel(dy, n, 0, (uint32_t)i)[c];
                sum += g;
                with_x += g * ((double)pixel(&a->x, n, 0, (uint32_t)i)[c] - k.mean) * k.rstd;
            }
        dsums[c] = sum;
        dsums[dy->c + c] = with_x;
        if (dgamma) dgamma[c] = (float)((double)dgamma[c] + with_x);
        if (dbeta) dbeta[c] = (float)((double)dbeta[c] + sum);
    }
    return s;
}

enum status reference_batch_norm_gradient(struct backend *b, const struct batch_norm_args *a,
                                          const struct tensor *dy, const double *dsums,
                                          const struct into *dx, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(&a->x, dy) && same_shape(dy, &dx->dst),
                           "a batch norm of different shapes", err);
    for (size_t c = 0; !s && c < dy->c; c++) {
        struct batch_channel k = batch_channel(a, c);
        for (uint32_t n = 0; n < dy->n; n++)
            for (size_t i = 0; i < pixels_of(dy); i++) {
                double xhat = ((double)pixel(&a->x, n, 0, (uint32_t)i)[c] - k.mean) * k.rstd;
                double g = (double)pixel(dy, n, 0, (uint32_t)i)[c];
                put(dx, n, i, c,
                    (double)a->gamma[c] * k.rstd *
                        (g - dsums[c] / a->count - xhat * dsums[dy->c + c] / a->count));
            }
    }
    return s;
}

enum status reference_leaky_relu(struct backend *b, const struct tensor *x, float slope,
                                 const struct tensor *y, struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(x, y), "a leaky ReLU of different shapes", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (size_t i = 0; i < pixels_of(x); i++)
            for (size_t c = 0; c < x->c; c++) {
                double v = (double)pixel(x, n, 0, (uint32_t)i)[c];
                pixel(y, n, 0, (uint32_t)i)[c] = (float)(v > 0 ? v : (double)slope * v);
            }
    return s;
}

enum status reference_leaky_relu_gradient(struct backend *b, const struct tensor *y, float slope,
                                          const struct tensor *dy, const struct into *dx,
                                          struct error *err)
{
    (void)b;
    enum status s = expect(same_shape(y, dy) && same_shape(y, &dx->dst),
                           "a leaky ReLU of different shapes", err);
    for (uint32_t n = 0; !s && n < y->n; n++)
        for (size_t i = 0; i < pixels_of(y); i++)
            for (size_t c = 0; c < y->c; c++) {
                double g = (double)pixel(dy, n, 0, (uint32_t)i)[c];
                put(dx, n, i, c, pixel(y, n, 0, (uint32_t)i)[c] > 0 ? g : (double)slope * g);
            }
    return s;
}

enum status reference_adamw(struct backend *b, const struct adamw_args *a, struct error *err)
{
    (void)b;
    (void)err;
    double unbias1 = 1 - pow(a->beta1, (double)a->step),
           unbias2 = 1 - pow(a->beta2, (double)a->step);
    for (size_t i = 0; i < a->count; i++) {
        double g = (double)a->gradient[i];
        double m = a->beta1 * (double)a->m[i] + (1 - a->beta1) * g;
        double v = a->beta2 * (double)a->v[i] + (1 - a->beta2) * g * g;
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        a->param[i] = (float)((double)a->param[i] * (1 - a->lr * a->weight_decay) -
                              a->lr * (m / unbias1) / (sqrt(v / unbias2) + a->eps));
    }
    return ST_OK;
}

enum status reference_average(struct backend *b, float *average, const float *x, size_t count,
                              float decay, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++)
        average[i] =
            (float)((double)decay * (double)average[i] + (1 - (double)decay) * (double)x[i]);
    return ST_OK;
}

enum status reference_fill(struct backend *b, float *x, size_t count, float value,
                           struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++)
        x[i] = value;
    return ST_OK;
}

enum status reference_scale(struct backend *b, float *x, size_t count, float by, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++)
        x[i] *= by;
    return ST_OK;
}

enum status reference_sum_squares(struct backend *b, const float *x, size_t count, double *out,
                                  struct error *err)
{
    (void)b;
    (void)err;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * (double)x[i];
    *out = sum;
    return ST_OK;
}
