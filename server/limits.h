/* limits.h - what the machine and its control groups leave to this process: processors, memory,
 * open files.
 *
 * The limit of a group applies together with those of all groups above it; control groups of
 * version 1 and 2 are read. `root` is put before /proc and /sys: "" but in tests. */
#ifndef DAVID_SERVER_LIMITS_H
#define DAVID_SERVER_LIMITS_H

#include <stdint.h>

uint64_t limits_cpus(const char *root);         /* >= 1: the smaller of affinity and quota */
uint64_t limits_memory_bytes(const char *root); /* the smaller of RAM and the groups' limits */
/* Raises the number of files that can be open to `wanted` where that is allowed; returns the
 * number. */
uint64_t limits_files(uint64_t wanted);

#endif
