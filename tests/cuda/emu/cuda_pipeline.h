/* cuda_pipeline.h - copies from device to shared memory that arrive when they are waited for, not before: who reads too early reads
 * what was there. Own declarations of the public primitives. */
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
/* All but the last `left` commits of this thread have arrived. */
static inline void __pipeline_wait_prior(size_t left, const char *file = __builtin_FILE(),
                                         int line = __builtin_LINE())
{
    emu::copies_wait({ file, line }, left);
}

#endif
