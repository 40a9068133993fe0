/* unet.h - the ADM UNet (engine/README.md section 2) as a list of nodes.
 *
 * height, width: of one row in px, divisible by arch_side_unit(); the published networks run at
 * image_size, but any size works. Fails with ST_BAD_FILE for an impossible architecture,
 * ST_BAD_PARAMETER for an impossible size. The caller frees the graph. Taps: "time_embed" (output
 * of its second Linear), "input_blocks.N", "middle_block", "output_blocks.N" (whole blocks),
 * "out". */
#ifndef DAVID_NETS_UNET_H
#define DAVID_NETS_UNET_H

#include "engine/graph/graph.h"
#include "proto/models/model_info.h"

enum status unet_build(struct graph **out, const struct unet_arch *arch, uint32_t height,
                       uint32_t width, struct error *err);

#endif
