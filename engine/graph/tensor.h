/* tensor.h - a view of device memory: NHWC feature maps and [n][1][1][c] vectors.
 *
 * Element (n, y, x, c) is at data + ((n*h + y)*w + x)*ld + c. `ld` is the distance between
 * neighbouring pixels in elements, ld >= c, so a view can be a slice of the channels of a wider
 * tensor: a concat then needs no copy. A view owns nothing. */
#ifndef DAVID_GRAPH_TENSOR_H
#define DAVID_GRAPH_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "proto/models/dtype.h"

enum resample { RESAMPLE_NONE, RESAMPLE_UP, RESAMPLE_DOWN }; /* nearest x2, 2x2 average */

struct tensor {
    void *data;
    enum dtype dtype; /* F32 or BF16 (F16 on CUDA) */
    uint32_t n, h, w, c;
    size_t ld;
};

#endif
