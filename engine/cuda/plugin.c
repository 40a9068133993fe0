/* The only symbol of libdavid_cuda.so. */
#include "engine/cuda/internal.h"

#include "engine/graph/build_id.h"

extern const struct plugin david_plugin;

__attribute__((visibility("default"))) const struct plugin david_plugin = {
    .build_id = DAVID_BUILD_ID,
    .count = gpu_count,
    .open = cuda_backend_open,
};
