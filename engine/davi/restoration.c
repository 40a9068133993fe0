/* A restoration's memory, the cutting of its rows and the blending of what comes back.
 * What is made of the accumulators in the end is in restoration_output.c. */
#include "engine/davi/restoration.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/philox.h"

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

/* The image restored with its margin: what the tiles are cut from. */
static struct extent tiled(const struct restoration_setup *s, const struct restoration_shape *h)
{
    return (struct extent){ h->out.w + 2 * s->margin, h->out.h + 2 * s->margin, h->out.c };
}

/* Offsets into the one block of memory. */
struct layout {
    size_t slots, tiles_x, tiles_y, observed_mask, taps, accs, sum, sum2, images, scratch, total;
    uint32_t n_slots;
    bool has_sum, has_sum2, has_images;
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
    /* Rows go out in ascending order, so those in flight are neighbours and touch this many samples at most. Of several runs each may touch as many, and
     * the sample whose last rows have not gone out yet may be in none of them. */
    uint64_t touched = 1 + (s->jobs_in_flight - 1 + tiles - 1) / tiles;
    if (s->runs_in_flight > 1) touched = touched * s->runs_in_flight + 1;
    l.n_slots = touched < s->samples ? (uint32_t)touched : s->samples;
    l.has_sum = s->samples > 1;
    l.has_sum2 = l.has_sum && (s->output == OUTPUT_STD || s->output == OUTPUT_ALL);
    l.has_images = l.has_sum && s->output == OUTPUT_ALL && s->keep_samples;

    reserve(&l, 1, sizeof(struct restoration));
    l.slots = reserve(&l, l.n_slots, sizeof(struct slot));
    /* what the tiles need: one stretch, so that it can be copied as one (image_pool.h) */
    l.tiles_x = reserve(&l, tile_axis_bytes(all.w, s->tile, s->overlap, s->shift_x), 1);
    l.tiles_y = reserve(&l, tile_axis_bytes(all.h, s->tile, s->overlap, s->shift_y), 1);
    l.observed_mask = reserve(&l, op->needs_mask ? (size_t)h->in.w * h->in.h : 0, 1);
    l.taps = reserve(&l, op->taps ? BLUR_TAPS : 0, sizeof(float));
    l.accs = reserve(&l, l.n_slots, values * sizeof(int64_t));
    l.sum = reserve(&l, l.has_sum ? values : 0, sizeof(int64_t));
    l.sum2 = reserve(&l, l.has_sum2 ? values : 0, sizeof(int64_t));
    l.images = reserve(&l, l.has_images ? s->samples : 0, values * (h->depth / 8));
    l.scratch =
        reserve(&l, operator_scratch_floats(s->task->op, h->out) + (size_t)h->out.w * h->out.c,
                sizeof(float));
    return l;
}

size_t restoration_block_bytes(const struct restoration_setup *s,
                               const struct restoration_shape *shape)
{
    struct layout l = lay_out(s, shape);
    return l.overflows ? SIZE_MAX : l.total;
}

/* ---- birth ---- */

static uint32_t sample_of(const struct image *img, size_t i)
{
    return img->depth == 16 ? ((const uint16_t *)img->pixels)[i]
                            : ((const uint8_t *)img->pixels)[i];
}

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
                sum += sample_of(mask, i * mask->channels + c);
            observed_mask[i] = 2 * sum < colors * white;
        }
        return ST_OK;
    }
    if (!img->pixels || img->channels % 2)
        return error_set(
            err, ST_BAD_MASK,
            "task %s needs a mask (white = missing) or an image with alpha (0 = missing)", task);
    for (size_t i = 0; i < n; i++)
        observed_mask[i] = sample_of(img, (i + 1) * img->channels - 1) != 0;
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
    r->images = l.has_images ? (uint8_t *)block + l.images : NULL;
    r->scratch = (float *)(void *)(block + l.scratch);
    for (int i = 0; i < 256; i++)
        r->level[i] = (float)(i / 127.5 - 1);
    if (op->taps) {
        float *taps = (float *)(void *)(block + l.taps);
        op->taps(r->s.level, taps);
        r->taps = taps;
    }
    if (op->needs_mask) {
        uint8_t *observed_mask = (uint8_t *)block + l.observed_mask;
        /* a measurement of floats has no alpha: only its size is looked at */
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
    image_pool_release(r);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

uint64_t restoration_tile_jobs(const struct restoration *r)
{
    return r->n_tiles * r->s.samples;
}

/* ---- cutting ---- */

struct tile_position restoration_tile_position(const struct restoration *r, uint64_t row)
{
    uint64_t tile = row % r->n_tiles;
    return (struct tile_position){
        .sample = (uint32_t)(row / r->n_tiles),
        .x0 = tile_origin(&r->tiles.x, (uint32_t)(tile % r->tiles.x.count)),
        .y0 = tile_origin(&r->tiles.y, (uint32_t)(tile / r->tiles.x.count))
    };
}

static float level_of(const struct restoration *r, size_t i)
{
    const struct image *img = r->s.img;
    if (img->depth == 16) return (float)(((const uint16_t *)img->pixels)[i] / 32767.5 - 1);
    return r->level[((const uint8_t *)img->pixels)[i]];
}

/* v: [y_channels] */
static void observed_at(const struct restoration *r, uint32_t x, uint32_t y, float *v)
{
    const uint32_t channels = r->shape.in.c;
    const size_t at = ((size_t)y * r->shape.in.w + x) * channels;
    float rgb[3] = { 0 };
    uint32_t colors = channels < 3 ? 1 : 3;
    for (uint32_t c = 0; c < colors; c++)
        rgb[c] = r->shape.float_y ? r->s.y->y[at + c] : level_of(r, at + c);
    if (colors == 3 && r->y_channels == 1) /* a gray measurement, given as RGB */
        rgb[0] = 0.3333f * rgb[0] + 0.3334f * rgb[1] + 0.3333f * rgb[2];
    for (uint32_t c = 0; c < r->y_channels; c++)
        v[c] = rgb[c];
}

void restoration_observed(const struct restoration *r, uint32_t y, uint32_t x0, uint32_t n,
                          float *row)
{
    for (uint32_t i = 0; i < n; i++)
        observed_at(r, x0 + i, y, row + (size_t)i * r->y_channels);
}

/* Normals of the hole for one row of the image, four pixels at a time. */
struct hole_noise {
    uint32_t x4, y;
    bool is_set;
    float n[3][4];
};

static void noise_at(const struct restoration *r, struct hole_noise *h, uint32_t x, uint32_t y,
                     float *v)
{
    if (!h->is_set || h->x4 != x / 4 || h->y != y) {
        *h = (struct hole_noise){ .x4 = x / 4, .y = y, .is_set = true };
        for (uint32_t c = 0; c < r->y_channels; c++)
            philox_normals4(h->n[c], r->s.seed, NOISE_HOLE, 0, c, x / 4, y);
    }
    for (uint32_t c = 0; c < r->y_channels; c++)
        v[c] = (float)r->s.sigma * h->n[c][x % 4];
}

/* The network's input at one pixel of the restored image, in y_channels. */
static void input_at(const struct restoration *r, struct hole_noise *h, uint32_t x, uint32_t y,
                     float *v)
{
    if (r->op->scale > 1) {
        uint32_t xs[2], ys[2];
        float wx, wy, corner[2][2][3];
        resize_at(r->op->scale, x, r->shape.in.w, &xs[0], &xs[1], &wx);
        resize_at(r->op->scale, y, r->shape.in.h, &ys[0], &ys[1], &wy);
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 2; j++)
                observed_at(r, xs[j], ys[i], corner[i][j]);
        for (uint32_t c = 0; c < r->y_channels; c++) {
            float top = (1 - wx) * corner[0][0][c] + wx * corner[0][1][c];
            float bottom = (1 - wx) * corner[1][0][c] + wx * corner[1][1][c];
            v[c] = (1 - wy) * top + wy * bottom;
        }
        return;
    }
    /* A simulated measurement brings its own noise in the hole; a user's image has nothing there. */
    if (r->observed_mask && !r->shape.float_y && !r->observed_mask[(size_t)y * r->shape.in.w + x])
        noise_at(r, h, x, y, v);
    else
        observed_at(r, x, y, v);
}

/* The pixel of the image, n px long, that stands at `at` of the image with its margin. */
static uint32_t mirrored(const struct restoration *r, uint32_t at, uint32_t n)
{
    return at < r->s.margin ? reflect(r->s.margin - at, n) : reflect(at - r->s.margin, n);
}

void restoration_extract(const struct restoration *r, uint64_t row, float *y_in)
{
    const struct tile_position at = restoration_tile_position(r, row);
    const uint32_t tile = r->s.tile;
    struct hole_noise h = { 0 };
    for (uint32_t ty = 0; ty < tile; ty++) {
        uint32_t y = mirrored(r, at.y0 + ty, r->shape.out.h);
        for (uint32_t tx = 0; tx < tile; tx++) {
            float v[3] = { 0 }, *dst = y_in + ((size_t)ty * tile + tx) * 3;
            input_at(r, &h, mirrored(r, at.x0 + tx, r->shape.out.w), y, v);
            for (uint32_t c = 0; c < 3; c++)
                dst[c] = v[r->y_channels == 3 ? c : 0];
        }
    }
}

/* ---- blending ---- */

static int64_t fixed(float v)
{
    float in = v < -1 ? -1 : v > 1 ? 1 : v; /* the range of tanh; a bound on every sum below */
    return llrint((double)in * (1 << VALUE_BITS));
}

/* The pixels of a tile that lie in the image itself, one axis. */
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

static void blend(const struct restoration *r, int64_t *acc, uint64_t row, const float *x0)
{
    const struct tile_position at = restoration_tile_position(r, row);
    const uint64_t tile_index = row % r->n_tiles;
    const uint32_t tile = r->s.tile, colors = r->shape.out.c;
    const struct part across = inside(r, at.x0, r->shape.out.w);
    const struct part down = inside(r, at.y0, r->shape.out.h);
    const uint16_t *wx = r->tiles.x.weight + (tile_index % r->tiles.x.count) * tile;
    const uint16_t *wy = r->tiles.y.weight + (tile_index / r->tiles.x.count) * tile;
    for (uint32_t y = down.first; y < down.end; y++) {
        const uint32_t row_of_image = at.y0 + y - r->s.margin;
        int64_t *dst =
            acc +
            ((size_t)row_of_image * r->shape.out.w + at.x0 + across.first - r->s.margin) * colors;
        for (uint32_t x = across.first; x < across.end; x++, dst += colors) {
            const float *v = x0 + ((size_t)y * tile + x) * 3;
            int64_t weight = (int64_t)wy[y] * wx[x];
            if (colors == 3) {
                for (uint32_t c = 0; c < 3; c++)
                    dst[c] += weight * fixed(v[c]);
            } else { /* a gray image: the mean of the channels, in integers */
                int64_t sum = fixed(v[0]) + fixed(v[1]) + fixed(v[2]);
                *dst += weight * (sum / 3);
            }
        }
    }
}

/* Takes a finished sample into the statistics and gives its accumulator back. */
static void accumulate(struct restoration *r, struct slot *slot)
{
    const size_t n = (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c;
    const int drop = VALUE_BITS + 2 * BLEND_BITS - FOLD_BITS;
    if (!r->sum) return; /* the only sample: its accumulator is the result */
    for (size_t i = 0; i < n; i++) {
        int64_t v = (slot->acc[i] + ((int64_t)1 << (drop - 1))) >> drop;
        r->sum[i] += v;
        if (r->sum2) r->sum2[i] += v * v;
    }
    if (r->images)
        restoration_round(r, slot->acc, r->images + slot->sample * n * (r->shape.depth / 8));
    slot->is_used = false;
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
    memset(free_one->acc, 0,
           (size_t)r->shape.out.w * r->shape.out.h * r->shape.out.c * sizeof *free_one->acc);
    return free_one;
}

static bool all_finite(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

enum status restoration_put(struct restoration *r, uint64_t row, const float *x0, struct error *err)
{
    const uint32_t sample = (uint32_t)(row / r->n_tiles);
    enum status status = ST_OK;
    if (!all_finite(x0, (size_t)3 * r->s.tile * r->s.tile))
        status = error_set(err, ST_INTERNAL, "the network's output is not finite");
    pthread_mutex_lock(&r->lock);
    struct slot *slot = status ? NULL : slot_of(r, sample);
    if (slot) {
        blend(r, slot->acc, row, x0);
        if (--slot->tiles_left == 0) accumulate(r, slot);
    } else if (!status) {
        status = error_set(err, ST_INTERNAL, "rows of a restoration were not run in order");
    }
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

void restoration_fail(struct restoration *r, enum status why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->failure) r->failure = why;
    pthread_mutex_unlock(&r->lock);
}

void restoration_place(struct restoration *r, struct image_pool *h, bool is_whole)
{
    pthread_mutex_lock(&r->lock);
    if (r->location == LOCATION_UNDECIDED) /* Back ends cut and blend images without a margin. */
        r->location = h && is_whole && !r->s.margin && image_pool_place(h, r) ? LOCATION_DEVICE
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

bool restoration_is_done(const struct restoration *r)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&r->lock; /* reading changes nothing but the lock */
    pthread_mutex_lock(lock);
    bool is_done = r->jobs_back >= restoration_tile_jobs(r);
    pthread_mutex_unlock(lock);
    return is_done;
}
