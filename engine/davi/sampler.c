/* Staging and the four steps of the sampler. The mathematics are the back end's ops and the program's. */
#include "engine/davi/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/philox.h"

static size_t row_floats(const struct sampler *s)
{
    return (size_t)3 * s->tile * s->tile;
}

size_t sampler_bytes(const struct sampler *s)
{
    return (s->host ? 5 : 4) * row_floats(s) * s->rows * sizeof(float);
}

enum status sampler_init(struct sampler *out, struct backend *b, struct program *p,
                         enum schedule_kind kind, uint32_t tile, struct error *err)
{
    struct sampler s = { .backend = b,
                         .program = p,
                         .constants = sampler_constants_of(kind),
                         .tile = tile,
                         .rows = program_rows(p) };
    const size_t bytes = row_floats(&s) * s.rows * sizeof(float);
    float **const all[] = { &s.y_in, &s.z, &s.x_t, &s.eps };
    enum status status = ST_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *memory = NULL;
        status = b->ops->alloc(b, bytes, &memory, err);
        if (status) goto done;
        *all[i] = memory;
    }
    s.h = calloc(s.rows, sizeof *s.h);
    s.set = calloc(s.rows, sizeof *s.set);
    if (!b->ops->host_memory) s.host = malloc(bytes);
    if (!s.h || !s.set || (!b->ops->host_memory && !s.host)) {
        status = error_set(err, ST_NO_MEMORY_NOW, "no memory for a pass of %u rows", s.rows);
        goto done;
    }
    *out = s;
    memset(&s, 0, sizeof s);
done:
    sampler_done(&s);
    return status;
}

void sampler_done(struct sampler *s)
{
    float *const all[] = { s->y_in, s->z, s->x_t, s->eps };
    for (size_t i = 0; s->backend && i < sizeof all / sizeof *all; i++)
        s->backend->ops->free(s->backend, all[i]);
    free(s->h);
    free(s->set);
    free(s->host);
    memset(s, 0, sizeof *s);
}

float *sampler_row(struct sampler *s, uint32_t i)
{
    return (s->host ? s->host : s->y_in) + i * row_floats(s);
}

enum status sampler_draw(struct sampler *s, uint32_t i, uint64_t seed, uint32_t sample, uint32_t x0,
                         uint32_t y0, struct error *err)
{
    struct normals_args a = { .seed = seed,
                              .stream = NOISE_SAMPLER,
                              .sample = sample,
                              .x0 = x0,
                              .y0 = y0,
                              .w = s->tile,
                              .h = s->tile,
                              .channels = 3,
                              .dst = s->z + i * row_floats(s) };
    return s->backend->ops->normals(s->backend, &a, err);
}

enum status sampler_give(struct sampler *s, uint32_t i, const float *z, struct error *err)
{
    const size_t bytes = row_floats(s) * sizeof *z;
    float *dst = s->z + i * row_floats(s);
    if (!s->host) {
        memcpy(dst, z, bytes);
        return ST_OK;
    }
    return s->backend->ops->copy_in(s->backend, dst, z, bytes, err);
}

static struct tensor picture(float *data, uint32_t tile)
{
    return (struct tensor){
        .data = data, .dtype = DT_F32, .n = 1, .h = tile, .w = tile, .c = 3, .ld = 3
    };
}

void sampler_choose(struct sampler *s, uint32_t i, double h, uint32_t set)
{
    s->h[i] = h;
    s->set[i] = set;
}

enum status sampler_run(struct sampler *s, uint32_t n, struct error *err)
{
    const struct backend_ops *ops = s->backend->ops;
    const size_t floats = row_floats(s);
    enum status status = ST_OK;
    if (s->host)
        status = ops->copy_in(s->backend, s->y_in, s->host, n * floats * sizeof(float), err);
    /* h differs between rows, so the sampler's own steps go row by row; the network takes them together. */
    for (uint32_t i = 0; !status && i < n; i++)
        status = ops->sampler_in(s->backend, s->y_in + i * floats, s->z + i * floats,
                                 (float)(s->constants.noise_gain * s->h[i]), s->x_t + i * floats,
                                 floats, err);
    if (status) return status;
    status = program_run(s->program,
                         &(struct program_io){ .x = s->x_t, .y = s->eps, .set = s->set }, n, err);
    for (uint32_t i = 0; !status && i < n; i++) {
        struct tensor x = picture(s->x_t + i * floats, s->tile);
        struct tensor eps = picture(s->eps + i * floats, s->tile);
        struct tensor x0 = picture(s->y_in + i * floats, s->tile);
        status = ops->sampler_out(s->backend, &x, &eps, (float)s->constants.eps_gain, &x0, err);
    }
    if (!status && s->host)
        status = ops->copy_out(s->backend, s->host, s->y_in, n * floats * sizeof(float), err);
    return status;
}
