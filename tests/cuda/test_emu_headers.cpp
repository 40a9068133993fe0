/* Our CUDA headers against the toolkit's: every 16-bit number, roundings of every kind, sizes,
 * alignments, error codes. */
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>

extern "C" {
#include <cmocka.h>
}

#include "tests/cuda/emu_headers.h"

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static bool is_nan(float x)
{
    return x != x;
}

static void every_half_is_the_same_float(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        float b = ours.from_bf16((uint16_t)i), h = ours.from_f16((uint16_t)i);
        float tb = toolkit.from_bf16((uint16_t)i), th = toolkit.from_f16((uint16_t)i);
        if (!(is_nan(b) && is_nan(tb)) && bits_of(b) != bits_of(tb)) fail_msg("bf16 %04x", i);
        if (!(is_nan(h) && is_nan(th)) && bits_of(h) != bits_of(th)) fail_msg("f16 %04x", i);
    }
}

static void expect_same_rounding(uint32_t bits)
{
    float x = float_of(bits), y = float_of(bits * 2654435761u);
    if (ours.to_bf16(x) != toolkit.to_bf16(x))
        fail_msg("bf16 of %08x: %04x, the toolkit's %04x", bits, ours.to_bf16(x),
                 toolkit.to_bf16(x));
    if (ours.to_f16(x) != toolkit.to_f16(x))
        fail_msg("f16 of %08x: %04x, the toolkit's %04x", bits, ours.to_f16(x), toolkit.to_f16(x));
    if (ours.pair_to_bf16(x, y) != toolkit.pair_to_bf16(x, y)) fail_msg("bf16 pair of %08x", bits);
    if (ours.pair_to_f16(x, y) != toolkit.pair_to_f16(x, y)) fail_msg("f16 pair of %08x", bits);
}

/* Around every number of BF16 or F16, and half way between two: ties and their neighbours; then a
 * sample of all floats. */
static void every_rounding_is_the_same(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        for (uint32_t low = 0; low < 4; low++) {
            static const uint32_t tails[] = { 0, 0x7fff, 0x8000, 0x8001 };
            expect_same_rounding(i << 16 | tails[low]);
            float h = toolkit.from_f16((uint16_t)i);
            expect_same_rounding(bits_of(h) + (low == 0   ? 0
                                               : low == 1 ? 0xfffu
                                               : low == 2 ? 0x1000u
                                                          : 0x1001u));
        }
    for (uint64_t u = 0; u < 1ull << 32; u += 1021)
        expect_same_rounding((uint32_t)u);
}

static void facts_agree(void **state)
{
    (void)state;
    for (int i = 0; ours.facts[i].name; i++)
        if (ours.facts[i].value != toolkit.facts[i].value)
            fail_msg("%s is %llu, the toolkit says %llu", ours.facts[i].name,
                     (unsigned long long)ours.facts[i].value,
                     (unsigned long long)toolkit.facts[i].value);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_is_the_same_float),
        cmocka_unit_test(every_rounding_is_the_same),
        cmocka_unit_test(facts_agree),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
