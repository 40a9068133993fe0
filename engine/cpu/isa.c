#include "engine/cpu/isa.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[ISA_COUNT] = { "sse", "avx2", "avx512" };

const char *cpu_isa_name(enum cpu_isa isa)
{
    return names[isa];
}

bool cpu_isa_present(enum cpu_isa isa)
{
    switch (isa) {
    case ISA_SSE: return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    case ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    case ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512cd");
    default: return false;
    }
}

enum status cpu_isa_choose(enum cpu_isa *out, struct error *err)
{
    const char *forced = getenv("DAVID_CPU_ISA");
    for (int i = ISA_COUNT - 1; i >= 0; i--) {
        enum cpu_isa isa = (enum cpu_isa)i;
        if (forced && *forced && strcmp(forced, names[i]) != 0) continue;
        if (cpu_isa_present(isa)) {
            *out = isa;
            return ST_OK;
        }
        if (forced && *forced)
            return error_set(err, ST_UNSUPPORTED, "DAVID_CPU_ISA=%s: this processor lacks it",
                             forced);
    }
    if (forced && *forced)
        return error_set(err, ST_UNSUPPORTED, "DAVID_CPU_ISA=%.32s: not one of sse, avx2, avx512",
                         forced);
    return error_set(err, ST_UNSUPPORTED, "this processor lacks SSE 4.2");
}
