/* The parts of a restoration that need no network: noise, operators, tiles, blending, output rules, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/philox.h"
#include "engine/davi/restoration.h"

/* ---- every allocation is counted (the linker wraps malloc and free in this program) ---- */

static size_t held, peak;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static void *count_in(void *p)
{
    held += p ? malloc_usable_size(p) : 0;
    peak = held > peak ? held : peak;
    return p;
}

void *__wrap_malloc(size_t n)
{
    return count_in(__real_malloc(n));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return count_in(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t n)
{
    held -= p ? malloc_usable_size(p) : 0;
    return count_in(__real_realloc(p, n));
}

void __wrap_free(void *p)
{
    held -= p ? malloc_usable_size(p) : 0;
    __real_free(p);
}

/* ---- pictures ---- */

static uint32_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

static struct image picture(uint32_t w, uint32_t h, uint32_t channels, uint32_t depth,
                            uint64_t seed)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, w, h, channels, depth, NULL), ST_OK);
    for (size_t i = 0; i < (size_t)w * h * channels; i++) {
        uint32_t v = next_random(&seed);
        if (depth == 16)
            ((uint16_t *)img.pixels)[i] = (uint16_t)v;
        else
            ((uint8_t *)img.pixels)[i] = (uint8_t)v;
    }
    return img;
}

static struct restoration_setup setup(enum task_id task, uint32_t tile, uint32_t overlap)
{
    return (struct restoration_setup){ .task = &task_table[task],
                                       .sigma = task_table[task].sigma,
                                       .h = 0.1,
                                       .samples = 1,
                                       .tile = tile,
                                       .overlap = overlap,
                                       .rows_in_flight = 32 };
}

/* A network that returns its input; `bend` (per sample) tells samples apart. */
static void run_identity(struct restoration *r, double bend)
{
    const size_t n = (size_t)3 * r->s.tile * r->s.tile;
    float *tile = malloc(n * sizeof *tile);
    for (uint64_t row = 0; row < restoration_rows(r); row++) {
        restoration_cut(r, row, tile);
        for (size_t i = 0; i < n; i++)
            tile[i] += (float)(bend * restoration_place(r, row).sample);
        assert_int_equal(restoration_put(r, row, tile, NULL), ST_OK);
    }
    assert_true(restoration_is_done(r));
    free(tile);
}

static struct image restored(enum task_id task, const struct image *img, const struct image *mask)
{
    struct restoration_setup s = setup(task, 32, 8);
    struct restoration *r = NULL;
    struct image out = { 0 };
    s.img = img;
    s.mask = mask;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    run_identity(r, 0);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    restoration_free(r);
    return out;
}

/* ---- noise ---- */

static void philox_gives_the_published_vectors(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } all[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u },
          { ~0u, ~0u },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        uint32_t got[4];
        philox4x32_10(got, all[i].counter, all[i].key);
        assert_memory_equal(got, all[i].want, sizeof got);
    }
}

static void a_pixels_noise_depends_on_its_absolute_place_alone(void **state)
{
    (void)state;
    enum { W = 23, H = 9 };
    float whole[H][W][3], part[5][7][3];
    philox_normals(&whole[0][0][0], 0x123456789abcdefu, 1, 4, 0, 0, W, H, 3);
    for (uint32_t x0 = 0; x0 < 8; x0++) {
        philox_normals(&part[0][0][0], 0x123456789abcdefu, 1, 4, x0, 2, 7, 5, 3);
        for (uint32_t y = 0; y < 5; y++)
            assert_memory_equal(part[y], whole[y + 2][x0], sizeof part[y]);
    }
}

static void noise_is_laid_out_as_written(void **state)
{
    (void)state;
    const uint64_t seed = 0xfedcba9876543210u;
    uint32_t w[4];
    float one[1][2][4]; /* pixels 10 and 11, four channels */
    philox_normals(&one[0][0][0], seed, 2, 7, 10, 3, 2, 1, 4);
    philox4x32_10(w, (uint32_t[4]){ 10 / 4, 3, 3 + 16 * 2, 7 },
                  (uint32_t[2]){ 0x76543210u, 0xfedcba98u });
    double u0 = ((w[2] >> 9) + 0.5) / 8388608, u1 = ((w[3] >> 9) + 0.5) / 8388608;
    double radius = sqrt(-2 * log(u0));
    assert_true(fabs(one[0][0][3] - radius * cos(2 * M_PI * u1)) < 2e-6);
    assert_true(fabs(one[0][1][3] - radius * sin(2 * M_PI * u1)) < 2e-6);
}

static void noise_is_standard_normal(void **state)
{
    (void)state;
    enum { SIDE = 200, N = SIDE * SIDE * 3 };
    float *n = malloc(N * sizeof *n);
    double sum = 0, sum2 = 0, sum4 = 0;
    philox_normals(n, 1, 0, 0, 0, 0, SIDE, SIDE, 3);
    for (int i = 0; i < N; i++) {
        double v = n[i];
        sum += v;
        sum2 += v * v;
        sum4 += v * v * v * v;
    }
    assert_true(fabs(sum / N) < 0.015);
    assert_true(fabs(sum2 / N - 1) < 0.02);
    assert_true(fabs(sum4 / N - 3) < 0.15);
    free(n);
}

/* ---- operators ---- */

static void fill_random(float *v, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(next_random(&seed) / 1073741824.0 - 1);
}

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

static void the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts(void **state)
{
    (void)state;
    static const struct extent sizes[] = {
        { 8, 8, 3 }, { 61, 13, 3 }, { 9, 130, 3 }, { 67, 50, 3 }
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct extent x_size = sizes[i];
        const size_t px = (size_t)x_size.w * x_size.h, n = px * x_size.c;
        float *x = malloc(n * sizeof *x), *back = malloc(n * sizeof *back);
        float *ax = malloc(n * sizeof *ax), *y = malloc(n * sizeof *y),
              *again = malloc(n * sizeof *again);
        uint8_t *kept = malloc(px);
        for (size_t p = 0; p < px; p++)
            kept[p] = p % 3 != 0;
        for (int t = 0; t < TASK_COUNT; t++) {
            const enum operator_kind op = task_table[t].op;
            const struct extent m = operator_extent(op, x_size);
            const size_t n_y = (size_t)m.w * m.h * m.c;
            float *scratch = malloc(operator_scratch_floats(op, x_size) * sizeof *scratch);
            fill_random(x, n, 1 + i);
            fill_random(y, n_y, 100 + i);
            operator_apply(op, x_size, kept, x, ax, scratch);
            operator_transpose(op, x_size, kept, y, back, scratch);
            double left = dot(ax, y, n_y), right = dot(x, back, n);
            if (!(fabs(left - right) < 1e-5 * sqrt(dot(ax, ax, n_y) * dot(y, y, n_y))))
                fail_msg("%s: <Ax, y> = %g, <x, A^T y> = %g", task_table[t].name, left, right);
            bool has_pinv = operator_pinv(op, x_size, kept, ax, back);
            assert_int_equal(has_pinv, op != OPERATOR_BLUR);
            if (has_pinv) { /* A A^+ A = A */
                operator_apply(op, x_size, kept, back, again, scratch);
                for (size_t k = 0; k < n_y; k++)
                    assert_true(fabsf(again[k] - ax[k]) < 1e-5f);
            }
            free(scratch);
        }
        free(x);
        free(back);
        free(ax);
        free(y);
        free(again);
        free(kept);
    }
}

/* ---- tiles ---- */

static void every_pixel_is_covered_and_weights_sum_to_one(void **state)
{
    (void)state;
    for (uint32_t length = 8; length <= 200; length += length < 40 ? 1 : 7)
        for (uint32_t overlap = 0; overlap < 32; overlap += 5)
            for (uint32_t shift = 0; shift < 12; shift += 11) {
                void *memory = malloc(tile_axis_bytes(length, 32, overlap, shift));
                struct tile_axis a;
                int sum[200] = { 0 };
                tile_axis_lay(&a, length, 32, overlap, shift, memory);
                for (uint32_t t = 0; t < a.count; t++)
                    for (uint32_t i = 0; i < 32; i++) {
                        uint32_t p = tile_origin(&a, t) + i;
                        if (p < length)
                            sum[p] += a.weight[t * 32 + i];
                        else
                            assert_int_equal(a.weight[t * 32 + i], 0);
                    }
                for (uint32_t p = 0; p < length; p++)
                    assert_int_equal(sum[p], BLEND_ONE);
                free(memory);
            }
}

static void reflection_repeats_as_often_as_needed(void **state)
{
    (void)state;
    static const uint32_t want[] = { 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0 };
    for (uint32_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(reflect(i, 4), want[i]);
    assert_int_equal(reflect(17, 1), 0);
}

static void a_tiled_identity_returns_its_input_exactly(void **state)
{
    (void)state;
    static const uint32_t overlaps[] = { 0, 7, 16, 31 };
    for (uint32_t side = 8; side <= 200; side += side < 36 ? 1 : 23)
        for (size_t o = 0; o < sizeof overlaps / sizeof *overlaps; o++)
            for (uint32_t channels = 1; channels <= 3; channels += 2) {
                struct image img = picture(side, 208 - side, channels, o % 2 ? 16 : 8, side);
                struct restoration_setup s = setup(TASK_DENOISE, 32, overlaps[o]);
                struct restoration *r = NULL;
                struct image out = { 0 };
                s.img = &img;
                s.shift_x = (uint32_t)o;
                s.shift_y = 5;
                assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
                run_identity(r, 0);
                assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
                assert_int_equal(out.channels, channels);
                assert_int_equal(out.depth, img.depth);
                assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
                assert_true(restoration_facts(r)->residual_rms < 1e-7);
                restoration_free(r);
                image_done(&out);
                image_done(&img);
            }
}

static void a_large_photograph_goes_through_its_tiles_unchanged(void **state)
{
    (void)state;
    struct image img = picture(2000, 1500, 3, 8, 2), out = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 64, 32);
    struct restoration *r = NULL;
    s.img = &img;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_rows(r), 62 * 46);
    run_identity(r, 0);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
    restoration_free(r);
    image_done(&out);
    image_done(&img);
}

static void the_order_in_which_tiles_come_back_does_not_matter(void **state)
{
    (void)state;
    struct image img = picture(90, 70, 3, 8, 3), one = { 0 }, other = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 16);
    float tile[32 * 32 * 3];
    s.img = &img;
    for (int backwards = 0; backwards < 2; backwards++) {
        struct restoration *r = NULL;
        assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
        const uint64_t rows = restoration_rows(r);
        assert_true(rows > 4);
        for (uint64_t i = 0; i < rows; i++) {
            uint64_t row = backwards ? rows - 1 - i : i;
            assert_false(restoration_is_done(r));
            fill_random(tile, sizeof tile / sizeof *tile, row);
            assert_int_equal(restoration_put(r, row, tile, NULL), ST_OK);
        }
        assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, backwards ? &other : &one, NULL),
                         ST_OK);
        restoration_free(r);
    }
    assert_memory_equal(one.pixels, other.pixels, image_bytes(&one));
    image_done(&one);
    image_done(&other);
    image_done(&img);
}

static void a_tile_that_is_not_finite_fails_its_restoration(void **state)
{
    (void)state;
    struct image img = picture(32, 32, 3, 8, 3), out = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 16);
    struct restoration *r = NULL;
    float tile[32 * 32 * 3] = { 0 };
    tile[5] = NAN;
    s.img = &img;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    assert_int_equal(restoration_put(r, 0, tile, NULL), ST_INTERNAL);
    assert_true(restoration_is_done(r));
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_INTERNAL);
    assert_null(out.pixels);
    restoration_free(r);
    image_done(&img);
}

/* ---- statistics ---- */

static void mean_and_unbiased_deviation_are_those_of_the_samples(void **state)
{
    (void)state;
    struct image img = picture(40, 40, 3, 8, 9), mean = { 0 }, deviation = { 0 }, third = { 0 };
    struct restoration_setup s = setup(TASK_DENOISE, 32, 8);
    struct restoration *r = NULL;
    for (size_t i = 0; i < image_bytes(&img); i++)
        ((uint8_t *)img.pixels)[i] %= 128; /* room to move up */
    s.img = &img;
    s.samples = 5;
    s.output = OUTPUT_ALL;
    s.keep_samples = true;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    run_identity(r, 2 / 127.5); /* sample k is the picture, 2 k levels brighter */
    assert_int_equal(restoration_image(r, OUTPUT_MEAN, 0, &mean, NULL), ST_OK);
    assert_int_equal(restoration_image(r, OUTPUT_STD, 0, &deviation, NULL), ST_OK);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 3, &third, NULL), ST_OK);
    const double want = 2 / 127.5 * sqrt(2.5); /* of 0 1 2 3 4, unbiased */
    assert_true(fabs(restoration_facts(r)->std_scale - want) < 1e-6);
    assert_true(fabs(restoration_facts(r)->residual_rms - 4 / 127.5) < 1e-6);
    for (size_t i = 0; i < image_bytes(&img); i++) {
        int was = ((uint8_t *)img.pixels)[i];
        assert_int_equal(((uint8_t *)mean.pixels)[i], was + 4);
        assert_int_equal(((uint8_t *)third.pixels)[i], was + 6);
        assert_int_equal(((uint8_t *)deviation.pixels)[i], 255);
    }
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 5, &third, NULL), ST_BAD_PARAMETER);
    restoration_free(r);
    image_done(&img);
    image_done(&mean);
    image_done(&deviation);
    image_done(&third);
}

/* ---- output rules ---- */

static void gray_stays_gray_but_for_colorize_and_alpha_is_kept(void **state)
{
    (void)state;
    static const struct {
        enum task_id task;
        uint32_t channels, depth, want;
    } all[] = {
        { TASK_DENOISE, 1, 8, 1 },  { TASK_DENOISE, 2, 16, 2 },  { TASK_DENOISE, 3, 8, 3 },
        { TASK_DENOISE, 4, 8, 4 },  { TASK_DEBLUR, 4, 16, 4 },   { TASK_COLORIZE, 1, 8, 3 },
        { TASK_COLORIZE, 2, 8, 4 }, { TASK_COLORIZE, 3, 16, 3 }, { TASK_SR4, 4, 8, 4 },
        { TASK_SR4, 1, 8, 1 },      { TASK_INPAINT, 4, 8, 3 },   { TASK_INPAINT, 2, 16, 1 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct image img = picture(20, 12, all[i].channels, all[i].depth, i);
        struct image out = restored(all[i].task, &img, NULL);
        const uint32_t grow = all[i].task == TASK_SR4 ? 4 : 1;
        assert_int_equal(out.width, 20 * grow);
        assert_int_equal(out.height, 12 * grow);
        assert_int_equal(out.channels, all[i].want);
        assert_int_equal(out.depth, all[i].depth);
        if (all[i].task == TASK_DENOISE) /* identity: alpha included */
            assert_memory_equal(out.pixels, img.pixels, image_bytes(&img));
        image_done(&img);
        image_done(&out);
    }
}

static void alpha_is_resized_with_the_picture(void **state)
{
    (void)state;
    struct image img = picture(16, 16, 4, 8, 1);
    for (size_t p = 0; p < 256; p++)
        ((uint8_t *)img.pixels)[4 * p + 3] = p % 16 < 8 ? 0 : 200;
    struct image out = restored(TASK_SR4, &img, NULL);
    const uint8_t *row = (uint8_t *)out.pixels + (size_t)64 * 4 * 30;
    assert_int_equal(row[4 * 0 + 3], 0);
    assert_int_equal(row[4 * 63 + 3], 200);
    assert_int_equal(row[4 * 30 + 3], 25); /* an eighth of the way */
    assert_int_equal(row[4 * 31 + 3], 75);
    image_done(&img);
    image_done(&out);
}

static void only_the_hole_gets_noise(void **state)
{
    (void)state;
    struct image img = picture(40, 24, 3, 8, 4), mask = { 0 };
    assert_int_equal(image_init(&mask, 40, 24, 1, 8, NULL), ST_OK);
    for (size_t y = 8; y < 16; y++)
        memset((uint8_t *)mask.pixels + y * 40 + 10, 255, 20);
    struct image out = restored(TASK_INPAINT, &img, &mask);
    double sum2 = 0;
    for (size_t p = 0; p < (size_t)40 * 24; p++)
        for (size_t c = 0; c < 3; c++) {
            int got = ((uint8_t *)out.pixels)[3 * p + c];
            if (((uint8_t *)mask.pixels)[p])
                sum2 += pow(got / 127.5 - 1, 2);
            else
                assert_int_equal(got, ((uint8_t *)img.pixels)[3 * p + c]);
        }
    double std = sqrt(sum2 / (20 * 8 * 3));
    assert_true(std > 0.04 && std < 0.06);
    image_done(&img);
    image_done(&mask);
    image_done(&out);
}

static void pictures_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    struct image good = picture(16, 16, 3, 8, 1), tiny = picture(1, 1, 3, 8, 1);
    struct image strip = picture(20000, 1, 3, 8, 1), small_mask = picture(8, 8, 1, 8, 1);
    const struct {
        enum task_id task;
        const struct image *img, *mask;
        enum status want;
    } all[] = { { TASK_DENOISE, &tiny, NULL, ST_TOO_FEW_PX },
                { TASK_SR4, &strip, NULL, ST_TOO_FEW_PX },
                { TASK_INPAINT, &good, NULL, ST_BAD_MASK },
                { TASK_INPAINT, &good, &small_mask, ST_BAD_MASK },
                { TASK_DENOISE, &good, &good, ST_BAD_MASK } };
    const size_t before = held;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct restoration_setup s = setup(all[i].task, 32, 8);
        struct restoration *r = NULL;
        struct error err = { 0 };
        s.img = all[i].img;
        s.mask = all[i].mask;
        assert_int_equal(restoration_make(&r, &s, &err), all[i].want);
        assert_true(err.detail[0] != 0);
        assert_null(r);
    }
    assert_int_equal(held, before);
    image_done(&good);
    image_done(&tiny);
    image_done(&strip);
    image_done(&small_mask);
}

/* ---- memory ---- */

static void memory_is_bounded_by_the_room_announced_and_all_given_back(void **state)
{
    (void)state;
    for (int kind = OUTPUT_IMAGE; kind <= OUTPUT_ALL; kind++)
        for (int t = 0; t < TASK_COUNT; t++) {
            struct image img = picture(150, 90, 4, 8, 1), out = { 0 };
            struct restoration_setup s = setup((enum task_id)t, 32, 16);
            struct restoration_shape shape;
            struct restoration *r = NULL;
            s.img = &img;
            s.output = (enum output_kind)kind;
            s.samples = kind == OUTPUT_IMAGE ? 1 : 3;
            s.keep_samples = true;
            assert_int_equal(restoration_shape_of(&shape, s.task, 150, 90, 4, 8, NULL), ST_OK);
            const size_t before = held, room = restoration_room(&s, &shape);
            peak = held;
            assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
            const size_t made = held;
            assert_true(made - before >= room); /* counted, not guessed */
            run_identity(r, 0.01);
            assert_int_equal(held, made); /* all of it was taken at the start */
            restoration_facts(r);
            assert_int_equal(held, made);
            assert_int_equal(
                restoration_image(r, kind == OUTPUT_ALL ? OUTPUT_STD : s.output, 0, &out, NULL),
                ST_OK);
            assert_true(peak - before <= room + image_bytes(&out) + 64 * 1024);
            image_done(&out);
            restoration_free(r);
            assert_int_equal(held, before);
            image_done(&img);
        }
}

/* ---- measurements ---- */

static void a_measurement_is_a_x_plus_noise(void **state)
{
    (void)state;
    struct image img = picture(64, 64, 3, 8, 1);
    for (int t = 0; t < TASK_COUNT; t++) {
        const struct task_desc *task = &task_table[t];
        struct image mask = { 0 };
        assert_int_equal(image_init(&mask, 64, 64, 1, 8, NULL), ST_OK);
        memset(mask.pixels, 255, 64 * 10);
        const struct image *hole = task->op == OPERATOR_MASK ? &mask : NULL;
        struct measurement clean = { 0 }, noisy = { 0 };
        assert_int_equal(measurement_make(&clean, task->name, 0, 5, &img, hole, NULL), ST_OK);
        assert_int_equal(measurement_make(&noisy, task->name, -1, 5, &img, hole, NULL), ST_OK);
        const size_t n = (size_t)clean.width * clean.height * clean.channels;
        double sum2 = 0;
        for (size_t i = 0; i < n; i++)
            sum2 += pow((double)noisy.y[i] - clean.y[i], 2);
        assert_true(fabs(sqrt(sum2 / (double)n) / task->sigma - 1) < 0.08);
        if (hole) assert_true(clean.y[0] == 0);
        if (task->op == OPERATOR_GRAY) assert_int_equal(clean.channels, 1);
        if (task->op == OPERATOR_POOL4) assert_int_equal(clean.width, 16);
        struct restoration_setup s = setup((enum task_id)t, 32, 8);
        struct restoration *r = NULL;
        s.y = &noisy;
        s.mask = hole;
        assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
        restoration_free(r);
        measurement_done(&clean);
        measurement_done(&noisy);
        image_done(&mask);
    }
    image_done(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(a_pixels_noise_depends_on_its_absolute_place_alone),
        cmocka_unit_test(noise_is_laid_out_as_written),
        cmocka_unit_test(noise_is_standard_normal),
        cmocka_unit_test(the_transpose_is_the_adjoint_and_the_pseudoinverse_inverts),
        cmocka_unit_test(every_pixel_is_covered_and_weights_sum_to_one),
        cmocka_unit_test(reflection_repeats_as_often_as_needed),
        cmocka_unit_test(a_tiled_identity_returns_its_input_exactly),
        cmocka_unit_test(a_large_photograph_goes_through_its_tiles_unchanged),
        cmocka_unit_test(the_order_in_which_tiles_come_back_does_not_matter),
        cmocka_unit_test(a_tile_that_is_not_finite_fails_its_restoration),
        cmocka_unit_test(mean_and_unbiased_deviation_are_those_of_the_samples),
        cmocka_unit_test(gray_stays_gray_but_for_colorize_and_alpha_is_kept),
        cmocka_unit_test(alpha_is_resized_with_the_picture),
        cmocka_unit_test(only_the_hole_gets_noise),
        cmocka_unit_test(pictures_that_do_not_fit_are_refused),
        cmocka_unit_test(memory_is_bounded_by_the_room_announced_and_all_given_back),
        cmocka_unit_test(a_measurement_is_a_x_plus_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
