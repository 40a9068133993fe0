/* patchgan.h - the patch discriminator (engine/README.md section 5) as a list of nodes.
 *
 * Five convolutions of 4 x 4, padding 2: to width, 2, 4 and 8 times that, and 1 channel; strides 2,
 * 2, 2, 1, 1; batch norms after the middle three; leaky ReLU after all but the last. Parameters
 * "model0.0.weight" ... "model4.0.bias", norms "modelN.1". Taps "model0" ... "model4": the blocks'
 * outputs. Sides of at least 8 px, else ST_BAD_PARAMETER. The caller frees the graph. */
#ifndef DAVID_NETS_PATCHGAN_H
#define DAVID_NETS_PATCHGAN_H

#include "engine/graph/graph.h"

enum { PATCHGAN_BLOCKS = 5, PATCHGAN_WIDTH = 64 };

enum status patchgan_build(struct graph **out, uint32_t width, uint32_t height, uint32_t columns,
                           struct error *err);

#endif
