#include "engine/cpu/isa.h"

#include <cpuid.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const names[ISA_COUNT] = { "sse", "avx2", "avx512", "avx512bf16", "amx" };

const char *cpu_isa_name(enum cpu_isa isa)
{
    return names[isa];
}

/* CPUID leaf 7, subleaf 1: EAX bit 5. */
static bool has_avx512bf16(void)
{
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

/* CPUID leaf 7, subleaf 0: EDX bit 24 amx-tile, bit 22 amx-bf16. A process may use the eight
 * kilobytes of tile registers only after it has requested them from the Linux kernel. */
static bool has_amx(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1)) return false;
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
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
    case ISA_AVX512BF16: return cpu_isa_present(ISA_AVX512) && has_avx512bf16();
    case ISA_AMX: return cpu_isa_present(ISA_AVX512BF16) && has_amx();
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
        return error_set(err, ST_UNSUPPORTED,
                         "DAVID_CPU_ISA=%.32s: not one of sse, avx2, avx512, avx512bf16, amx",
                         forced);
    return error_set(err, ST_UNSUPPORTED, "this processor lacks SSE 4.2");
}
