/* nano.h - the smallest network that has every kind of parameter: one level, 32 channels. */
#ifndef DAVID_TESTS_ENGINE_NANO_H
#define DAVID_TESTS_ENGINE_NANO_H

#include "proto/models/unet_arch.h"

/* Of a constant; side: of its images, px. */
#define NANO_ARCH(side)                                                                            \
    {                                                                                              \
        .image_size = (side), .patch = 1, .num_channels = 32, .num_res_blocks = 1, .levels = 1,    \
        .channel_mult = { 1 }, .num_heads = 1, .num_head_channels = -1, .learn_sigma = true,       \
        .use_scale_shift_norm = true, .resblock_updown = true                                      \
    }

#endif
