#include "engine/graph/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/graph/backend/gradients.h"

enum { PARAM_ALIGN = 16 /* floats */ };

/* ---- hash weights: engine/README.md section 7 ---- */

static uint64_t fnv1a64(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        h = (h ^ *c) * 0x100000001b3u;
    return h;
}

static uint64_t splitmix64(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void hash_values(const char *name, uint64_t seed, float *dst, size_t n)
{
    uint64_t base = fnv1a64(name) + seed * 0x9e3779b97f4a7c15u;
    double scale = sqrt(12.0);
    for (size_t i = 0; i < n; i++) {
        double u = (double)(splitmix64(base + i) >> 40) / 16777216.0;
        dst[i] = (float)((u - 0.5) * scale);
    }
}

static int ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

enum status hash_param_load(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    (void)err;
    const uint64_t *seed = ctx;
    hash_values(d->name, *seed, dst, d->count);
    if (d->dims > 1) {
        double fan_in = 1;
        for (uint32_t i = 1; i < d->dims; i++)
            fan_in *= d->shape[i];
        float scale = (float)(1.0 / sqrt(fan_in));
        for (uint64_t i = 0; i < d->count; i++)
            dst[i] *= scale;
    } else {
        float mean = ends_with(d->name, ".weight") ? 1.0f : 0.0f;
        for (uint64_t i = 0; i < d->count; i++)
            dst[i] = mean + dst[i] * 0.1f;
    }
    return ST_OK;
}

/* ---- loading ---- */

enum status param_load(const struct param_source *src, const struct param_desc *d, float **out,
                       struct error *err)
{
    float *values = malloc(d->count * sizeof *values);
    if (!values)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for the %llu values of %s",
                         (unsigned long long)d->count, d->name);
    enum status s = src->load(src->ctx, d, values, err);
    if (s) {
        free(values);
        return s;
    }
    *out = values;
    return ST_OK;
}

enum status param_layout_init(struct param_layout *out, const struct graph *g, struct error *err)
{
    size_t *offset = malloc((g->n_params + 1) * sizeof *offset), end = 0;
    if (!offset)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory to place %u parameters", g->n_params);
    for (uint32_t i = 0; i < g->n_params; i++) {
        offset[i] = end;
        end += (g->params[i].count + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
    }
    *out = (struct param_layout){ offset, end };
    return ST_OK;
}

void param_layout_done(struct param_layout *l)
{
    free(l->offset);
    *l = (struct param_layout){ 0 };
}

enum status params_load(struct backend *b, const struct graph *g, const struct param_layout *l,
                        const struct param_source *src, float *params, struct error *err)
{
    enum status s = b->ops->gradients->fill(b, params, l->count, 0, err);
    for (uint32_t i = 0; !s && i < g->n_params; i++) {
        float *values = NULL;
        s = param_load(src, &g->params[i], &values, err);
        if (!s)
            s = device_copy_in(b, params + l->offset[i], values,
                               g->params[i].count * sizeof *values, err);
        free(values);
    }
    return s;
}
