/* A restoration's memory, the geometry of its rows, and the order in which image ops run on them.
 * What is computed from the accumulators after the last row is in restoration_output.c. */
#include "engine/davi/restoration.h"

#include <stdlib.h>

#include "engine/davi/restoration_device.h"
#include "engine/graph/pixels.h"

/* ---- sizes ---- */

enum status restoration_shape_of(struct restoration_shape *out, const struct task_desc *task,
                                 uint32_t width, uint32_t height, uint32_t channels, uint32_t depth,
                                 struct error *err)
{
    const struct operator_traits *op = operator_of(task->op);
    const uint32_t grow = op->scale;
    const uint32_t most = op->most_side ? op->most_side : RESTORE_MAX_SIDE;
    if (width < RESTORE_MIN_SIDE || height < RESTORE_MIN_SIDE)
        return error_set(err, ST_TOO_FEW_PX, "the image is %u x %u px; at least %d x %d are needed",
                         width, height, RESTORE_MIN_SIDE, RESTORE_MIN_SIDE);
    if (width > most / grow || height > most / grow)
        return error_set(err, ST_TOO_MANY_PX,
                         "the image is %u x %u px; for task %s a side has at most %u px", width,
                         height, task->name, most / grow);
    bool is_gray = channels < 3 && !op->is_gray;
    *out = (struct restoration_shape){
        .in = { width, height, channels },
        .out = { grow * width, grow * height, is_gray ? 1 : 3 },
        .depth = depth == 16 ? 16 : 8,
        .float_y = depth == 32,
        .has_alpha = channels % 2 == 0 && !op->needs_mask,
    };
    return ST_OK;
}

/* The image restored with its margin: tiles cover it. */
static struct extent tiled(const struct restoration_setup *s, const struct restoration_shape *h)
{
    return (struct extent){ h->out.w + 2 * s->margin, h->out.h + 2 * s->margin, h->out.c };
}

/* Offsets into the one block of memory. */
struct layout {
    size_t slots, tiles_x, tiles_y, observed_mask, taps, accs, sum, sum2, kept, scratch, total;
    uint32_t n_slots;
    bool has_sum, has_sum2, has_kept;
    bool overflows;
};

static size_t reserve(struct layout *l, size_t count, size_t size)
{
    size_t bytes, at = l->total;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 4 ||
        __builtin_add_overflow(l->total, (bytes + 63) / 64 * 64, &l->total))
        l->overflows = true;
    return at;
}

static struct layout lay_out(const struct restoration_setup *s, const struct restoration_shape *h)
{
    struct layout l = { 0 };
    const struct operator_traits *op = operator_of(s->task->op);
    const size_t values = (size_t)h->out.w * h->out.h * h->out.c; /* at most 3 * 2^36 */
    const struct extent all = tiled(s, h);
    uint64_t tiles = (uint64_t)tile_axis_count(all.w, s->tile, s->overlap, s->shift_x) *
                     tile_axis_count(all.h, s->tile, s->overlap, s->shift_y);
    /* Rows go out in ascending order, so the rows in flight are neighbours and touch at most this
     * many samples. With several runs, each run may touch as many, and one more sample may have
     * rows that have not gone out and none in flight. */
    uint64_t touched = 1 + (s->jobs_in_flight - 1 + tiles - 1) / tiles;
    if (s->runs_in_flight > 1) touched = touched * s->runs_in_flight + 1;
    l.n_slots = touched < s->samples ? (uint32_t)touched : s->samples;
    l.has_sum = s->samples > 1;
    l.has_sum2 = l.has_sum && (s->output == OUTPUT_STD || s->output == OUTPUT_ALL);
    l.has_kept = l.has_sum && s->output == OUTPUT_ALL && s->keep_samples;

    reserve(&l, 1, sizeof(struct restoration));
    l.slots = reserve(&l, l.n_slots, sizeof(struct slot));
    /* The tables of the tiles lie together: a device gets them as one copy. */
    l.tiles_x = reserve(&l, tile_axis_bytes(all.w, s->tile, s->overlap, s->shift_x), 1);
    l.tiles_y = reserve(&l, tile_axis_bytes(all.h, s->tile, s->overlap, s->shift_y), 1);
    l.observed_mask = reserve(&l, op->needs_mask ? (size_t)h->in.w * h->in.h : 0, 1);
    l.taps = reserve(&l, op->taps ? BLUR_TAPS : 0, sizeof(float));
    l.accs = reserve(&l, l.n_slots, values * sizeof(int64_t));
    l.sum = reserve(&l, l.has_sum ? values : 0, sizeof(int64_t));
    l.sum2 = reserve(&l, l.has_sum2 ? values : 0, sizeof(int64_t));
    l.kept = reserve(&l, l.has_kept ? s->samples : 0, values * (h->depth / 8));
    l.scratch = reserve(&l, operator_scratch_floats(s->task->op, h->out), sizeof(float));
    return l;
}

size_t restoration_block_bytes(const struct restoration_setup *s,
                               const struct restoration_shape *shape)
{
    struct layout l = lay_out(s, shape);
    return l.overflows ? SIZE_MAX : l.total;
}

/* ---- making ---- */

enum status hole_read(uint8_t *observed_mask, const struct image *img, const struct image *mask,
                      const char *task, struct error *err)
{
    const size_t n = (size_t)img->width * img->height;
    if (mask) {
        const uint32_t white = mask->depth == 16 ? 65535 : 255, colors = mask->channels < 3 ? 1 : 3;
        if (mask->width != img->width || mask->height != img->height)
            return error_set(err, ST_BAD_MASK, "the mask is %u x %u px, the image %u x %u",
                             mask->width, mask->height, img->width, img->height);
        for (size_t i = 0; i < n; i++) {
            uint32_t sum = 0;
            for (uint32_t c = 0; c < colors; c++)
                sum += level_at(mask->pixels, mask->depth, i * mask->channels + c);
            observed_mask[i] = 2 * sum < colors * white;
        }
        return ST_OK;
    }
    if (!img->pixels || img->channels % 2)
        return error_set(
            err, ST_BAD_MASK,
            "task %s needs a mask (white = missing) or an image with alpha (0 = missing)", task);
    for (size_t i = 0; i < n; i++)
        observed_mask[i] = level_at(img->pixels, img->depth, (i + 1) * img->channels - 1) != 0;
    return ST_OK;
}

enum status restoration_make(struct restoration **out, const struct restoration_setup *s,
                             struct error *err)
{
    struct restoration_shape shape;
    enum status status = s->img
                             ? restoration_shape_of(&shape, s->task, s->img->width, s->img->height,
                                                    s->img->channels, s->img->depth, err)
                             : restoration_shape_of(&shape, s->task, s->y->width, s->y->height,
                                                    s->y->channels, 32, err);
    if (status) return status;
    if (s->mask) status = task_check_mask(s->task->name, err);
    if (status) return status;

    const struct operator_traits *op = operator_of(s->task->op);
    struct layout l = lay_out(s, &shape);
    char *block = l.overflows ? NULL : calloc(1, l.total);
    if (!block)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a restoration of %u x %u px",
                         shape.out.w, shape.out.h);
    struct restoration *r = (struct restoration *)(void *)block;
    r->s = *s;
    if (s->level == 0) r->s.level = s->task->level;
    r->op = op;
    r->shape = shape;
    r->y_channels = op->is_gray ? 1 : shape.out.c;
    r->tables = block + l.tiles_x;
    r->tables_bytes = l.accs - l.tiles_x;
    r->ops = &cpu_images; /* until restoration_place says otherwise */
    r->pixels = s->img ? s->img->pixels : s->y->y;
    r->placed_tables = r->tables;
    const struct extent all = tiled(s, &shape);
    tile_axis_lay(&r->tiles.x, all.w, s->tile, s->overlap, s->shift_x, block + l.tiles_x);
    tile_axis_lay(&r->tiles.y, all.h, s->tile, s->overlap, s->shift_y, block + l.tiles_y);
    r->n_tiles = (uint64_t)r->tiles.x.count * r->tiles.y.count;
    r->slots = (struct slot *)(void *)(block + l.slots);
    r->n_slots = l.n_slots;
    for (uint32_t i = 0; i < l.n_slots; i++)
        r->slots[i].acc = (int64_t *)(void *)(block + l.accs) +
                          (size_t)i * shape.out.w * shape.out.h * shape.out.c;
    r->sum = l.has_sum ? (int64_t *)(void *)(block + l.sum) : NULL;
    r->sum2 = l.has_sum2 ? (int64_t *)(void *)(block + l.sum2) : NULL;
    r->kept = l.has_kept ? block + l.kept : NULL;
    r->scratch = (float *)(void *)(block + l.scratch);
    if (op->taps) {
        float *taps = (float *)(void *)(block + l.taps);
        op->taps(r->s.level, taps);
        r->taps = taps;
    }
    if (op->needs_mask) {
        uint8_t *observed_mask = (uint8_t *)block + l.observed_mask;
        /* A measurement of floats has no alpha: only its size is read. */
        struct image sized = { .width = shape.in.w, .height = shape.in.h };
        status = hole_read(observed_mask, s->img ? s->img : &sized, s->mask, s->task->name, err);
        r->observed_mask = observed_mask;
    }
    if (status == ST_OK && pthread_mutex_init(&r->lock, NULL))
        status = error_set(err, ST_INTERNAL, "a mutex could not be made");
    if (status) {
        free(block);
        return status;
    }
    *out = r;
    return ST_OK;
}

void restoration_free(struct restoration *r)
{
    if (!r) return;
    image_pool_return(&r->device.pieces);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

uint64_t restoration_tile_jobs(const struct restoration *r)
{
    return r->n_tiles * r->s.samples;
}

size_t restoration_values(const struct restoration *r)
{
    return (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
}

/* ---- placement ---- */

void restoration_place(struct restoration *r, struct image_pool *pool, bool is_whole)
{
    pthread_mutex_lock(&r->lock);
    if (r->location == LOCATION_UNDECIDED)
        r->location = pool && is_whole && restoration_move_to_device(r, pool) ? LOCATION_DEVICE
                                                                              : LOCATION_HOST;
    pthread_mutex_unlock(&r->lock);
}

bool restoration_is_placed(struct restoration *r)
{
    pthread_mutex_lock(&r->lock);
    const bool is_placed = r->location != LOCATION_UNDECIDED;
    pthread_mutex_unlock(&r->lock);
    return is_placed;
}

const void *restoration_table(const struct restoration *r, const void *at)
{
    return at ? r->placed_tables + ((const char *)at - r->tables) : NULL;
}

/* ---- extracting ---- */

struct tile_position restoration_tile_position(const struct restoration *r, uint64_t row)
{
    uint64_t tile = row % r->n_tiles;
    return (struct tile_position){
        .sample = (uint32_t)(row / r->n_tiles),
        .x0 = tile_origin(&r->tiles.x, (uint32_t)(tile % r->tiles.x.count)),
        .y0 = tile_origin(&r->tiles.y, (uint32_t)(tile / r->tiles.x.count))
    };
}

struct observed restoration_observed(const struct restoration *r)
{
    return (struct observed){ .pixels = r->pixels,
                              .w = r->shape.in.w,
                              .h = r->shape.in.h,
                              .channels = r->shape.in.c,
                              .depth = r->s.img ? r->s.img->depth : 32,
                              .y_channels = r->y_channels,
                              .scale = r->op->scale,
                              .observed_mask = restoration_table(r, r->observed_mask),
                              .seed = r->s.seed,
                              .sigma = (float)r->s.sigma };
}

enum status restoration_extract(const struct restoration *r, uint64_t row, float *y_in,
                                struct error *err)
{
    const struct tile_position at = restoration_tile_position(r, row);
    const struct extract_args a = { .m = restoration_observed(r),
                                    .out_w = r->shape.out.w,
                                    .out_h = r->shape.out.h,
                                    .margin = r->s.margin,
                                    .tile = r->s.tile,
                                    .x0 = at.x0,
                                    .y0 = at.y0,
                                    .y_in = y_in };
    return r->ops->extract(r->backend, &a, err);
}

/* ---- blending ---- */

/* The pixels of a tile at `at` that lie in the image, n px long; one axis. */
struct part {
    uint32_t first, end;
};
static struct part inside(const struct restoration *r, uint32_t at, uint32_t n)
{
    const uint32_t margin = r->s.margin, last = margin + n;
    struct part p = { at < margin ? margin - at : 0, last > at ? last - at : 0 };
    if (p.end > r->s.tile) p.end = r->s.tile;
    if (p.first > p.end) p.first = p.end;
    return p;
}

static struct slot *slot_of(struct restoration *r, uint32_t sample)
{
    struct slot *free_one = NULL;
    for (uint32_t i = 0; i < r->n_slots; i++) {
        struct slot *s = &r->slots[i];
        if (s->is_used && s->sample == sample) return s;
        if (!s->is_used && !free_one) free_one = s;
    }
    if (!free_one) return NULL;
    free_one->is_used = true;
    free_one->sample = sample;
    free_one->tiles_left = r->n_tiles;
    return free_one;
}

/* A sample whose tiles are all blended: into the statistics, which clears its accumulator for the
 * next one. The accumulator of the only sample is the result and stays. */
static enum status finish_sample(struct restoration *r, struct slot *slot, struct error *err)
{
    const size_t n = restoration_values(r);
    const struct finished only = { .acc = slot->acc, .samples = 1, .count = n };
    enum status s = ST_OK;
    r->samples_done++;
    if (!r->sum) return ST_OK;
    if (r->kept)
        s = r->ops->round(r->backend, &only, r->shape.depth,
                          r->kept + slot->sample * n * (r->shape.depth / 8), err);
    if (!s) s = r->ops->accumulate(r->backend, slot->acc, r->sum, r->sum2, n, err);
    slot->is_used = false;
    return s;
}

enum status restoration_blend(struct restoration *r, uint64_t row, const float *x0,
                              const uint32_t *bad, struct error *err)
{
    const struct tile_position at = restoration_tile_position(r, row);
    const uint64_t tile = row % r->n_tiles;
    const uint32_t side = r->s.tile;
    const struct part across = inside(r, at.x0, r->shape.out.w);
    const struct part down = inside(r, at.y0, r->shape.out.h);
    const uint16_t *wx = r->tiles.x.weight + tile % r->tiles.x.count * side;
    const uint16_t *wy = r->tiles.y.weight + tile / r->tiles.x.count * side;
    struct slot *slot = slot_of(r, at.sample);
    if (!slot) return error_set(err, ST_INTERNAL, "rows of a restoration were not run in order");
    const struct blend_args a = { .x0 = x0 + ((size_t)down.first * side + across.first) * 3,
                                  .wx = restoration_table(r, wx + across.first),
                                  .wy = restoration_table(r, wy + down.first),
                                  .tile = side,
                                  .w = across.end - across.first,
                                  .h = down.end - down.first,
                                  .at_x = at.x0 + across.first - r->s.margin,
                                  .at_y = at.y0 + down.first - r->s.margin,
                                  .out_w = r->shape.out.w,
                                  .out_c = r->shape.out.c,
                                  .acc = slot->acc,
                                  .bad = bad };
    enum status s = r->ops->blend(r->backend, &a, err);
    if (!s && --slot->tiles_left == 0) s = finish_sample(r, slot, err);
    return s;
}

enum status restoration_put(struct restoration *r, uint64_t row, const float *x0, struct error *err)
{
    uint32_t is_bad = 0;
    enum status status =
        r->ops->find_bad(r->backend, x0, 1, (size_t)3 * r->s.tile * r->s.tile, &is_bad, err);
    if (is_bad) status = error_set(err, ST_INTERNAL, "the network's output is not finite");
    pthread_mutex_lock(&r->lock);
    if (!status) status = restoration_blend(r, row, x0, NULL, err);
    if (status && !r->failure) r->failure = status;
    r->jobs_back++;
    pthread_mutex_unlock(&r->lock);
    return status;
}

void restoration_count_back(struct restoration *r, enum status why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->failure) r->failure = why;
    r->jobs_back++;
    pthread_mutex_unlock(&r->lock);
}

struct finished restoration_finished(const struct restoration *r)
{
    return (struct finished){ .acc = r->slots[0].acc,
                              .sum = r->sum,
                              .sum2 = r->sum2,
                              .samples = r->s.samples,
                              .count = restoration_values(r) };
}

bool restoration_is_done(const struct restoration *r)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&r->lock; /* only the lock changes */
    pthread_mutex_lock(lock);
    bool is_done = r->jobs_back >= restoration_tile_jobs(r);
    pthread_mutex_unlock(lock);
    return is_done;
}
