/* Noise and the sampler's single step (engine/README.md section 3). */
#include <math.h>
#include <stdlib.h>

#include "engine/graph/philox.h"
#include "tests/reference/reference.h"

static float normal_at(const struct normals_args *a, uint32_t x, uint32_t y, uint32_t channel)
{
    float four[4];
    philox_normals4(four, a->seed, a->stream, a->sample, channel, x / 4, y);
    return four[x % 4];
}

enum status reference_normals(struct backend *b, const struct normals_args *a, struct error *err)
{
    (void)b;
    (void)err;
    float *dst = a->dst;
    for (uint32_t y = 0; y < a->h; y++)
        for (uint32_t x = 0; x < a->w; x++)
            for (uint32_t c = 0; c < a->channels; c++)
                *dst++ = normal_at(a, a->x0 + x, a->y0 + y, c);
    return ST_OK;
}

enum status reference_sampler_in(struct backend *b, const float *y_in, const float *z, float hz,
                                 float *x, size_t count, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < count; i++)
        x[i] = (float)((double)y_in[i] + (double)hz * (double)z[i]);
    return ST_OK;
}

enum status reference_sampler_join(struct backend *b, const float *y_in, const float *z, float hz,
                                   float *x, size_t pixels, struct error *err)
{
    (void)b;
    (void)err;
    for (size_t i = 0; i < 6 * pixels; i++) {
        const size_t pixel = i / 6, c = i % 6;
        x[i] = c < 3 ? y_in[3 * pixel + c] : (float)((double)hz * (double)z[3 * pixel + c - 3]);
    }
    return ST_OK;
}

enum status reference_sampler_out(struct backend *b, const struct tensor *x,
                                  const struct tensor *eps, float std, bool linear,
                                  const struct tensor *x0, struct error *err)
{
    (void)b;
    enum status s = expect(x->c == 3 && x0->c == 3 && eps->c >= 3 && x->h == eps->h &&
                               x->w == eps->w && x->n == eps->n,
                           "the sampler's feature maps do not fit", err);
    for (uint32_t n = 0; !s && n < x->n; n++)
        for (uint32_t i = 0; i < x->h * x->w; i++)
            for (uint32_t c = 0; c < 3; c++) {
                const double v =
                    (double)pixel(x, n, 0, i)[c] - (double)std * (double)pixel(eps, n, 0, i)[c];
                pixel(x0, n, 0, i)[c] = (float)(!linear ? tanh(v) : v < -1 ? -1 : v > 1 ? 1 : v);
            }
    return s;
}
