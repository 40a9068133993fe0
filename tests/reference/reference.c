#include "tests/reference/gradients.h"

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
    .name = "reference",
    .host_memory = true,
    .close = close_reference,
    .has_dtype = has_dtype,
    .best_dtype = best_dtype,
    .rows_per_batch = rows_per_batch,
    .alloc = alloc,
    .free = release,
    .conv_plan = reference_conv_plan,
    .conv_plan_free = reference_conv_plan_free,
    .conv = reference_conv,
    .linear_plan = reference_linear_plan,
    .linear_plan_free = reference_linear_plan_free,
    .linear = reference_linear,
    .attention_plan = reference_attention_plan,
    .attention_plan_free = reference_attention_plan_free,
    .attention = reference_attention,
    .group_norm = reference_group_norm,
    .upsample = reference_upsample,
    .downsample = reference_downsample,
    .space_to_depth = reference_space_to_depth,
    .depth_to_space = reference_depth_to_space,
    .concat = reference_concat,
    .add_channel = reference_add_channel,
    .timestep = reference_timestep,
    .label = reference_label,
    .silu = reference_silu,
    .add = reference_add,
    .cast = reference_cast,
    .normals = reference_normals,
    .sampler_in = reference_sampler_in,
    .sampler_join = reference_sampler_join,
    .sampler_out = reference_sampler_out,
    .gradients = &reference_gradients,
};

enum status reference_backend_open(struct backend **out, struct error *err)
{
    struct backend *b = malloc(sizeof *b);
    if (!b) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the reference back end");
    b->ops = &reference_ops;
    *out = b;
    return ST_OK;
}
