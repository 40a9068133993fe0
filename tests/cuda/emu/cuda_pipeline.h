/* cuda_pipeline.h - copies from device to shared memory that complete at the wait and not before:
 * code that reads too early reads the old contents. Own declarations of the public primitives. */
#ifndef DAVID_EMU_CUDA_PIPELINE_H
#define DAVID_EMU_CUDA_PIPELINE_H

#include "device.h"

static inline void __pipeline_memcpy_async(void *shared, const void *global, size_t bytes)
{
    emu::copy_later(shared, global, bytes);
}
static inline void __pipeline_commit()
{
    emu::copies_commit();
}
/* Waits until all but the last `left` commits of this thread are complete. */
static inline void __pipeline_wait_prior(size_t left, const char *file = __builtin_FILE(),
                                         int line = __builtin_LINE())
{
    emu::copies_wait({ file, line }, left);
}

#endif
