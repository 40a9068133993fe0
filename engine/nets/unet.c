/* The ADM UNet, block by block, in the order it runs (engine/README.md section 2). Blocks only
 * append nodes; plan.h, constant_folding.h and fusion.h decide which of them share memory, are
 * folded or are fused. */
#include "engine/nets/unet.h"

#include <stdio.h>

#include "engine/graph/builder.h"

enum { GROUPS = 32, IMAGE_CHANNELS = 3, BLOCK_NAME_MAX = 40, MAX_SKIPS = 256 };

struct unet {
    struct builder b;
    const struct unet_arch *arch;
    int32_t embedding; /* silu(time_embed (+ the other embeddings)), read by every block */
    int32_t skips[MAX_SKIPS];
    uint32_t n_skips;
};

static int32_t conv3x3(struct unet *u, const char *block, const char *part, int32_t in, uint32_t oc,
                       int32_t residual)
{
    char name[PARAM_NAME_MAX];
    (void)snprintf(name, sizeof name, "%s.%s", block, part);
    struct build_conv_args args = { .oc = oc, .kernel = 3, .stride = 1, .residual = residual };
    return build_conv(&u->b, name, in, &args);
}

static int32_t conv1x1(struct unet *u, const char *block, const char *part, int32_t in, uint32_t oc,
                       int32_t residual, bool one_d)
{
    char name[PARAM_NAME_MAX];
    (void)snprintf(name, sizeof name, "%s.%s", block, part);
    struct build_conv_args args = {
        .oc = oc, .kernel = 1, .stride = 1, .residual = residual, .one_d = one_d
    };
    return build_conv(&u->b, name, in, &args);
}

static int32_t norm(struct unet *u, const char *block, const char *part, int32_t in,
                    int32_t scale_shift, bool silu)
{
    char name[PARAM_NAME_MAX];
    (void)snprintf(name, sizeof name, "%s.%s", block, part);
    return build_group_norm(&u->b, name, in, scale_shift, silu);
}

static int32_t resampled(struct unet *u, int32_t in, enum resample how)
{
    switch (how) {
    case RESAMPLE_UP: return build_upsample(&u->b, in);
    case RESAMPLE_DOWN: return build_downsample(&u->b, in);
    case RESAMPLE_NONE: break;
    }
    return in;
}

/* The residual comes first: the first norm is then the last to read the input and may run in
 * place. */
static int32_t res_block(struct unet *u, const char *block, int32_t x, uint32_t oc,
                         enum resample how)
{
    struct builder *b = &u->b;
    bool scale_shift = u->arch->use_scale_shift_norm;
    int32_t residual = resampled(u, x, how);
    if (build_channels(b, x) != oc)
        residual = conv1x1(u, block, "skip_connection", residual, oc, NODE_NONE, false);

    int32_t h = norm(u, block, "in_layers.0", x, NODE_NONE, true);
    h = resampled(u, h, how);
    h = conv3x3(u, block, "in_layers.2", h, oc, NODE_NONE);

    char name[PARAM_NAME_MAX];
    (void)snprintf(name, sizeof name, "%s.emb_layers.1", block);
    int32_t e = build_linear(b, name, u->embedding, scale_shift ? 2 * oc : oc);
    if (!scale_shift) h = build_add_channel(b, h, e);
    h = norm(u, block, "out_layers.0", h, scale_shift ? e : NODE_NONE, true);
    return conv3x3(u, block, "out_layers.3", h, oc, residual);
}

static int32_t attention_block(struct unet *u, const char *block, int32_t x)
{
    uint32_t c = build_channels(&u->b, x);
    uint32_t heads = u->arch->num_head_channels > 0 ? c / (uint32_t)u->arch->num_head_channels
                                                    : (uint32_t)u->arch->num_heads;
    int32_t h = norm(u, block, "norm", x, NODE_NONE, false);
    h = conv1x1(u, block, "qkv", h, 3 * c, NODE_NONE, true);
    h = build_attention(&u->b, h, heads, u->arch->use_new_attention_order);
    return conv1x1(u, block, "proj_out", h, c, x, true);
}

static bool attends_at(const struct unet_arch *a, uint32_t ds)
{
    for (uint32_t i = 0; i < a->attention_count; i++)
        if (a->attention_ds[i] == ds) return true;
    return false;
}

/* Sinusoids, linear, SiLU, linear; the output has the width of all embeddings. */
static int32_t scalar_embedding(struct unet *u, enum scalar scalar, const char *name)
{
    char part[PARAM_NAME_MAX];
    const uint32_t width = 4 * u->arch->num_channels;
    int32_t e = build_timestep(&u->b, scalar, u->arch->num_channels);
    (void)snprintf(part, sizeof part, "%s.0", name);
    e = build_linear(&u->b, part, e, width);
    e = build_silu(&u->b, e);
    (void)snprintf(part, sizeof part, "%s.2", name);
    return build_linear(&u->b, part, e, width);
}

static void build_embedding(struct unet *u)
{
    struct builder *b = &u->b;
    uint32_t width = 4 * u->arch->num_channels;
    int32_t e = scalar_embedding(u, SCALAR_TIME, "time_embed");
    build_tap(b, e, "time_embed");
    if (u->arch->sigma_cond) e = build_add(b, e, scalar_embedding(u, SCALAR_SIGMA, "sigma_embed"));
    if (u->arch->level_cond) e = build_add(b, e, scalar_embedding(u, SCALAR_LEVEL, "level_embed"));
    if (u->arch->class_cond)
        e = build_add(b, e, build_label(b, "label_emb", u->arch->num_classes, width));
    u->embedding = build_silu(b, e);
}

/* The end of a block of the encoder: becomes a tap, and is kept for the matching block of the
 * decoder. */
static void keep_skip(struct unet *u, int32_t node)
{
    char tap[TAP_NAME_MAX];
    (void)snprintf(tap, sizeof tap, "input_blocks.%u", u->n_skips);
    build_tap(&u->b, node, tap);
    if (u->n_skips < MAX_SKIPS) u->skips[u->n_skips++] = node;
}

static int32_t build_down(struct unet *u, int32_t x)
{
    const struct unet_arch *a = u->arch;
    char block[BLOCK_NAME_MAX];
    uint32_t ds = a->patch;
    if (a->patch > 1) x = build_space_to_depth(&u->b, x, a->patch);
    int32_t h =
        conv3x3(u, "input_blocks.0", "0", x, a->num_channels * a->channel_mult[0], NODE_NONE);
    keep_skip(u, h);
    for (uint32_t level = 0; level < a->levels; level++) {
        uint32_t c = a->num_channels * a->channel_mult[level];
        for (uint32_t i = 0; i < a->num_res_blocks; i++) {
            (void)snprintf(block, sizeof block, "input_blocks.%u.0", u->n_skips);
            h = res_block(u, block, h, c, RESAMPLE_NONE);
            if (attends_at(a, ds)) {
                (void)snprintf(block, sizeof block, "input_blocks.%u.1", u->n_skips);
                h = attention_block(u, block, h);
            }
            keep_skip(u, h);
        }
        if (level + 1 == a->levels) break;
        (void)snprintf(block, sizeof block, "input_blocks.%u.0", u->n_skips);
        if (a->resblock_updown) {
            h = res_block(u, block, h, c, RESAMPLE_DOWN);
        } else {
            char name[PARAM_NAME_MAX];
            (void)snprintf(name, sizeof name, "%s.op", block);
            struct build_conv_args args = {
                .oc = c, .kernel = 3, .stride = 2, .residual = NODE_NONE
            };
            h = build_conv(&u->b, name, h, &args);
        }
        keep_skip(u, h);
        ds *= 2;
    }
    return h;
}

static int32_t build_up(struct unet *u, int32_t h)
{
    const struct unet_arch *a = u->arch;
    char block[BLOCK_NAME_MAX], tap[TAP_NAME_MAX];
    uint32_t ds = arch_side_unit(a), n = 0;
    for (uint32_t level = a->levels; level-- > 0;) {
        uint32_t c = a->num_channels * a->channel_mult[level];
        for (uint32_t i = 0; i <= a->num_res_blocks; i++, n++) {
            uint32_t part = 0;
            h = build_concat(&u->b, h, u->skips[--u->n_skips]);
            (void)snprintf(block, sizeof block, "output_blocks.%u.%u", n, part++);
            h = res_block(u, block, h, c, RESAMPLE_NONE);
            if (attends_at(a, ds)) {
                (void)snprintf(block, sizeof block, "output_blocks.%u.%u", n, part++);
                h = attention_block(u, block, h);
            }
            if (level > 0 && i == a->num_res_blocks) {
                (void)snprintf(block, sizeof block, "output_blocks.%u.%u", n, part);
                h = a->resblock_updown
                        ? res_block(u, block, h, c, RESAMPLE_UP)
                        : conv3x3(u, block, "conv", build_upsample(&u->b, h), c, NODE_NONE);
                ds /= 2;
            }
            (void)snprintf(tap, sizeof tap, "output_blocks.%u", n);
            build_tap(&u->b, h, tap);
        }
    }
    return h;
}

static enum status check(const struct unet_arch *a, uint32_t height, uint32_t width,
                         struct error *err)
{
    if (a->levels == 0 || a->levels > ARCH_MAX_LEVELS || a->num_channels == 0)
        return error_set(err, ST_BAD_FILE, "%u levels of %u channels are not a network", a->levels,
                         a->num_channels);
    if (a->levels * ((uint64_t)a->num_res_blocks + 1) > MAX_SKIPS)
        return error_set(err, ST_BAD_FILE, "num_res_blocks = %u on %u levels is too deep",
                         a->num_res_blocks, a->levels);
    if (a->patch == 0) return error_set(err, ST_BAD_FILE, "patch = 0 px are not a cell");
    uint32_t unit = arch_side_unit(a);
    if (height == 0 || width == 0 || height % unit || width % unit)
        return error_set(err, ST_BAD_PARAMETER,
                         "a network of %u levels takes sides divisible by %u px, not %u x %u",
                         a->levels, unit, width, height);
    if (a->class_cond && a->num_classes == 0)
        return error_set(err, ST_BAD_FILE, "class_cond needs num_classes > 0");
    for (uint32_t i = 0; i < a->levels; i++) {
        uint64_t c = (uint64_t)a->num_channels * a->channel_mult[i];
        if (c == 0 || c % GROUPS || c > 1u << 16)
            return error_set(err, ST_BAD_FILE,
                             "level %u has %llu channels; it must be a multiple of %d below 65536",
                             i, (unsigned long long)c, GROUPS);
        bool attends =
            attends_at(a, a->patch << i) || (i + 1 == a->levels && !a->no_middle_attention);
        uint32_t part = (uint32_t)(a->num_head_channels > 0 ? a->num_head_channels : a->num_heads);
        if (attends && ((int32_t)part <= 0 || c % part))
            return error_set(err, ST_BAD_FILE,
                             "num_head_channels = %d, num_heads = %d do not divide the %llu "
                             "channels of level %u",
                             a->num_head_channels, a->num_heads, (unsigned long long)c, i);
    }
    return ST_OK;
}

enum status unet_build(struct graph **out, const struct unet_arch *arch, uint32_t height,
                       uint32_t width, struct error *err)
{
    enum status s = check(arch, height, width, err);
    if (s) return s;
    struct unet u = { .arch = arch };
    builder_init(&u.b);

    int32_t x = build_input(&u.b, height, width, arch_input_channels(arch));
    build_embedding(&u);
    int32_t h = build_down(&u, x);
    uint32_t c = build_channels(&u.b, h);
    h = res_block(&u, "middle_block.0", h, c, RESAMPLE_NONE);
    if (!arch->no_middle_attention) h = attention_block(&u, "middle_block.1", h);
    h = res_block(&u, "middle_block.2", h, c, RESAMPLE_NONE);
    build_tap(&u.b, h, "middle_block");
    h = build_up(&u, h);
    h = norm(&u, "out", "0", h, NODE_NONE, true);
    const uint32_t channels = arch->learn_sigma ? 2 * IMAGE_CHANNELS : IMAGE_CHANNELS;
    h = conv3x3(&u, "out", "2", h, channels * arch->patch * arch->patch, NODE_NONE);
    if (arch->patch > 1) h = build_depth_to_space(&u.b, h, arch->patch);
    build_tap(&u.b, h, "out");
    return builder_finish(&u.b, h, out, err);
}
