/* dtype.h - element types of tensors, in files and in the engine.
 *
 * Names are those of safetensors ("F32", "BF16", ...). Conversions round to nearest even; NaN stays
 * NaN. Pure functions. */
#ifndef DAVID_PROTO_MODELS_DTYPE_H
#define DAVID_PROTO_MODELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum dtype {
    DT_F64,
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_I64,
    DT_I32,
    DT_I16,
    DT_I8,
    DT_U8,
    DT_BOOL,
    DT_COUNT
};

size_t dtype_size(enum dtype t);      /* bytes of one element */
const char *dtype_name(enum dtype t); /* "F32" */
enum status dtype_parse(enum dtype *out, const char *name, struct error *err);

float f32_of_f16(uint16_t h);
float f32_of_bf16(uint16_t h);
uint16_t f16_of_f32(float f);
uint16_t bf16_of_f32(float f);

/* Converts n elements of type `t` at `src` (any alignment) to float32; integers by value. */
void dtype_to_f32(float *dst, const void *src, enum dtype t, size_t n);
/* Converts n float32 to `t`: F32, F16 or BF16; any other type is a programming error (assert). */
void dtype_from_f32(void *dst, enum dtype t, const float *src, size_t n);

#endif
