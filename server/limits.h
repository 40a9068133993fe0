/* limits.h - what this machine and its cgroup leave to the process: processors, memory, and where the models lie. */
#ifndef DAVID_SERVER_LIMITS_H
#define DAVID_SERVER_LIMITS_H

#include <stddef.h>
#include <stdint.h>

uint64_t limits_cpus(void);         /* >= 1: the smaller of affinity and cgroup quota */
uint64_t limits_memory_bytes(void); /* the smaller of RAM and the cgroup's limit */
/* ../share/david/models or ../models beside the binary, else "models". */
void limits_models_folder(char *out, size_t cap);

#endif
