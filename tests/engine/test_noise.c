/* Philox, Box-Muller and the layout of noise over images. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "engine/graph/backend.h"
#include "engine/graph/philox.h"

static struct backend *reference;

/* dst: [h][w][channels], pixels (x0 + x, y0 + y). */
static void field(float *dst, uint64_t seed, uint32_t stream, uint32_t sample, uint32_t x0,
                  uint32_t y0, uint32_t w, uint32_t h, uint32_t channels)
{
    struct normals_args a = { .seed = seed,
                              .stream = stream,
                              .sample = sample,
                              .x0 = x0,
                              .y0 = y0,
                              .w = w,
                              .h = h,
                              .channels = channels,
                              .dst = dst };
    assert_int_equal(reference->ops->net.normals(reference, &a, NULL), ST_OK);
}

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
    field(&whole[0][0][0], 0x123456789abcdefu, 1, 4, 0, 0, W, H, 3);
    for (uint32_t x0 = 0; x0 < 8; x0++) {
        field(&part[0][0][0], 0x123456789abcdefu, 1, 4, x0, 2, 7, 5, 3);
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
    field(&one[0][0][0], seed, 2, 7, 10, 3, 2, 1, 4);
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
    field(n, 1, 0, 0, 0, 0, SIDE, SIDE, 3);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(a_pixels_noise_depends_on_its_absolute_place_alone),
        cmocka_unit_test(noise_is_laid_out_as_written),
        cmocka_unit_test(noise_is_standard_normal),
    };
    if (reference_backend_open(&reference, NULL)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    reference->ops->device.close(reference);
    return failed;
}
