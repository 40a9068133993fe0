#include <math.h>

#include "proto/models/dtype.h"
#include "tests/proto/sandbox.h"

static void every_half_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = f32_of_f16((uint16_t)h), b = f32_of_bf16((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(f32_of_f16(f16_of_f32(f))));
        else
            assert_int_equal(f16_of_f32(f), h);
        if (isnan(b))
            assert_true(isnan(f32_of_bf16(bf16_of_f32(b))));
        else
            assert_int_equal(bf16_of_f32(b), h);
    }
}

/* Between two neighbours each value rounds to the nearer one, the middle to the even one; in double
 * arithmetic. */
static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double low = f32_of_f16((uint16_t)h), high = f32_of_f16((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        assert_int_equal(f16_of_f32(middle), h + (h & 1));
        assert_int_equal(f16_of_f32(nextafterf(middle, 0)), h);
        assert_int_equal(f16_of_f32(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(f16_of_f32(-middle), 0x8000 | (h + (h & 1)));
    }
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        float low = f32_of_bf16((uint16_t)h), high = f32_of_bf16((uint16_t)(h + 1));
        float middle = (float)(((double)low + high) / 2);
        assert_int_equal(bf16_of_f32(middle), h + (h & 1));
        assert_int_equal(bf16_of_f32(nextafterf(middle, 0)), h);
        assert_int_equal(bf16_of_f32(nextafterf(middle, INFINITY)), h + 1);
    }
}

static void the_edges_of_half_are_where_they_should_be(void **state)
{
    (void)state;
    assert_int_equal(f16_of_f32(65504.0f), 0x7bff);
    assert_int_equal(f16_of_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_of_f32(65520.0f), 0x7c00);
    assert_int_equal(f16_of_f32(INFINITY), 0x7c00);
    assert_int_equal(f16_of_f32(-INFINITY), 0xfc00);
    assert_int_equal(f16_of_f32(0x1p-24f), 1);
    assert_int_equal(f16_of_f32(0x1p-25f), 0);
    assert_int_equal(f16_of_f32(-0.0f), 0x8000);
    assert_true(signbit(f32_of_f16(0x8000)));
    assert_true(f32_of_f16(1) == 0x1p-24f);
    assert_true(f32_of_f16(0x0400) == 0x1p-14f);
    assert_true(isinf(f32_of_bf16(0x7f80)));
    assert_int_equal(bf16_of_f32(3.4e38f), 0x7f80);
}

static void integers_convert_by_value_from_any_alignment(void **state)
{
    (void)state;
    unsigned char bytes[32];
    float out[2];
    int64_t i64[2] = { -5, 1 << 20 };
    int8_t i8[2] = { -128, 127 };
    unsigned char flags[2] = { 0, 2 };
    memcpy(bytes + 1, i64, sizeof i64);
    dtype_to_f32(out, bytes + 1, DT_I64, 2);
    assert_true(out[0] == -5 && out[1] == 1048576);
    dtype_to_f32(out, i8, DT_I8, 2);
    assert_true(out[0] == -128 && out[1] == 127);
    dtype_to_f32(out, i8, DT_U8, 2);
    assert_true(out[0] == 128 && out[1] == 127);
    dtype_to_f32(out, flags, DT_BOOL, 2);
    assert_true(out[0] == 0 && out[1] == 1);
    const float in[2] = { 1.5f, -2 };
    dtype_from_f32(bytes + 1, DT_BF16, in, 2);
    dtype_to_f32(out, bytes + 1, DT_BF16, 2);
    assert_true(out[0] == 1.5f && out[1] == -2);
}

static void names_parse_to_what_they_name(void **state)
{
    (void)state;
    enum dtype t = DT_COUNT;
    for (unsigned i = 0; i < DT_COUNT; i++) {
        assert_int_equal(dtype_parse(&t, dtype_name((enum dtype)i), NULL), ST_OK);
        assert_int_equal(t, i);
        assert_true(dtype_size(t) > 0);
    }
    struct error err = { 0 };
    assert_int_equal(dtype_parse(&t, "F8_E4M3", &err), ST_BAD_FILE);
    assert_non_null(strstr(err.detail, "F8_E4M3"));
    assert_int_equal(t, DT_BOOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_round_trip),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(the_edges_of_half_are_where_they_should_be),
        cmocka_unit_test(integers_convert_by_value_from_any_alignment),
        cmocka_unit_test(names_parse_to_what_they_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
