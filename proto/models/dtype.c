#include "proto/models/dtype.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "files are little-endian, and so is david");

static const struct {
    const char *name;
    size_t size;
} dtype_table[DT_COUNT] = {
    [DT_F64] = { "F64", 8 },   [DT_F32] = { "F32", 4 }, [DT_F16] = { "F16", 2 },
    [DT_BF16] = { "BF16", 2 }, [DT_I64] = { "I64", 8 }, [DT_I32] = { "I32", 4 },
    [DT_I16] = { "I16", 2 },   [DT_I8] = { "I8", 1 },   [DT_U8] = { "U8", 1 },
    [DT_BOOL] = { "BOOL", 1 },
};

size_t dtype_size(enum dtype t)
{
    return (unsigned)t < DT_COUNT ? dtype_table[t].size : 0;
}

const char *dtype_name(enum dtype t)
{
    return (unsigned)t < DT_COUNT ? dtype_table[t].name : "?";
}

enum status dtype_parse(enum dtype *out, const char *name, struct error *err)
{
    for (unsigned t = 0; t < DT_COUNT; t++) {
        if (strcmp(name, dtype_table[t].name) == 0) {
            *out = (enum dtype)t;
            return ST_OK;
        }
    }
    return error_set(err, ST_BAD_FILE,
                     "dtype \"%.16s\" is not one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL", name);
}

static float f32_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity or NaN: the exponent becomes all ones */
        return f32_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) return f32_of_bits(sign | ((magnitude << 13) + (112u << 23)));
    /* Subnormal: magnitude units of 2^-24, exact in float32. */
    float f = (float)magnitude * 0x1p-24f;
    return sign ? -f : f;
}

float f32_of_bf16(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}

uint16_t f16_of_f32(float f)
{
    uint32_t bits = bits_of_f32(f);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    /* NaN: the quiet bit keeps it a NaN, whichever payload bits are cut off */
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and up round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* 2^-14 and up: normal */
        uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
        return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
    }
    /* Subnormal: in x + 0.5 the mantissa's last bit is 2^-24, so the addition itself rounds to
     * even. */
    float shifted = f32_of_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (bits_of_f32(shifted) - 0x3f000000u));
}

uint16_t bf16_of_f32(float f)
{
    uint32_t bits = bits_of_f32(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#define CONVERT(type, expression)                                                                  \
    for (size_t i = 0; i < n; i++) {                                                               \
        type v;                                                                                    \
        memcpy(&v, bytes + i * sizeof v, sizeof v);                                                \
        dst[i] = (expression);                                                                     \
    }                                                                                              \
    break

void dtype_to_f32(float *dst, const void *src, enum dtype t, size_t n)
{
    const unsigned char *bytes = src;
    if (n == 0) return;
    switch (t) {
    case DT_F32: memcpy(dst, src, n * sizeof *dst); break;
    case DT_F64: CONVERT(double, (float)v);
    case DT_F16: CONVERT(uint16_t, f32_of_f16(v));
    case DT_BF16: CONVERT(uint16_t, f32_of_bf16(v));
    case DT_I64: CONVERT(int64_t, (float)v);
    case DT_I32: CONVERT(int32_t, (float)v);
    case DT_I16: CONVERT(int16_t, (float)v);
    case DT_I8: CONVERT(int8_t, (float)v);
    case DT_U8: CONVERT(uint8_t, (float)v);
    case DT_BOOL: CONVERT(uint8_t, v ? 1.0f : 0.0f);
    case DT_COUNT: assert(!"not a dtype");
    }
}

void dtype_from_f32(void *dst, enum dtype t, const float *src, size_t n)
{
    unsigned char *bytes = dst;
    assert(t == DT_F32 || t == DT_F16 || t == DT_BF16);
    if (n == 0) return;
    if (t == DT_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t v = t == DT_F16 ? f16_of_f32(src[i]) : bf16_of_f32(src[i]);
        memcpy(bytes + i * sizeof v, &v, sizeof v);
    }
}
