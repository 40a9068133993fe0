/* isa.h - which instruction set the loops of this back end run on.
 *
 * One source is compiled once per set; the best one that the machine has is taken at start. DAVID_CPU_ISA
 * (sse, avx2, avx512, avx512bf16, amx) forces one: ST_UNSUPPORTED where the machine lacks it or the name is unknown. Pure but for getenv
 * and for AMX, whose registers the kernel must be asked for once. */
#ifndef DAVID_CPU_ISA_H
#define DAVID_CPU_ISA_H

#include <stdbool.h>

#include "proto/error.h"

enum cpu_isa { ISA_SSE, ISA_AVX2, ISA_AVX512, ISA_AVX512BF16, ISA_AMX, ISA_COUNT };

const char *cpu_isa_name(enum cpu_isa isa);
bool cpu_isa_present(enum cpu_isa isa);
enum status cpu_isa_choose(enum cpu_isa *out, struct error *err);

#endif
