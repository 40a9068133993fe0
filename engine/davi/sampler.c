/* The sampler's memory, and the order of its steps. The back end's ops and the program compute. */
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
    const size_t images = 2 + s->channels / 3 + s->stream_slots * (s->host[0] ? 2 : 1);
    return images * row_floats(s) * s->rows * sizeof(float);
}

static enum status take(struct backend *b, size_t bytes, float **out, struct error *err)
{
    void *memory = NULL;
    enum status status = b->ops->device.alloc(b, bytes, &memory, err);
    *out = memory;
    return status;
}

static enum status take_on_host(struct backend *b, size_t bytes, float **out, struct error *err)
{
    void *memory = NULL;
    if (b->ops->device.stream_slots) {
        enum status status = b->ops->device.host_alloc(b, bytes, &memory, err);
        *out = memory;
        return status;
    }
    *out = malloc(bytes);
    return *out ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes", bytes);
}

enum status sampler_init(struct sampler *out, struct backend *b, struct program *p,
                         const struct model_info *info, struct error *err)
{
    struct sampler s = { .backend = b,
                         .program = p,
                         .constants = sampler_constants_of(info->schedule),
                         .channels = arch_input_channels(&info->arch),
                         .linear = info->arch.linear_output,
                         .tile = info->tile_size,
                         .rows = program_rows(p),
                         .stream_slots = b->ops->device.stream_slots >= SAMPLER_STREAM_SLOTS
                                             ? SAMPLER_STREAM_SLOTS
                                             : 1 };
    const size_t bytes = row_floats(&s) * s.rows * sizeof(float);
    enum status status = take(b, bytes, &s.z, err);
    if (!status) status = take(b, bytes / 3 * s.channels, &s.x_t, err);
    if (!status) status = take(b, bytes, &s.eps, err);
    for (uint32_t i = 0; !status && i < s.stream_slots; i++) {
        status = take(b, bytes, &s.y_in[i], err);
        if (!status && !b->ops->device.host_memory)
            status = take_on_host(b, bytes, &s.host[i], err);
    }
    if (status) goto done;
    s.h = calloc(s.rows, sizeof *s.h);
    s.condition = calloc(s.rows, sizeof *s.condition);
    s.stays = calloc(s.rows, sizeof *s.stays);
    if (!s.h || !s.condition || !s.stays) {
        status =
            error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch execution of %u rows", s.rows);
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
    if (!s->backend) return;
    const struct backend_ops *ops = s->backend->ops;
    float *const all[] = { s->z, s->x_t, s->eps };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ops->device.free(s->backend, all[i]);
    for (uint32_t i = 0; i < s->stream_slots; i++) {
        ops->device.free(s->backend, s->y_in[i]);
        if (ops->device.stream_slots)
            ops->device.host_free(s->backend, s->host[i]);
        else
            free(s->host[i]);
    }
    free(s->h);
    free(s->condition);
    free(s->stays);
    memset(s, 0, sizeof *s);
}

void sampler_turn(struct sampler *s, uint32_t stream_slot)
{
    s->stream_slot = stream_slot;
}

float *sampler_row_of(struct sampler *s, uint32_t stream_slot, uint32_t i)
{
    return (s->host[stream_slot] ? s->host[stream_slot] : s->y_in[stream_slot]) + i * row_floats(s);
}

float *sampler_row(struct sampler *s, uint32_t i)
{
    return sampler_row_of(s, s->stream_slot, i);
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
    return s->backend->ops->net.normals(s->backend, &a, err);
}

enum status sampler_give(struct sampler *s, uint32_t i, const float *z, struct error *err)
{
    const size_t bytes = row_floats(s) * sizeof *z;
    float *dst = s->z + i * row_floats(s);
    if (!s->host[0]) {
        memcpy(dst, z, bytes);
        return ST_OK;
    }
    return s->backend->ops->device.copy_in(s->backend, dst, z, bytes, err);
}

static struct tensor images(float *data, uint32_t n, uint32_t tile)
{
    return (struct tensor){
        .data = data, .dtype = DT_F32, .n = n, .h = tile, .w = tile, .c = 3, .ld = 3
    };
}

void sampler_choose(struct sampler *s, uint32_t i, double h, uint32_t condition)
{
    s->h[i] = h;
    s->condition[i] = condition;
}

void sampler_stay(struct sampler *s, uint32_t i, bool stays)
{
    s->stays[i] = stays;
}

float *sampler_output(const struct sampler *s, uint32_t stream_slot, uint32_t i)
{
    return s->y_in[stream_slot] + i * row_floats(s);
}

/* Rows first .. first + n, which are neighbours. */
static enum status send(struct sampler *s, uint32_t first, uint32_t n, struct error *err)
{
    const struct backend_ops *ops = s->backend->ops;
    const size_t at = first * row_floats(s), bytes = n * row_floats(s) * sizeof(float);
    float *to = s->y_in[s->stream_slot] + at, *from = s->host[s->stream_slot] + at;
    return ops->device.stream_slots
               ? ops->device.send(s->backend, s->stream_slot, to, from, bytes, err)
               : ops->device.copy_in(s->backend, to, from, bytes, err);
}

static enum status receive(struct sampler *s, uint32_t first, uint32_t n, struct error *err)
{
    const struct backend_ops *ops = s->backend->ops;
    const size_t at = first * row_floats(s), bytes = n * row_floats(s) * sizeof(float);
    float *to = s->host[s->stream_slot] + at, *from = s->y_in[s->stream_slot] + at;
    return ops->device.stream_slots
               ? ops->device.receive(s->backend, s->stream_slot, to, from, bytes, err)
               : ops->device.copy_out(s->backend, to, from, bytes, err);
}

/* Copies the rows that do not stay, each run of neighbours at once. */
static enum status move(struct sampler *s, uint32_t n,
                        enum status (*copy)(struct sampler *s, uint32_t first, uint32_t n,
                                            struct error *err),
                        struct error *err)
{
    enum status status = ST_OK;
    if (!s->host[s->stream_slot]) return ST_OK;
    for (uint32_t first = 0, end; !status && first < n; first = end) {
        for (end = first + 1; end < n && s->stays[end] == s->stays[first]; end++) {
        }
        if (!s->stays[first]) status = copy(s, first, end - first, err);
    }
    return status;
}

enum status sampler_begin(struct sampler *s, uint32_t n, struct error *err)
{
    const struct backend_ops *ops = s->backend->ops;
    const size_t floats = row_floats(s);
    float *y_in = s->y_in[s->stream_slot];
    enum status status = move(s, n, send, err);
    /* Row by row, since h differs; the network and the steps after it take all rows at once. */
    for (uint32_t i = 0; !status && i < n; i++) {
        const float hz = (float)(s->constants.noise_gain * s->h[i]);
        const float *from = y_in + i * floats, *z = s->z + i * floats;
        float *x_t = s->x_t + i * (floats / 3) * s->channels;
        status = s->channels == 3
                     ? ops->net.sampler_in(s->backend, from, z, hz, x_t, floats, err)
                     : ops->net.sampler_join(s->backend, from, z, hz, x_t, floats / 3, err);
    }
    if (status) return status;
    status = program_run(
        s->program, &(struct program_io){ .x = s->x_t, .y = s->eps, .condition = s->condition }, n,
        err);
    if (status) return status;
    const struct tensor eps = images(s->eps, n, s->tile), x0 = images(y_in, n, s->tile);
    struct tensor x = images(s->x_t, n, s->tile);
    x.ld = s->channels;
    status = ops->net.sampler_out(s->backend, &x, &eps, (float)s->constants.eps_gain, s->linear,
                                  &x0, err);
    return status ? status : move(s, n, receive, err);
}

enum status sampler_end(struct sampler *s, uint32_t stream_slot, struct error *err)
{
    const struct backend_ops *ops = s->backend->ops;
    return ops->device.stream_slots && s->host[stream_slot]
               ? ops->device.wait(s->backend, stream_slot, err)
               : ST_OK;
}

enum status sampler_run(struct sampler *s, uint32_t n, struct error *err)
{
    enum status status = sampler_begin(s, n, err);
    return status ? status : sampler_end(s, s->stream_slot, err);
}
