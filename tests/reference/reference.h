/* reference.h - what the files of the reference back end share: storage F32, arithmetic double,
 * loops as the formulas are written.
 *
 * Simple and slow on purpose; no threads. These functions are called only through struct
 * backend_ops. */
#ifndef DAVID_TESTS_REFERENCE_H
#define DAVID_TESTS_REFERENCE_H

#include "engine/graph/backend.h"

/* Pixel (n, y, x) of an F32 view; its channels are contiguous. */
static inline float *pixel(const struct tensor *t, uint32_t n, uint32_t y, uint32_t x)
{
    return (float *)t->data + (((size_t)n * t->h + y) * t->w + x) * t->ld;
}

/* ST_INTERNAL where `ok` is false: the caller violated the interface. */
enum status expect(bool ok, const char *what, struct error *err);

/* Defined in convolution.c. */
enum status reference_conv_plan(struct backend *b, const struct conv_desc *d, const float *weight,
                                const float *bias, struct conv_plan **out, struct error *err);
void reference_conv_plan_free(struct backend *b, struct conv_plan *p);
enum status reference_conv(struct backend *b, struct conv_plan *p, const struct tensor *x,
                           const struct tensor *residual, const struct tensor *y,
                           const uint32_t *condition, struct error *err);
enum status reference_linear_plan(struct backend *b, uint32_t ic, uint32_t oc, const float *weight,
                                  const float *bias, struct linear_plan **out, struct error *err);
void reference_linear_plan_free(struct backend *b, struct linear_plan *p);
enum status reference_linear(struct backend *b, struct linear_plan *p, const struct tensor *x,
                             const struct tensor *y, struct error *err);
enum status reference_attention_plan(struct backend *b, const struct attention_desc *d,
                                     struct attention_plan **out, struct error *err);
void reference_attention_plan_free(struct backend *b, struct attention_plan *p);
enum status reference_attention(struct backend *b, struct attention_plan *p,
                                const struct tensor *qkv, const struct tensor *y,
                                struct error *err);

/* Defined in elementwise.c. */
enum status reference_group_norm(struct backend *b, const struct group_norm_args *a,
                                 struct error *err);
enum status reference_upsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                               struct error *err);
enum status reference_downsample(struct backend *b, const struct tensor *x, const struct tensor *y,
                                 struct error *err);
enum status reference_space_to_depth(struct backend *b, const struct tensor *x,
                                     const struct tensor *y, struct error *err);
enum status reference_depth_to_space(struct backend *b, const struct tensor *x,
                                     const struct tensor *y, struct error *err);
enum status reference_concat(struct backend *b, const struct tensor *a, const struct tensor *c,
                             const struct tensor *y, struct error *err);
enum status reference_add_channel(struct backend *b, const struct tensor *x, const struct tensor *e,
                                  const struct tensor *y, struct error *err);
enum status reference_cast(struct backend *b, const struct tensor *x, const struct tensor *y,
                           struct error *err);
enum status reference_timestep(struct backend *b, const float *t, const struct tensor *y,
                               struct error *err);
enum status reference_label(struct backend *b, const float *table, const uint32_t *label,
                            const struct tensor *y, struct error *err);
enum status reference_silu(struct backend *b, const struct tensor *x, const struct tensor *y,
                           struct error *err);
enum status reference_add(struct backend *b, const struct tensor *x, const struct tensor *e,
                          const struct tensor *y, struct error *err);

/* Defined in sampler.c. */
enum status reference_normals(struct backend *b, const struct normals_args *a, struct error *err);
enum status reference_sampler_in(struct backend *b, const float *y_in, const float *z, float hz,
                                 float *x, size_t count, struct error *err);
enum status reference_sampler_join(struct backend *b, const float *y_in, const float *z, float hz,
                                   float *x, size_t pixels, struct error *err);
enum status reference_sampler_out(struct backend *b, const struct tensor *x,
                                  const struct tensor *eps, float std, bool linear,
                                  const struct tensor *x0, struct error *err);

#endif
