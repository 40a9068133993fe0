/* emu_headers.h - the functions of emu_headers.cpp that are compared, compiled once with the
 * toolkit's headers and once with those of tests/cuda/emu. */
#ifndef DAVID_EMU_HEADERS_H
#define DAVID_EMU_HEADERS_H

#include <cstdint>

struct fact {
    const char *name; /* NULL: the end */
    uint64_t value;
};

struct headers {
    float (*from_bf16)(uint16_t);
    float (*from_f16)(uint16_t);
    uint16_t (*to_bf16)(float);
    uint16_t (*to_f16)(float);
    uint32_t (*pair_to_bf16)(float, float);
    uint32_t (*pair_to_f16)(float, float);
    const struct fact *facts;
};

extern const struct headers toolkit, ours;

#endif
