/* isa.h - selects the instruction set of the CPU loops.
 *
 * One source is compiled once per set; the best set that the machine has is chosen at start.
 * DAVID_CPU_ISA (sse, avx2, avx512, avx512bf16, amx) forces one: ST_UNSUPPORTED where the machine
 * lacks it or the name is unknown. No side effects except getenv and AMX, whose registers a process
 * must request from the Linux kernel once. */
#ifndef DAVID_CPU_ISA_H
#define DAVID_CPU_ISA_H

#include <stdbool.h>

#include "proto/error.h"

enum cpu_isa { ISA_SSE, ISA_AVX2, ISA_AVX512, ISA_AVX512BF16, ISA_AMX, ISA_COUNT };

const char *cpu_isa_name(enum cpu_isa isa);
bool cpu_isa_present(enum cpu_isa isa);
enum status cpu_isa_choose(enum cpu_isa *out, struct error *err);

#endif
