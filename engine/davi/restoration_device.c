/* The layout of a restoration in a device's memory, what is copied to it and from it, and what is
 * computed after the last row. */
#include "engine/davi/restoration_device.h"

#include <string.h>

/* ---- layout ---- */

/* `bytes` more behind *total, aligned for every type. */
static size_t reserve(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += (bytes + FREE_LIST_ALIGN - 1) / FREE_LIST_ALIGN * FREE_LIST_ALIGN;
    return at;
}

static size_t image_size(const struct restoration *r)
{
    return restoration_values(r) * (r->shape.depth / 8);
}

static struct returned lay_out_returned(const struct restoration *r)
{
    struct returned l = { 0 };
    l.numbers = reserve(&l.total, RETURNED_NUMBERS * sizeof(double));
    l.mean = reserve(&l.total, image_size(r));
    l.std = reserve(&l.total, r->sum2 ? restoration_values(r) : 0);
    l.samples = reserve(&l.total, r->kept ? r->s.samples * image_size(r) : 0);
    return l;
}

static size_t given_bytes(const struct restoration *r)
{
    const size_t px = (size_t)r->shape.in.w * r->shape.in.h * r->shape.in.c;
    return px * (r->s.img ? r->s.img->depth / 8 : sizeof(float));
}

/* The accumulators that the host's block has too. */
struct accumulators {
    int64_t *acc, *sum, *sum2;
};

/* Bytes behind `base`. Sizes have passed restoration_block_bytes(), which counts the host's
 * accumulators: no sum here overflows. An operator that keeps values needs no A x: the mean is
 * compared itself. */
static size_t lay_out(struct device_images *d, struct accumulators *a, const struct restoration *r,
                      char *base)
{
    const struct extent m = operator_extent(r->s.task->op, r->shape.out);
    const size_t values = restoration_values(r), observed = (size_t)m.w * m.h;
    const size_t sums = values * sizeof(int64_t), ax = observed * m.c * sizeof(float);
    const struct image_ops *ops = d->pieces.pool->backend->ops->images;
    size_t n = 0;
    d->returned = lay_out_returned(r);
    d->pixels = base + reserve(&n, given_bytes(r));
    d->tables = base + reserve(&n, r->tables_bytes);
    a->acc = (int64_t *)(void *)(base + reserve(&n, sums));
    a->sum = (int64_t *)(void *)(base + reserve(&n, r->sum ? sums : 0));
    a->sum2 = (int64_t *)(void *)(base + reserve(&n, r->sum2 ? sums : 0));
    d->mean = (float *)(void *)(base + reserve(&n, values * sizeof(float)));
    d->ax = (float *)(void *)(base + reserve(&n, r->op->keeps_values ? 0 : ax));
    d->blur = (float *)(void *)(base + reserve(&n, r->taps ? values * sizeof(float) : 0));
    d->partial =
        (double *)(void *)(base + reserve(&n, ops->residual_scratch(observed) * sizeof(double)));
    d->out = base + reserve(&n, d->returned.total);
    if (r->op->keeps_values) d->ax = d->mean;
    return n;
}

bool restoration_move_to_device(struct restoration *r, struct image_pool *pool)
{
    struct device_images d = { .pieces.pool = pool };
    struct accumulators a;
    if (!(pool->backend->ops->images->operators & 1u << r->op->on_device)) return false;
    const size_t bytes = lay_out(&d, &a, r, pool->device);
    if (!image_pool_take(pool, bytes, d.returned.total, &d.pieces)) return false;
    (void)lay_out(&d, &a, r, d.pieces.device);
    r->ops = pool->backend->ops->images;
    r->backend = pool->backend;
    r->pixels = d.pixels;
    r->placed_tables = d.tables;
    r->n_slots = 1;
    r->slots[0].acc = a.acc;
    if (r->sum) r->sum = a.sum;
    if (r->sum2) r->sum2 = a.sum2;
    if (r->kept) r->kept = d.out + d.returned.samples;
    r->device = d;
    return true;
}

/* ---- rows ---- */

enum status restoration_send(struct restoration *r, uint32_t stream_slot, struct error *err)
{
    struct device_images *d = &r->device;
    struct backend *b = r->backend;
    const size_t bytes = restoration_values(r) * sizeof(int64_t);
    if (d->has_arrived) return ST_OK;
    enum status s = b->ops->device.send(
        b, stream_slot, d->pixels, r->s.img ? r->s.img->pixels : r->s.y->y, given_bytes(r), err);
    if (!s) s = b->ops->device.send(b, stream_slot, d->tables, r->tables, r->tables_bytes, err);
    if (!s) s = r->ops->clear(b, r->slots[0].acc, bytes, err);
    if (!s && r->sum) s = r->ops->clear(b, r->sum, bytes, err);
    if (!s && r->sum2) s = r->ops->clear(b, r->sum2, bytes, err);
    d->has_arrived = !s;
    return s;
}

static enum status apply_operator(const struct restoration *r, struct error *err)
{
    const struct device_images *d = &r->device;
    const struct operator_args a = { .op = r->op->on_device,
                                     .w = r->shape.out.w,
                                     .h = r->shape.out.h,
                                     .c = r->shape.out.c,
                                     .scale = r->op->scale,
                                     .observed_mask = restoration_table(r, r->observed_mask),
                                     .taps = restoration_table(r, r->taps),
                                     .x = d->mean,
                                     .y = d->ax,
                                     .scratch = d->blur };
    return r->op->keeps_values ? ST_OK : r->ops->operate(r->backend, &a, err);
}

/* Every sample is accumulated: the residual, the images, and all of it back to the host. */
static enum status finish(struct restoration *r, uint32_t stream_slot, struct error *err)
{
    const struct device_images *d = &r->device;
    const struct image_ops *ops = r->ops;
    struct backend *b = r->backend;
    const struct finished f = restoration_finished(r);
    double *numbers = (double *)(void *)(d->out + d->returned.numbers);
    const struct residual_args residual = { .ax = d->ax,
                                            .m = restoration_observed(r),
                                            .scratch = d->partial,
                                            .out = numbers + RESIDUAL_SUM };
    enum status s = ops->mean(b, &f, d->mean, err);
    if (!s) s = apply_operator(r, err);
    if (!s) s = ops->clear(b, numbers, RETURNED_NUMBERS * sizeof *numbers, err);
    if (!s) s = ops->residual(b, &residual, err);
    if (!s) s = ops->round(b, &f, r->shape.depth, d->out + d->returned.mean, err);
    if (!s && r->sum2) s = ops->largest_deviation(b, &f, numbers + STD_LARGEST, err);
    if (!s && r->sum2)
        s = ops->deviation(b, &f, numbers + STD_LARGEST, (uint8_t *)d->out + d->returned.std, err);
    if (!s)
        s = b->ops->device.receive(b, stream_slot, d->pieces.host, d->out, d->returned.total, err);
    return s;
}

enum status restoration_put_on_device(struct restoration *r, uint64_t row, uint32_t stream_slot,
                                      uint32_t i, const float *x0, struct error *err)
{
    const uint32_t *bad = r->device.pieces.pool->bad[stream_slot] + i;
    enum status s = ST_OK;
    pthread_mutex_lock(&r->lock);
    if (row / r->n_tiles != r->samples_done) { /* its own failure, not that of the rows beside it */
        if (!r->failure) r->failure = ST_INTERNAL;
    } else {
        s = restoration_blend(r, row, x0, bad, err);
        if (!s && r->samples_done == r->s.samples) s = finish(r, stream_slot, err);
    }
    pthread_mutex_unlock(&r->lock);
    return s;
}

/* ---- what came back ---- */

double restoration_returned_number(const struct restoration *r, enum returned_number which)
{
    const char *numbers = r->device.pieces.host + r->device.returned.numbers;
    return ((const double *)(const void *)numbers)[which];
}

const void *restoration_returned_mean(const struct restoration *r)
{
    return r->device.pieces.host + r->device.returned.mean;
}

const void *restoration_returned_std(const struct restoration *r)
{
    return r->device.pieces.host + r->device.returned.std;
}

const void *restoration_returned_sample(const struct restoration *r, uint32_t sample)
{
    return r->device.pieces.host + r->device.returned.samples + sample * image_size(r);
}

/* ---- warming ---- */

enum { WARM_TILE_FLOATS = 3 * RESTORE_MIN_SIDE * RESTORE_MIN_SIDE };

/* One restoration by a network that returns its input; nothing where the images stay on the host.
 * tile: memory of the back end. */
static enum status restore_once(struct image_pool *pool, enum task_id task, const struct image *img,
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
    restoration_place(r, pool, true);
    const uint64_t rows = restoration_is_on_device(r) ? restoration_tile_jobs(r) : 0;
    if (rows > 0) s = restoration_send(r, 0, err);
    for (uint64_t i = 0; !s && i < rows; i++) {
        s = restoration_extract(r, i, tile, err);
        if (!s) s = image_pool_check(pool, 0, 0, 1, tile, WARM_TILE_FLOATS, err);
        if (!s) s = restoration_put_on_device(r, i, 0, 0, tile, err);
    }
    if (!s) s = image_pool_report(pool, 0, 1, err);
    if (!s) s = pool->backend->ops->device.wait(pool->backend, 0, err);
    if (s && pool->backend->ops->device.finish)
        (void)pool->backend->ops->device.finish(pool->backend, NULL);
    restoration_free(r);
    return s;
}

enum status restorations_warm(struct image_pool *pool, struct error *err)
{
    struct backend *b = pool->backend;
    struct image img[2] = { { 0 }, { 0 } }, mask = { 0 };
    void *tile = NULL;
    enum status s = b->ops->device.alloc(b, WARM_TILE_FLOATS * sizeof(float), &tile, err);
    if (!s) s = image_init(&img[0], RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 3, 8, err);
    if (!s) s = image_init(&img[1], RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 3, 16, err);
    if (!s) s = image_init(&mask, RESTORE_MIN_SIDE, RESTORE_MIN_SIDE, 1, 8, err);
    for (int i = 0; !s && i < 2; i++)
        memset(img[i].pixels, 0, image_bytes(&img[i]));
    if (!s) memset(mask.pixels, 0, image_bytes(&mask));
    for (int i = 0; i < 2 * TASK_COUNT && !s; i++)
        s = restore_once(pool, (enum task_id)(i / 2), &img[i % 2], &mask, tile, err);
    b->ops->device.free(b, tile);
    image_done(&img[0]);
    image_done(&img[1]);
    image_done(&mask);
    return s;
}
