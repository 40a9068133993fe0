/* device.h - what the shim headers need of the emulation: threads, barriers, warps, shared memory. Not for tests (emu.h). */
#ifndef DAVID_EMU_DEVICE_H
#define DAVID_EMU_DEVICE_H

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda_runtime_api.h"

extern uint3 threadIdx, blockIdx; /* of the running thread */
extern dim3 blockDim, gridDim;

namespace emu
{

struct site {
    const char *file;
    int line;
};

enum vote { VOTE_NONE, VOTE_COUNT, VOTE_AND, VOTE_OR };
int block_barrier(site where, vote kind, int value);

/* Every lane of `mask` gives a word and gets all 32; `what` tells kinds of exchange apart. Words of lanes outside the mask must not be used. */
const uint64_t *warp_exchange(site where, const char *what, unsigned mask, uint64_t word);
int lane();
[[noreturn]] void fault(site where, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The block's copy of the variable that `tag` stands for; the block's dynamic shared memory. */
void *shared_variable(const void *tag, size_t bytes, size_t alignment);
void *shared_dynamic();

void touch(const void *address, size_t bytes, bool is_write);

cudaError_t launch(const cudaLaunchConfig_t *config, const void *kernel,
                   std::function<void()> body);
cudaError_t allow_shared(const void *kernel, size_t bytes);

/* x moved by up to `ulps` of its last place, up or down as the bits of `from` say. */
float rough(float x, float from, double ulps);

} // namespace emu

#endif
