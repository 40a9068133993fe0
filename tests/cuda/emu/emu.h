/* emu.h - CUDA kernels on the host, for tests: the interface of the emulation for a test or a fake
 * device.
 *
 * A .cu file compiled as C++ against the headers of this folder runs here: blocks one after the
 * other, one fiber per thread. A warp runs until it must wait. The order of the warps, of a warp's
 * lanes and of the grid's blocks is configurable: a missing barrier gives a wrong number in some
 * orders. What CUDA leaves undefined (divergent barriers, shuffles from missing lanes, reads of
 * shared memory that was never written, a launch beyond the limits) ends the process with a
 * message. Not modelled: memory ordering, concurrent blocks, tensor cores. Settings belong to the
 * process; launches from several threads run one after the other. */
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

/* Intrinsics (__expf, rsqrtf, ...) have up to their documented error, by an amount that depends on
 * the argument alone. Initially on. */
void emu_set_rough(bool rough);

/* What runs a launch: by default it runs at once. A fake device keeps `job` for later: emu_run may
 * be called any number of times, then emu_drop once. The hook returns a cudaError_t, which the
 * launch returns; it owns `job` unless that is an error. NULL: the default again. */
struct emu_job;
typedef int (*emu_launch_hook)(void *stream, struct emu_job *job);
void emu_set_launch_hook(emu_launch_hook hook);
void emu_run(struct emu_job *job);
void emu_drop(struct emu_job *job);

/* Since emu_traffic_begin: the bytes that lanes requested, and the 32-byte sectors that warps
 * accessed; of the accesses through memory.cuh. */
struct emu_traffic {
    uint64_t read_bytes, written_bytes;
    uint64_t read_sectors, written_sectors;
};
void emu_traffic_begin(void);
void emu_traffic_end(struct emu_traffic *out);

/* Plants a bug, for tests that must detect it: with EMU_SKIP_BARRIER=FILE:LINE in the environment
 * the barrier there is skipped (__syncthreads, __syncwarp, or a wait for copies). With
 * EMU_LIST_BARRIERS=FILE the places of all barriers that were met are written to FILE at exit, one
 * per line. */

#ifdef __cplusplus
}
#endif
#endif
