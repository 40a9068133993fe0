/* device.h - what the shim headers use of the emulation: threads, barriers, warps, shared memory.
 * Tests include emu.h instead. */
#ifndef DAVID_EMU_DEVICE_H
#define DAVID_EMU_DEVICE_H

#include <cstddef>
#include <cstdint>
#include <cstring>
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

/* Every lane of `mask` contributes a word and receives all 32; `what` distinguishes kinds of
 * exchange. Words of lanes outside the mask must not be used. */
const uint64_t *warp_exchange(site where, const char *what, unsigned mask, uint64_t word);
int lane();
[[noreturn]] void fault(site where, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The block's copy of the variable that `tag` identifies; the block's dynamic shared memory. */
void *shared_variable(const void *tag, size_t bytes, size_t alignment);
void *shared_dynamic();

/* Copies of the running thread into shared memory: started; committed as one batch; waited for, all
 * but the last `left` batches. */
void copy_later(void *to, const void *from, size_t bytes);
void copies_commit();
void copies_wait(site where, size_t left);

void touch(const void *address, size_t bytes, bool is_write);

cudaError_t launch(const cudaLaunchConfig_t *config, const void *kernel,
                   std::function<void()> body);
cudaError_t allow_shared(const void *kernel, size_t bytes);

/* x moved by up to `ulps` of its last place, up or down, by an amount that the bits of `from`
 * determine. */
extern bool is_rough;
static inline float rough(float x, float from, float ulps)
{
    uint32_t bits, exponent;
    memcpy(&exponent, &x, sizeof exponent);
    memcpy(&bits, &from, sizeof bits);
    exponent &= 0x7f800000u;
    if (!is_rough || exponent == 0 || exponent == 0x7f800000u) return x;
    float power;
    memcpy(&power, &exponent, sizeof power);
    float share = (float)(int32_t)(bits * 0x9e3779b1u) * 0x1p-31f; /* -1 to 1 */
    return x + share * ulps * (power * 0x1p-23f);
}

} // namespace emu

#endif
