#include "engine/nets/patchgan.h"

#include <stdio.h>

#include "engine/graph/builder.h"

static const float slope = 0.2f;

enum status patchgan_build(struct graph **out, uint32_t width, uint32_t height, uint32_t columns,
                           struct error *err)
{
    static const uint32_t strides[PATCHGAN_BLOCKS] = { 2, 2, 2, 1, 1 };
    if (width == 0 || width > 1024 || height < 8 || columns < 8)
        return error_set(err, ST_BAD_PARAMETER,
                         "a discriminator of width %u for feature maps of %u x %u px", width,
                         columns, height);
    const uint32_t channels[PATCHGAN_BLOCKS] = { width, 2 * width, 4 * width, 8 * width, 1 };
    struct builder b;
    builder_init(&b);
    int32_t h = build_input(&b, height, columns, 3);
    for (uint32_t i = 0; i < PATCHGAN_BLOCKS; i++) {
        char name[PARAM_NAME_MAX];
        const struct build_conv_args args = {
            .oc = channels[i], .kernel = 4, .stride = strides[i], .residual = NODE_NONE
        };
        (void)snprintf(name, sizeof name, "model%u.0", i);
        h = build_conv(&b, name, h, &args);
        (void)snprintf(name, sizeof name, "model%u.1", i);
        if (i > 0 && i + 1 < PATCHGAN_BLOCKS) h = build_batch_norm(&b, name, h);
        if (i + 1 < PATCHGAN_BLOCKS) h = build_leaky_relu(&b, h, slope);
        (void)snprintf(name, sizeof name, "model%u", i);
        build_tap(&b, h, name);
    }
    return builder_finish(&b, h, out, err);
}
