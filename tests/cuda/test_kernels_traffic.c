/* Memory traffic of the network's kernels: each byte of an image once where that is enough, and in
 * whole sectors. The shapes are the network's own, or smaller ones of the same kind where those
 * would take the emulation too long. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/conformance.h"

/* Bytes of the sectors that the warps accessed, over the bytes of the images read and written once:
 * in total at most `most`. */
static void expect_traffic(const char *what, double in_bytes, double out_bytes,
                           const struct emu_traffic *t, double most)
{
    double read = 32.0 * (double)t->read_sectors, written = 32.0 * (double)t->written_sectors;
    double times = (read + written) / (in_bytes + out_bytes);
    print_message("%-44s read %8.0f of %8.0f, written %8.0f of %8.0f: %.3f times\n", what, read,
                  in_bytes, written, out_bytes, times);
    if (times > most)
        fail_msg("%s moves %.3f times what it must, more than %.3f", what, times, most);
}

static const struct norm_case {
    const char *name;
    uint32_t h, w, c;
    enum resample how;
    double most;
    /* Compared with two ops: at least so many times the normalised image is neither written nor
     * read. */
    double saved;
    bool has_halves; /* of sectors */
} norms[] = {
    { "norm, whole, 32 x 32 x 256", 32, 32, 256, RESAMPLE_NONE, 1.05, 0, false },
    { "norm, whole, 16 x 16 x 512", 16, 16, 512, RESAMPLE_NONE, 1.15, 0, false },
    { "norm, whole, 64 x 64 x 256 (half sectors)", 64, 64, 256, RESAMPLE_NONE, 2.05, 0, true },
    { "norm, two kernels, 128 x 64 x 128", 128, 64, 128, RESAMPLE_NONE, 2.1, 0, false },
    { "norm doubled, whole, 16 x 16 x 512", 16, 16, 512, RESAMPLE_UP, 1.06, 2, false },
    { "norm halved, whole, 32 x 32 x 256", 32, 32, 256, RESAMPLE_DOWN, 1.06, 2, false },
    /* Sectors whose halves a cache must merge, as for the norm alone. */
    { "norm doubled, whole, 64 x 64 x 256 (half)", 64, 64, 256, RESAMPLE_UP, 2.05, -1.01, true },
    { "norm halved, whole, 64 x 64 x 256 (half)", 64, 64, 256, RESAMPLE_DOWN, 2.05, 2.5, true },
    { "norm doubled, two kernels, 128 x 64 x 128", 128, 64, 128, RESAMPLE_UP, 1.6, 1.2, false },
    { "norm halved, two kernels, 128 x 64 x 128", 128, 64, 128, RESAMPLE_DOWN, 2.5, 2.25, false },
};

static void resample(const struct norm_case *t, const struct tensor *x, const struct tensor *y)
{
    EXPECT_LAUNCH(t->how == RESAMPLE_UP ? gpu_upsample(x, y, NULL) : gpu_downsample(x, y, NULL));
}

/* The same as two ops in sequence: the traffic of both, and what the fused kernel saves. */
static void expect_saving(const struct norm_case *t, const struct gpu_norm *both,
                          const struct emu_traffic *once)
{
    struct gpu_norm norm = *both;
    struct tensor between = tensor_copy(&both->x);
    struct emu_traffic t2;
    norm.y = between;
    norm.resample = RESAMPLE_NONE;
    emu_traffic_begin();
    EXPECT_LAUNCH(gpu_group_norm(&norm, NULL));
    resample(t, &between, &both->y);
    emu_traffic_end(&t2);
    const double bytes = 32.0 * (double)(t2.read_sectors + t2.written_sectors),
                 now = 32.0 * (double)(once->read_sectors + once->written_sectors),
                 normed = (double)tensor_bytes(&between);
    print_message("%-44s %8.0f bytes less than by two ops: %.2f times the normed image\n", t->name,
                  bytes - now, (bytes - now) / normed);
    if (bytes - now < t->saved * normed)
        fail_msg("%s: %.0f bytes saved of a normed image of %.0f", t->name, bytes - now, normed);
    tensor_free(&between);

    /* And x: not read a second time. */
    struct tensor too = tensor_copy(&both->y);
    struct emu_traffic alone, along;
    emu_traffic_begin();
    resample(t, &both->x, &too);
    emu_traffic_end(&alone);
    norm = *both;
    norm.x_too = too;
    emu_traffic_begin();
    EXPECT_LAUNCH(gpu_group_norm(&norm, NULL));
    emu_traffic_end(&along);
    print_message("%-44s x along with it: %llu sectors read again\n", t->name,
                  (unsigned long long)(along.read_sectors - once->read_sectors));
    assert_int_equal(along.read_sectors, once->read_sectors);
    assert_true(along.written_sectors - once->written_sectors <=
                alone.written_sectors * (t->has_halves ? 2 : 1));
    tensor_free(&too);
}

static void norms_read_once_or_twice(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        const struct norm_case *t = &norms[i];
        struct tensor x = tensor_make(DT_BF16, 1, t->h, t->w, t->c, t->c, 1);
        const uint32_t up = t->how == RESAMPLE_UP ? 2 : 1, down = t->how == RESAMPLE_DOWN ? 2 : 1;
        struct tensor y =
            tensor_make(DT_BF16, 1, t->h * up / down, t->w * up / down, t->c, t->c, 5);
        float *gamma = floats(t->c, 2, 1, 0), *beta = floats(t->c, 3, 1, 0);
        size_t scratch = gpu_norm_scratch(&x, 32);
        struct gpu_norm a = {
            .x = x, .y = y, .groups = 32, .eps = 1e-5f, .gamma = gamma, .beta = beta, .silu = true
        };
        a.resample = t->how;
        a.scratch = scratch ? floats(scratch, 4, 1, 0) : NULL;
        struct emu_traffic traffic;
        emu_traffic_begin();
        EXPECT_LAUNCH(gpu_group_norm(&a, NULL));
        emu_traffic_end(&traffic);
        expect_traffic(t->name, (double)tensor_bytes(&x), (double)tensor_bytes(&y), &traffic,
                       t->most);
        if (t->how) expect_saving(t, &a, &traffic);
        free(a.scratch);
        free(gamma);
        free(beta);
        tensor_free(&x);
        tensor_free(&y);
    }
}

enum elementwise { UP, DOWN, JOIN, CAST, PAD, OUT, WALKS };
static const char *const elementwise_names[WALKS] = {
    "upsample, 32 x 32 x 128",           "downsample, 32 x 32 x 128",
    "copy into a concat, 32 x 32 x 128", "cast to F32, 32 x 32 x 128",
    "three channels to eight, 64 x 64",  "sampler_out, 64 x 64"
};

static void elementwise_kernels_move_each_byte_once(void **state)
{
    (void)state;
    for (int what = 0; what < WALKS; what++) {
        const uint32_t side = what >= PAD ? 64 : 32, c = what >= PAD ? 3 : 128;
        const uint32_t in = what == DOWN ? 2 * side : side, out = what == UP ? 2 * side : side;
        const uint32_t y_c = what == PAD ? 8 : c;
        struct tensor x = tensor_make(what >= PAD ? DT_F32 : DT_BF16, 1, in, in, c, c, 1);
        struct tensor y = tensor_make(what == CAST || what == OUT ? DT_F32 : DT_BF16, 1, out, out,
                                      y_c, what == JOIN ? 2 * c : y_c, 2);
        struct tensor eps = tensor_make(DT_F32, 1, in, in, 3, 3, 3);
        struct gpu_copy copy = {
            .x = x, .y = y, .first = what == JOIN ? c : 0, .zeros = what == PAD ? 5 : 0
        };
        struct emu_traffic t;
        emu_traffic_begin();
        switch ((enum elementwise)what) {
        case UP: EXPECT_LAUNCH(gpu_upsample(&x, &y, NULL)); break;
        case DOWN: EXPECT_LAUNCH(gpu_downsample(&x, &y, NULL)); break;
        case OUT: EXPECT_LAUNCH(gpu_sampler_out(&x, &eps, 1, false, &y, NULL)); break;
        default: EXPECT_LAUNCH(gpu_copy(&copy, NULL)); break;
        }
        emu_traffic_end(&t);
        double written = (double)tensor_bytes(&y) * y.c / (double)y.ld;
        expect_traffic(elementwise_names[what], (double)tensor_bytes(&x) * (what == OUT ? 2 : 1),
                       written, &t,
                       what == CAST  ? 1.7
                       : what == PAD ? 1.15
                                     : 1); /* two halves of a sector, one after the other */
        tensor_free(&x);
        tensor_free(&y);
        tensor_free(&eps);
    }
}

/* Of a network of cells: three channels of an image, or six with the noise; and the inverse. */
static const struct cells {
    const char *name;
    uint32_t patch, c;
    enum dtype dtype;
    /* A warp's part of a line of pixels begins and ends within a sector. */
    double most;
} cells[] = {
    { "cells of 2 x 2, 3 channels", 2, 3, DT_BF16, 1.2 },
    { "cells of 2 x 2, 6 channels", 2, 6, DT_BF16, 1.2 },
    { "cells of 4 x 4, 3 channels", 4, 3, DT_BF16, 1.2 },
    { "cells of 4 x 4, 6 channels", 4, 6, DT_BF16, 1.2 },
    { "cells of 2 x 2, 3 channels, F32", 2, 3, DT_F32, 1.2 },
};

static void cells_move_each_byte_once(void **state)
{
    (void)state;
    enum { SIDE = 128 };
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        for (int back = 0; back < 2; back++) {
            const struct cells *k = &cells[i];
            const uint32_t h = SIDE / k->patch, c = k->c * k->patch * k->patch;
            struct tensor pixels = tensor_make(k->dtype, 1, SIDE, SIDE, k->c, k->c, 1),
                          whole = tensor_make(k->dtype, 1, h, h, c, c, 2);
            const double bytes = (double)tensor_bytes(&pixels);
            char name[64];
            struct emu_traffic t;
            (void)snprintf(name, sizeof name, "%s%s", k->name, back ? ", back" : "");
            emu_traffic_begin();
            EXPECT_LAUNCH(back ? gpu_depth_to_space(&whole, &pixels, NULL)
                               : gpu_space_to_depth(&pixels, &whole, NULL));
            emu_traffic_end(&t);
            expect_traffic(name, bytes, bytes, &t, k->most);
            tensor_free(&pixels);
            tensor_free(&whole);
        }
}

static void noise_beside_moves_each_byte_once(void **state)
{
    (void)state;
    enum { SIDE = 64 };
    struct tensor y_in = tensor_make(DT_F32, 1, SIDE, SIDE, 3, 3, 1), z = tensor_copy(&y_in),
                  x = tensor_make(DT_F32, 1, SIDE, SIDE, 6, 6, 2);
    struct emu_traffic t;
    emu_traffic_begin();
    EXPECT_LAUNCH(
        gpu_sampler_join(y_in.data, z.data, NULL, 0.1f, x.data, 1, (size_t)SIDE * SIDE, NULL));
    emu_traffic_end(&t);
    expect_traffic("sampler_join, 64 x 64", (double)tensor_bytes(&x), (double)tensor_bytes(&x), &t,
                   1.2);
    tensor_free(&y_in);
    tensor_free(&z);
    tensor_free(&x);
}

static void narrow_convolutions_read_and_write_once(void **state)
{
    (void)state;
    const uint32_t h = 32, w = 128, c = 128;
    float *weight = floats((size_t)9 * 3 * c, 1, 1, 0), *bias = floats(c, 2, 1, 0);
    struct tensor narrow = tensor_make(DT_F32, 1, h, w, 3, 3, 3),
                  wide = tensor_make(DT_BF16, 1, h, w, c, c, 4);
    struct gpu_conv a = {
        .x = narrow, .y = wide, .kernel = 3, .stride = 1, .weight = weight, .bias = bias
    };
    struct emu_traffic t;
    emu_traffic_begin();
    EXPECT_LAUNCH(gpu_conv(&a, NULL));
    emu_traffic_end(&t);
    expect_traffic("conv_in to 128 channels", (double)tensor_bytes(&narrow),
                   (double)tensor_bytes(&wide), &t, 1.2); /* weights of each block */
    a.x = wide;
    a.y = narrow;
    emu_traffic_begin();
    EXPECT_LAUNCH(gpu_conv(&a, NULL));
    emu_traffic_end(&t);
    expect_traffic("conv_out from 128 channels", (double)tensor_bytes(&wide),
                   (double)tensor_bytes(&narrow), &t, 1.4); /* and the pixels around each tile */
    free(weight);
    free(bias);
    tensor_free(&narrow);
    tensor_free(&wide);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_read_once_or_twice),
        cmocka_unit_test(elementwise_kernels_move_each_byte_once),
        cmocka_unit_test(cells_move_each_byte_once),
        cmocka_unit_test(noise_beside_moves_each_byte_once),
        cmocka_unit_test(narrow_convolutions_read_and_write_once),
    };
    return RUN_TESTS("traffic", tests);
}
