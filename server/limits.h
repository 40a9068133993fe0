/* limits.h - what this machine and its control groups leave to the process: processors, memory, open files.
 *
 * A group's limit binds with those of all groups above it; both versions of control groups are read. `root` stands before
 * /proc and /sys: "" but in tests. */
#ifndef DAVID_SERVER_LIMITS_H
#define DAVID_SERVER_LIMITS_H

#include <stdint.h>

uint64_t limits_cpus(const char *root);         /* >= 1: the smaller of affinity and quota */
uint64_t limits_memory_bytes(const char *root); /* the smaller of RAM and the groups' limits */
/* Raises the number of files that may be open to `wanted` where that is allowed, and says what it is. */
uint64_t limits_files(uint64_t wanted);

#endif
