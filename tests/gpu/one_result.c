/* The rule "One result" of engine/README.md on this card: the bytes of an image alone and at any
 * place in a batch of any size.
 *
 *   one_result [--arch A] [--batch 32] [--dtype bf16]
 *
 * Within one size of a batch execution the bytes must be the same, in every run and at the first
 * and the last place; between sizes they may differ by 1 of 255. `pools`: whether images are on the
 * device or the host extracts and blends their tiles, the bytes are the same, except for the noise
 * in a hole. Prints one JSON object; exits with 1 where the rule is broken. The back end:
 * tests/engine/back_end.h. Hash weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "engine/davi/restoration.h"
#include "engine/internal.h"
#include "tests/engine/back_end.h"

enum { MAX_BATCH = 256 };

struct ctx {
    struct engine *e;
    struct model *m;
    uint32_t side;
    size_t bytes; /* of an image */
};

static struct image crowd_image(const struct ctx *c, uint32_t which)
{
    struct image img = { 0 };
    struct error err = { 0 };
    if (image_init(&img, c->side, c->side, 3, 8, &err)) fail_msg("%s", err.detail);
    for (size_t i = 0; i < c->bytes; i++)
        ((uint8_t *)img.pixels)[i] = (uint8_t)((i + 1) * (2 * which + 1) * 2654435761u >> 11);
    return img;
}

/* Restores image 0 at `place` of a batch of n with others around it; its bytes to `out`. */
static enum status restore(const struct ctx *c, uint32_t n, uint32_t place, uint8_t *out,
                           struct error *err)
{
    struct restoration *r[MAX_BATCH] = { NULL };
    struct image img[MAX_BATCH] = { { 0 } }, restored = { 0 };
    struct tile_job rows[MAX_BATCH];
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < n; i++) {
        const uint32_t which = i == place ? 0 : i + 1;
        const struct restore_params p = {
            .task = "denoise", .h = -1, .samples = 1, .seed = 1000 + which
        };
        img[i] = crowd_image(c, which);
        s = restoration_new(&r[i], c->m, &p, &img[i], NULL, err);
        rows[i] = (struct tile_job){ .restoration = r[i] };
    }
    if (!s) s = engine_run(c->e, c->m, rows, n, err);
    if (!s) s = restoration_image(r[place], OUTPUT_IMAGE, 0, &restored, err);
    if (!s) memcpy(out, restored.pixels, c->bytes);
    image_done(&restored);
    for (uint32_t i = 0; i < n; i++) {
        restoration_free(r[i]);
        image_done(&img[i]);
    }
    return s;
}

static int largest_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++) {
        const int d = abs(a[i] - b[i]);
        if (d > most) most = d;
    }
    return most;
}

static enum status compare(const struct ctx *c, uint32_t batch, int *within, int *across,
                           struct error *err)
{
    uint8_t *alone = malloc(c->bytes), *first = malloc(c->bytes), *other = malloc(c->bytes);
    enum status s = alone && first && other ? restore(c, 1, 0, alone, err)
                                            : error_set(err, ST_NO_MEMORY_NOW, "no memory");
    for (uint32_t n = 1; !s && n <= batch; n = n < batch && 2 * n > batch ? batch : 2 * n) {
        const uint32_t places[] = { 0, n - 1, n / 2, 0 };
        s = restore(c, n, 0, first, err);
        if (s) break;
        const int d = largest_difference(alone, first, c->bytes);
        if (d > *across) *across = d;
        for (size_t k = 0; !s && k < sizeof places / sizeof *places; k++) {
            s = restore(c, n, places[k], other, err);
            if (s) break;
            const int same = largest_difference(first, other, c->bytes);
            if (same > *within) *within = same;
        }
    }
    free(alone);
    free(first);
    free(other);
    return s;
}

/* Two samples of an image of several tiles and their statistics, on the device or by the host. out:
 * mean, deviation, sample 1. */
static enum status restore_at(const struct ctx *c, const char *task, const struct image *img,
                              const struct image *mask, bool on_host, struct image out[3],
                              struct error *err)
{
    const struct restore_params p = {
        .task = task, .h = -1, .samples = 2, .seed = 77, .output = OUTPUT_ALL, .keep_samples = true
    };
    struct image_pool *pool = c->e->image_pool;
    struct restoration *r = NULL;
    struct tile_job row;
    enum status s = restoration_new(&r, c->m, &p, img, mask, err);
    if (s) return s;
    if (on_host) c->e->image_pool = NULL;
    for (uint64_t i = 0; !s && i < restoration_tile_jobs(r); i++) {
        row = (struct tile_job){ .restoration = r, .index = i };
        s = engine_run(c->e, c->m, &row, 1, err);
    }
    c->e->image_pool = pool;
    if (!s && pool && restoration_is_on_device(r) == on_host)
        s = error_set(err, ST_INTERNAL, "%s is not restored where it was to be", task);
    if (!s) s = restoration_image(r, OUTPUT_MEAN, 0, &out[0], err);
    if (!s) s = restoration_image(r, OUTPUT_STD, 0, &out[1], err);
    if (!s) s = restoration_image(r, OUTPUT_IMAGE, 1, &out[2], err);
    restoration_free(r);
    return s;
}

/* pools: the largest difference; for inpaint, whose noise two mathematics libraries may round
 * differently, what is beyond 1 of 255. */
static enum status compare_locations(const struct ctx *c, int *pools, struct error *err)
{
    enum status s = ST_OK;
    for (int task = 0; !s && task < TASK_COUNT; task++) {
        const bool is_small = operator_of(task_table[task].op)->scale > 1,
                   has_mask = operator_of(task_table[task].op)->needs_mask;
        const uint32_t w = is_small ? c->side / 4 + 3 : c->side + 5, h = is_small ? 9 : c->side;
        struct image img = { 0 }, mask = { 0 }, on_host[3] = { { 0 } }, here[3] = { { 0 } };
        s = image_init(&img, w, h, 3, 8, err);
        if (!s) s = image_init(&mask, w, h, 1, 8, err);
        for (size_t i = 0; !s && i < image_bytes(&img); i++)
            ((uint8_t *)img.pixels)[i] = (uint8_t)((i + 1) * 2654435761u >> 11);
        for (size_t i = 0; !s && i < image_bytes(&mask); i++)
            ((uint8_t *)mask.pixels)[i] = i % 31 < 9 ? 255 : 0;
        const struct image *hole = has_mask ? &mask : NULL;
        const struct image_ops *images = c->e->backend->ops->images;
        const bool has_device =
            images && (images->operators >> operator_of(task_table[task].op)->on_device & 1);
        if (!s) s = restore_at(c, task_table[task].name, &img, hole, true, on_host, err);
        if (!s) s = restore_at(c, task_table[task].name, &img, hole, !has_device, here, err);
        for (int i = 0; !s && i < 3; i++) {
            const int d =
                largest_difference(on_host[i].pixels, here[i].pixels, image_bytes(&on_host[i])) -
                (has_mask ? 1 : 0);
            if (d > *pools) *pools = d;
        }
        for (int i = 0; i < 3; i++) {
            image_done(&on_host[i]);
            image_done(&here[i]);
        }
        image_done(&img);
        image_done(&mask);
    }
    return s;
}

int main(int argc, char **argv)
{
    const char *name = "ffhq256";
    struct engine_options o = { .dtype = "bf16", .max_batch = 32 };
    struct ctx c = { 0 };
    struct unet_arch arch;
    struct error err = { 0 };
    int within = 0, across = 0, pools = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--arch") == 0) name = argv[i + 1];
        if (strcmp(argv[i], "--dtype") == 0) o.dtype = argv[i + 1];
        if (strcmp(argv[i], "--batch") == 0) o.max_batch = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    }
    if (argc % 2 == 0 || o.max_batch < 1 || o.max_batch > MAX_BATCH) {
        fprintf(stderr, "one_result [--arch A] [--batch 32] [--dtype bf16]\n");
        return 2;
    }
    enum status s = unet_arch_parse(&arch, name, &err);
    if (!s && !(c.e = test_engine_open(&o, &err))) s = err.status;
    if (!s) s = model_hash(&c.m, c.e, &arch, 1, &err);
    c.side = arch.image_size;
    c.bytes = (size_t)3 * c.side * c.side;
    if (!s) s = model_warm(c.m, &err);
    if (!s) s = compare(&c, o.max_batch, &within, &across, &err);
    if (!s) s = compare_locations(&c, &pools, &err);
    if (s)
        fprintf(stderr, "one_result: %s\n", err.detail);
    else
        printf("{\"what\":\"one_result\",\"dtype\":\"%s\",\"batch\":%u,\"within\":%d,\"across\":%d,"
               "\"pools\":%d}\n",
               o.dtype, o.max_batch, within, across, pools);
    model_free(c.m);
    if (c.e) engine_close(c.e);
    return s || within > 0 || across > 1 || pools > 0;
}
