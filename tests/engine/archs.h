/* archs.h - small networks that between them use every option of the architecture, for tests without a file. */
#ifndef DAVID_TESTS_ARCHS_H
#define DAVID_TESTS_ARCHS_H

#include "proto/model_info.h"

static const struct named_arch {
    const char *name;
    struct unet_arch arch;
    uint32_t h, w;   /* px to build it at */
    uint64_t params; /* as published, or counted by hand; 0: not known */
} archs[] = {
    { "scale-shift, residual resampling",
      { .image_size = 32,
        .patch = 1,
        .num_channels = 32,
        .num_res_blocks = 1,
        .levels = 2,
        .channel_mult = { 1, 2 },
        .attention_count = 1,
        .attention_ds = { 2 },
        .num_heads = 4,
        .num_head_channels = 32,
        .learn_sigma = true,
        .use_scale_shift_norm = true,
        .resblock_updown = true },
      16,
      8,
      828358 },
    { "attention on every level",
      { .image_size = 32,
        .patch = 1,
        .num_channels = 32,
        .num_res_blocks = 2,
        .levels = 2,
        .channel_mult = { 1, 1 },
        .attention_count = 2,
        .attention_ds = { 1, 2 },
        .num_heads = 4,
        .num_head_channels = 32,
        .learn_sigma = true,
        .use_scale_shift_norm = true,
        .resblock_updown = true },
      8,
      8,
      515078 },
    { "added embeddings, strided convolutions, new attention order",
      { .image_size = 32,
        .patch = 1,
        .num_channels = 32,
        .num_res_blocks = 1,
        .levels = 2,
        .channel_mult = { 1, 2 },
        .attention_count = 1,
        .attention_ds = { 2 },
        .num_heads = 2,
        .num_head_channels = -1,
        .use_new_attention_order = true },
      8,
      16,
      702499 },
    { "labels",
      { .image_size = 32,
        .patch = 1,
        .num_channels = 32,
        .num_res_blocks = 1,
        .levels = 1,
        .channel_mult = { 1 },
        .num_heads = 1,
        .num_head_channels = -1,
        .num_classes = 5,
        .class_cond = true,
        .use_scale_shift_norm = true },
      8,
      8,
      0 },
};
enum { N_ARCHS = sizeof archs / sizeof archs[0] };

static const struct unet_arch ffhq256 = { .image_size = 256,
                                          .patch = 1,
                                          .num_channels = 128,
                                          .num_res_blocks = 1,
                                          .levels = 6,
                                          .channel_mult = { 1, 1, 2, 2, 4, 4 },
                                          .attention_count = 1,
                                          .attention_ds = { 16 },
                                          .num_heads = 4,
                                          .num_head_channels = 64,
                                          .learn_sigma = true,
                                          .use_scale_shift_norm = true,
                                          .resblock_updown = true };

#endif
