/* emu.h - CUDA kernels on the host, for tests: what a test, or a fake device, may ask of the emulation.
 *
 * A .cu file compiled as C++ against the headers of this folder runs here: blocks in turn, one fiber a thread. A warp runs until it must wait,
 * and which warp is next, in which order its lanes and the grid's blocks run, is the order that was set: a missing barrier shows as a
 * wrong number in some of them. What CUDA leaves undefined (divergent barriers, shuffles from lanes that are not there, shared memory never
 * written, a launch beyond the limits) ends the process with a message. Not modelled: memory ordering, blocks at the same time, tensor cores.
 * Settings are the process's; launches from several threads take turns. */
#ifndef DAVID_EMU_H
#define DAVID_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EMU_ASCENDING = 0, EMU_DESCENDING = 1 }; /* any other order is a seed */
void emu_set_order(uint64_t order);

/* Intrinsics (__expf, rsqrtf, ...) are off by up to their documented error, by an amount that depends on the argument alone. On at first. */
void emu_set_rough(bool rough);

/* Who runs a launch: by default it runs at once. A fake device keeps `job` for later: emu_run may be called any number of times, then emu_drop once.
 * The hook returns a cudaError_t, which the launch returns; it owns `job` unless that is an error. NULL: the default again. */
struct emu_job;
typedef int (*emu_launch_hook)(void *stream, struct emu_job *job);
void emu_set_launch_hook(emu_launch_hook hook);
void emu_run(struct emu_job *job);
void emu_drop(struct emu_job *job);

/* Bytes that lanes asked for, and 32-byte sectors that warps touched, since emu_traffic_begin; of the accesses that go through memory.cuh. */
struct emu_traffic {
    uint64_t read_bytes, written_bytes;
    uint64_t read_sectors, written_sectors;
};
void emu_traffic_begin(void);
void emu_traffic_end(struct emu_traffic *out);

/* Planting a bug, for tests that must notice: with EMU_SKIP_BARRIER=FILE:LINE in the environment the barrier there is skipped (__syncthreads,
 * __syncwarp, or a wait for copies). With EMU_LIST_BARRIERS=FILE the places of all that were met are written there at exit, a line each. */

#ifdef __cplusplus
}
#endif
#endif
