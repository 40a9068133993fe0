#include "tests/reference/gradients.h"
#include "tests/reference/losses.h"

#include <stdlib.h>

/* Two rows per execution, unlike the CPU's one: a last execution with a missing row is tested
 * here. */
enum { ROWS_PER_PASS = 2 };

enum status expect(bool ok, const char *what, struct error *err)
{
    return ok ? ST_OK : error_set(err, ST_INTERNAL, "reference back end: %s", what);
}

static void close_reference(struct backend *b)
{
    free(b);
}

static bool has_dtype(struct backend *b, enum dtype t)
{
    (void)b;
    return t == DT_F32;
}

static enum dtype best_dtype(struct backend *b)
{
    (void)b;
    return DT_F32;
}

static uint32_t rows_per_batch(struct backend *b)
{
    (void)b;
    return ROWS_PER_PASS;
}

static enum status alloc(struct backend *b, size_t bytes, void **out, struct error *err)
{
    (void)b;
    void *p = bytes > SIZE_MAX - 64 ? NULL : aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu bytes", bytes);
    *out = p;
    return ST_OK;
}

static void release(struct backend *b, void *p)
{
    (void)b;
    free(p);
}

static const struct backend_ops reference_ops = {
    .device.name = "reference",
    .device.host_memory = true,
    .device.close = close_reference,
    .device.has_dtype = has_dtype,
    .device.best_dtype = best_dtype,
    .device.rows_per_batch = rows_per_batch,
    .device.alloc = alloc,
    .device.free = release,
    .net.conv_plan = reference_conv_plan,
    .net.conv_plan_free = reference_conv_plan_free,
    .net.conv = reference_conv,
    .net.linear_plan = reference_linear_plan,
    .net.linear_plan_free = reference_linear_plan_free,
    .net.linear = reference_linear,
    .net.attention_plan = reference_attention_plan,
    .net.attention_plan_free = reference_attention_plan_free,
    .net.attention = reference_attention,
    .net.group_norm = reference_group_norm,
    .net.upsample = reference_upsample,
    .net.downsample = reference_downsample,
    .net.space_to_depth = reference_space_to_depth,
    .net.depth_to_space = reference_depth_to_space,
    .net.concat = reference_concat,
    .net.add_channel = reference_add_channel,
    .net.timestep = reference_timestep,
    .net.label = reference_label,
    .net.silu = reference_silu,
    .net.add = reference_add,
    .net.cast = reference_cast,
    .net.normals = reference_normals,
    .net.sampler_in = reference_sampler_in,
    .net.sampler_join = reference_sampler_join,
    .net.sampler_out = reference_sampler_out,
    .gradients = &reference_gradients,
    .losses = &reference_losses,
};

enum status reference_backend_open(struct backend **out, struct error *err)
{
    struct backend *b = malloc(sizeof *b);
    if (!b) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the reference back end");
    b->ops = &reference_ops;
    *out = b;
    return ST_OK;
}
