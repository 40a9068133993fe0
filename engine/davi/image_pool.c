/* Restorations in a back end's memory: where each of their parts lies, and the order of the ops. */
#include "engine/davi/image_pool.h"

#include <stdlib.h>
#include <string.h>

#include "engine/davi/restoration.h"

enum { BACK_MIB = 64 }; /* what may come back at a time */

/* ---- a restoration's place ---- */

static size_t values_of(const struct restoration *r)
{
    return (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
}

/* `bytes` more behind *total, aligned for everything. */
static size_t reserve(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += (bytes + FREE_LIST_ALIGN - 1) / FREE_LIST_ALIGN * FREE_LIST_ALIGN;
    return at;
}

static struct returned lay_out_returned(const struct restoration *r)
{
    const size_t values = values_of(r), image = values * (r->shape.depth / 8);
    struct returned l = { 0 };
    l.numbers = reserve(&l.total, RETURNED_NUMBERS * sizeof(double));
    l.mean = reserve(&l.total, image);
    l.std = reserve(&l.total, r->sum2 ? values : 0);
    l.samples = reserve(&l.total, r->images ? r->s.samples * image : 0);
    return l;
}

/* Nothing but what A leaves as it is is compared: the residual is the image's own. */
static bool is_compared_itself(const struct restoration *r)
{
    return r->op->keeps_values;
}

static struct extent observed_extent(const struct restoration *r)
{
    return operator_extent(r->s.task->op, r->shape.out);
}

static size_t given_bytes(const struct restoration *r)
{
    const size_t px = (size_t)r->shape.in.w * r->shape.in.h * r->shape.in.c;
    return px * (r->s.img ? r->s.img->depth / 8 : sizeof(float));
}

/* Sizes have passed restoration_block_bytes(), which holds the host's accumulators: no sum here overflows. */
static size_t lay_out_placement(struct placement *d, const struct restoration *r, char *base)
{
    const struct extent m = observed_extent(r);
    const size_t values = values_of(r), observed = (size_t)m.w * m.h;
    size_t n = 0;
    d->returned = lay_out_returned(r);
    /* Offsets until there is a base. */
    d->pixels = base + reserve(&n, given_bytes(r));
    d->tables = base + reserve(&n, r->tables_bytes);
    d->acc = (int64_t *)(void *)(base + reserve(&n, values * sizeof(int64_t)));
    d->sum = (int64_t *)(void *)(base + reserve(&n, r->sum ? values * sizeof(int64_t) : 0));
    d->sum2 = (int64_t *)(void *)(base + reserve(&n, r->sum2 ? values * sizeof(int64_t) : 0));
    d->mean = (float *)(void *)(base + reserve(&n, values * sizeof(float)));
    d->ax =
        (float *)(void *)(base +
                          reserve(&n, is_compared_itself(r) ? 0 : observed * m.c * sizeof(float)));
    d->scratch = (float *)(void *)(base + reserve(&n, r->taps ? values * sizeof(float) : 0));
    d->partial =
        (double *)(void *)(base +
                           reserve(&n, d->pool->backend->ops->images->residual_scratch(observed) *
                                           sizeof(double)));
    d->out = base + reserve(&n, d->returned.total);
    if (is_compared_itself(r)) d->ax = d->mean;
    if (!r->sum) d->sum = NULL;
    if (!r->sum2) d->sum2 = NULL;
    return n;
}

bool image_pool_place(struct image_pool *h, struct restoration *r)
{
    struct placement d = { .pool = h, .tiles_left = r->n_tiles };
    size_t on_device, on_host;
    if (!(h->backend->ops->images->operators & 1u << r->s.task->op)) return false;
    const size_t bytes = lay_out_placement(&d, r, h->device);
    pthread_mutex_lock(&h->lock);
    bool fits = free_list_take(&h->device_free, bytes, &on_device);
    if (fits && !free_list_take(&h->host_free, d.returned.total, &on_host)) {
        free_list_return(&h->device_free, on_device);
        fits = false;
    }
    pthread_mutex_unlock(&h->lock);
    if (!fits) return false;
    d.device = h->device + on_device;
    d.back = h->host + on_host;
    (void)lay_out_placement(&d, r, d.device);
    r->placement = d;
    return true;
}

void image_pool_release(struct restoration *r)
{
    struct placement *d = &r->placement;
    struct image_pool *h = d->pool;
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    free_list_return(&h->device_free, (size_t)(d->device - h->device));
    free_list_return(&h->host_free, (size_t)(d->back - h->host));
    pthread_mutex_unlock(&h->lock);
    d->pool = NULL;
}

/* ---- rows ---- */

/* What stands at `host`, in the restoration's tables, in the back end's memory. */
static const void *in_tables(const struct restoration *r, const void *host)
{
    return r->placement.tables + ((const char *)host - r->tables);
}

static struct observed observed_of(const struct restoration *r)
{
    return (struct observed){ .pixels = r->placement.pixels,
                              .w = r->shape.in.w,
                              .h = r->shape.in.h,
                              .channels = r->shape.in.c,
                              .depth = r->s.img ? r->s.img->depth : 32,
                              .y_channels = r->y_channels,
                              .scale = r->op->scale,
                              .observed_mask =
                                  r->observed_mask ? in_tables(r, r->observed_mask) : NULL,
                              .seed = r->s.seed,
                              .sigma = (float)r->s.sigma };
}

static enum status arrive(struct restoration *r, uint32_t stream_slot, struct error *err)
{
    struct placement *d = &r->placement;
    struct backend *b = d->pool->backend;
    const struct image_ops *ops = b->ops->images;
    const size_t bytes = values_of(r) * sizeof(int64_t);
    enum status s = b->ops->device.send(
        b, stream_slot, d->pixels, r->s.img ? r->s.img->pixels : r->s.y->y, given_bytes(r), err);
    if (!s) s = b->ops->device.send(b, stream_slot, d->tables, r->tables, r->tables_bytes, err);
    if (!s) s = ops->clear(b, d->acc, bytes, err);
    if (!s && d->sum) s = ops->clear(b, d->sum, bytes, err);
    if (!s && d->sum2) s = ops->clear(b, d->sum2, bytes, err);
    d->has_arrived = !s;
    return s;
}

enum status image_pool_extract(struct restoration *r, uint64_t row, uint32_t stream_slot,
                               float *y_in, struct error *err)
{
    struct backend *b = r->placement.pool->backend;
    const struct tile_position at = restoration_tile_position(r, row);
    enum status s = r->placement.has_arrived ? ST_OK : arrive(r, stream_slot, err);
    if (s) return s;
    const struct extract_args a = { .m = observed_of(r),
                                    .out_w = r->shape.out.w,
                                    .out_h = r->shape.out.h,
                                    .tile = r->s.tile,
                                    .x0 = at.x0,
                                    .y0 = at.y0,
                                    .y_in = y_in };
    return b->ops->images->extract(b, &a, err);
}

static struct finished finished_of(const struct restoration *r)
{
    const struct placement *d = &r->placement;
    return (struct finished){ .acc = d->acc,
                              .sum = d->sum,
                              .sum2 = d->sum2,
                              .samples = r->s.samples,
                              .count = values_of(r) };
}

/* A sample whose tiles are all blended: its image where it is kept, and into the statistics. */
static enum status accumulate_sample(struct restoration *r, struct error *err)
{
    struct placement *d = &r->placement;
    struct backend *b = d->pool->backend;
    const size_t values = values_of(r);
    const struct finished only = { .acc = d->acc, .samples = 1, .count = values };
    enum status s = ST_OK;
    if (r->images)
        s = b->ops->images->round(
            b, &only, r->shape.depth,
            d->out + d->returned.samples + d->sample * values * (r->shape.depth / 8), err);
    if (!s && d->sum) s = b->ops->images->accumulate(b, d->acc, d->sum, d->sum2, values, err);
    d->sample++;
    d->tiles_left = r->n_tiles;
    return s;
}

/* All samples are folded: the residual, the images, and all of it back to the host. */
static enum status finish(struct restoration *r, uint32_t stream_slot, struct error *err)
{
    struct placement *d = &r->placement;
    struct backend *b = d->pool->backend;
    const struct image_ops *ops = b->ops->images;
    const struct finished f = finished_of(r);
    double *numbers = (double *)(void *)(d->out + d->returned.numbers);
    const struct operator_args A = { .op = r->s.task->op,
                                     .w = r->shape.out.w,
                                     .h = r->shape.out.h,
                                     .c = r->shape.out.c,
                                     .observed_mask =
                                         r->observed_mask ? in_tables(r, r->observed_mask) : NULL,
                                     .taps = r->taps ? in_tables(r, r->taps) : NULL,
                                     .x = d->mean,
                                     .y = d->ax,
                                     .scratch = d->scratch };
    const struct residual_args residual = {
        .ax = d->ax, .m = observed_of(r), .scratch = d->partial, .out = numbers + RESIDUAL_SUM
    };
    enum status s = ops->mean(b, &f, d->mean, err);
    if (!s && !is_compared_itself(r)) s = ops->operate(b, &A, err);
    if (!s) s = ops->residual(b, &residual, err);
    if (!s) s = ops->round(b, &f, r->shape.depth, d->out + d->returned.mean, err);
    if (!s && d->sum2)
        s = ops->deviation(b, &f, numbers + STD_LARGEST, (uint8_t *)d->out + d->returned.std, err);
    return s ? s : b->ops->device.receive(b, stream_slot, d->back, d->out, d->returned.total, err);
}

enum status image_pool_put(struct restoration *r, uint64_t row, uint32_t stream_slot, uint32_t i,
                           const float *x0, struct error *err)
{
    struct placement *d = &r->placement;
    struct backend *b = d->pool->backend;
    const struct tile_position at = restoration_tile_position(r, row);
    const uint64_t tile = row % r->n_tiles;
    if (at.sample != d->sample) { /* its own failure, not that of the rows beside it */
        restoration_fail(r, ST_INTERNAL);
        return ST_OK;
    }
    const struct blend_args a = {
        .x0 = x0,
        .wx = in_tables(r, r->tiles.x.weight + tile % r->tiles.x.count * r->s.tile),
        .wy = in_tables(r, r->tiles.y.weight + tile / r->tiles.x.count * r->s.tile),
        .tile = r->s.tile,
        .at_x = at.x0,
        .at_y = at.y0,
        .out_w = r->shape.out.w,
        .out_h = r->shape.out.h,
        .out_c = r->shape.out.c,
        .acc = d->acc,
        .bad = d->pool->bad[stream_slot] + i
    };
    enum status s = b->ops->images->blend(b, &a, err);
    if (!s && --d->tiles_left == 0) s = accumulate_sample(r, err);
    return s || d->sample < r->s.samples ? s : finish(r, stream_slot, err);
}

enum status image_pool_check(struct image_pool *h, uint32_t stream_slot, uint32_t first, uint32_t n,
                             const float *x0, size_t row_floats, struct error *err)
{
    return h->backend->ops->images->find_bad(h->backend, x0, n, row_floats,
                                             h->bad[stream_slot] + first, err);
}

enum status image_pool_report(struct image_pool *h, uint32_t stream_slot, uint32_t n,
                              struct error *err)
{
    return h->backend->ops->device.receive(h->backend, stream_slot, h->host_bad[stream_slot],
                                           h->bad[stream_slot], n * sizeof(uint32_t), err);
}

bool image_pool_is_bad(const struct image_pool *h, uint32_t stream_slot, uint32_t i)
{
    return h->host_bad[stream_slot][i] != 0;
}

/* ---- the result ---- */

double image_pool_number(const struct restoration *r, enum returned_number which)
{
    const struct placement *d = &r->placement;
    return ((const double *)(const void *)(d->back + d->returned.numbers))[which];
}

const void *image_pool_mean(const struct restoration *r)
{
    return r->placement.back + r->placement.returned.mean;
}

const uint8_t *image_pool_std(const struct restoration *r)
{
    return (const uint8_t *)r->placement.back + r->placement.returned.std;
}

const void *image_pool_sample(const struct restoration *r, uint32_t sample)
{
    return r->placement.back + r->placement.returned.samples +
           sample * values_of(r) * (r->shape.depth / 8);
}

/* ---- the image_pool ---- */

void image_pool_close(struct image_pool *h)
{
    if (!h) return;
    const struct backend_ops *ops = h->backend->ops;
    ops->device.free(h->backend, h->device);
    ops->device.free(h->backend, h->bad[0]);
    ops->device.host_free(h->backend, h->host);
    ops->device.host_free(h->backend, h->host_bad[0]);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static enum status take_memory(struct image_pool *h, struct error *err)
{
    struct backend *b = h->backend;
    const struct backend_ops *ops = b->ops;
    const size_t flags = h->rows * sizeof(uint32_t);
    void *device = NULL, *host = NULL, *bad = NULL, *host_bad = NULL;
    enum status s = ops->device.alloc(b, h->device_free.bytes, &device, err);
    if (!s) s = ops->device.alloc(b, SAMPLER_STREAM_SLOTS * flags, &bad, err);
    if (!s) s = ops->device.host_alloc(b, h->host_free.bytes, &host, err);
    if (!s) s = ops->device.host_alloc(b, SAMPLER_STREAM_SLOTS * flags, &host_bad, err);
    h->device = device;
    h->host = host;
    for (uint32_t i = 0; i < SAMPLER_STREAM_SLOTS; i++) {
        h->bad[i] = bad ? (uint32_t *)bad + (size_t)i * h->rows : NULL;
        h->host_bad[i] = host_bad ? (uint32_t *)host_bad + (size_t)i * h->rows : NULL;
    }
    return s;
}

/* One restoration of every task and depth by a network that returns its input; nothing of tasks
 * that stay on the host. tile: memory of the back end. */
static enum status restore_once(struct image_pool *h, enum task_id task, const struct image *img,
                                const struct image *mask, float *tile, struct error *err)
{
    struct restoration *r = NULL;
    const struct restoration_setup setup = { .task = &task_table[task],
                                             .samples = 2,
                                             .output = OUTPUT_ALL,
                                             .keep_samples = true,
                                             .tile = RESTORE_MIN_SIDE,
                                             .overlap = 1,
                                             .jobs_in_flight = 1,
                                             .img = img,
                                             .mask = operator_of(task_table[task].op)->needs_mask
                                                         ? mask
                                                         : NULL };
    enum status s = restoration_make(&r, &setup, err);
    if (s) return s;
    restoration_place(r, h, true);
    const uint64_t rows = restoration_is_on_device(r) ? restoration_tile_jobs(r) : 0;
    for (uint64_t i = 0; !s && i < rows; i++) {
        s = image_pool_extract(r, i, 0, tile, err);
        if (!s)
            s = image_pool_check(h, 0, 0, 1, tile, (size_t)3 * RESTORE_MIN_SIDE * RESTORE_MIN_SIDE,
                                 err);
        if (!s) s = image_pool_put(r, i, 0, 0, tile, err);
    }
    if (!s) s = image_pool_report(h, 0, 1, err);
    if (!s) s = h->backend->ops->device.wait(h->backend, 0, err);
    if (s && h->backend->ops->device.finish) (void)h->backend->ops->device.finish(h->backend, NULL);
    restoration_free(r);
    return s;
}

/* Everything once: what a back end loads late is loaded before the first request. */
static enum status warm(struct image_pool *h, struct error *err)
{
    struct image img[2] = { { 0 }, { 0 } }, mask = { 0 };
    void *tile = NULL;
    enum status s = h->backend->ops->device.alloc(
        h->backend, (size_t)3 * RESTORE_MIN_SIDE * RESTORE_MIN_SIDE * sizeof(float), &tile, err);
    if (!s) s = image_init(&img[0], RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 3, 8, err);
    if (!s) s = image_init(&img[1], RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 3, 16, err);
    if (!s) s = image_init(&mask, RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 1, 8, err);
    for (int i = 0; !s && i < 2; i++)
        memset(img[i].pixels, 0, image_bytes(&img[i]));
    if (!s) memset(mask.pixels, 0, image_bytes(&mask));
    for (int i = 0; i < 2 * TASK_COUNT && !s; i++)
        s = restore_once(h, (enum task_id)(i / 2), &img[i % 2], &mask, tile, err);
    h->backend->ops->device.free(h->backend, tile);
    image_done(&img[0]);
    image_done(&img[1]);
    image_done(&mask);
    return s;
}

enum status image_pool_open(struct image_pool **out, struct backend *b, uint32_t rows,
                            struct error *err)
{
    if (!b->ops->images || b->ops->device.stream_slots < SAMPLER_STREAM_SLOTS) return ST_OK;
    struct image_pool *h = calloc(1, sizeof *h);
    if (!h) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a image_pool of images");
    if (pthread_mutex_init(&h->lock, NULL)) {
        free(h);
        return error_set(err, ST_INTERNAL, "a mutex could not be made");
    }
    h->backend = b;
    h->rows = rows;
    h->device_free.bytes = b->ops->images->pool_bytes(b);
    h->host_free.bytes = (size_t)BACK_MIB << 20;
    enum status s = take_memory(h, err);
    if (!s) s = warm(h, err);
    if (s)
        image_pool_close(h);
    else
        *out = h;
    return s;
}
