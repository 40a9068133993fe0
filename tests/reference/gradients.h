/* gradients.h - the gradients of the reference back end: F32 storage, double inside, the
 * formulas as derived.
 *
 * It also has the forward passes that only training needs. Simple and slow on purpose; no
 * threads. */
#ifndef DAVID_TESTS_REFERENCE_GRADIENTS_H
#define DAVID_TESTS_REFERENCE_GRADIENTS_H

#include <stddef.h>

#include "engine/graph/backend/gradients.h"
#include "tests/reference/reference.h"

extern const struct gradient_ops reference_gradients;

/* dst (+)= v */
static inline void put(const struct into *to, uint32_t n, size_t i, size_t c, double v)
{
    float *p = pixel(&to->dst, n, 0, (uint32_t)i) + c;
    *p = (float)(to->add ? (double)*p + v : v);
}

/* Defined in gradients_products.c. */
enum status reference_trained_conv_new(struct backend *b, const struct trained_conv_desc *d,
                                       struct trained_conv **out, struct error *err);
void reference_trained_conv_free(struct backend *b, struct trained_conv *c);
size_t reference_trained_conv_bytes(const struct trained_conv *c);
enum status reference_trained_conv_pack(struct backend *b, struct trained_conv *c,
                                        const float *weight, const float *bias, struct error *err);
enum status reference_trained_conv(struct backend *b, struct trained_conv *c,
                                   const struct tensor *x, const struct tensor *residual,
                                   const struct tensor *y, struct error *err);
enum status reference_conv_data(struct backend *b, struct trained_conv *c, const struct tensor *dy,
                                const struct tensor *dx, struct error *err);
enum status reference_conv_weights(struct backend *b, struct trained_conv *c,
                                   const struct tensor *x, const struct tensor *dy, float *dweight,
                                   float *dbias, struct error *err);
enum status reference_trained_linear(struct backend *b, const float *weight, const float *bias,
                                     const struct tensor *x, const struct tensor *y,
                                     struct error *err);
enum status reference_linear_gradient(struct backend *b, const float *weight,
                                      const struct tensor *x, const struct tensor *dy,
                                      const struct into *dx, float *dweight, float *dbias,
                                      struct error *err);
enum status reference_trained_attention_new(struct backend *b, const struct attention_desc *d,
                                            struct trained_attention **out, struct error *err);
void reference_trained_attention_free(struct backend *b, struct trained_attention *a);
enum status reference_attention_gradient(struct backend *b, struct trained_attention *a,
                                         const struct tensor *qkv, const struct tensor *dy,
                                         const struct tensor *dqkv, struct error *err);

/* Defined in gradients_elementwise.c. */
enum status reference_silu_gradient(struct backend *b, const struct tensor *x,
                                    const struct tensor *dy, const struct into *dx,
                                    struct error *err);
enum status reference_label_gradient(struct backend *b, const uint32_t *label,
                                     const struct tensor *dy, float *dtable, struct error *err);
enum status reference_trained_group_norm(struct backend *b, const struct group_norm_args *a,
                                         double *moments, struct error *err);
enum status reference_group_norm_gradient(struct backend *b,
                                          const struct group_norm_gradient_args *a,
                                          struct error *err);
enum status reference_upsample_gradient(struct backend *b, const struct tensor *dy,
                                        const struct into *dx, struct error *err);
enum status reference_downsample_gradient(struct backend *b, const struct tensor *dy,
                                          const struct into *dx, struct error *err);
enum status reference_copy_into(struct backend *b, const struct tensor *x, const struct into *dst,
                                struct error *err);
enum status reference_channel_sums(struct backend *b, const struct tensor *dy,
                                   const struct into *de, struct error *err);
enum status reference_batch_norm_sums(struct backend *b, const struct tensor *x, double *sums,
                                      struct error *err);
enum status reference_batch_norm(struct backend *b, const struct batch_norm_args *a,
                                 const struct tensor *y, struct error *err);
enum status reference_batch_norm_gradient_sums(struct backend *b, const struct batch_norm_args *a,
                                               const struct tensor *dy, double *dsums,
                                               float *dgamma, float *dbeta, struct error *err);
enum status reference_batch_norm_gradient(struct backend *b, const struct batch_norm_args *a,
                                          const struct tensor *dy, const double *dsums,
                                          const struct into *dx, struct error *err);
enum status reference_leaky_relu(struct backend *b, const struct tensor *x, float slope,
                                 const struct tensor *y, struct error *err);
enum status reference_leaky_relu_gradient(struct backend *b, const struct tensor *y, float slope,
                                          const struct tensor *dy, const struct into *dx,
                                          struct error *err);
enum status reference_adamw(struct backend *b, const struct adamw_args *a, struct error *err);
enum status reference_average(struct backend *b, float *average, const float *x, size_t count,
                              float decay, struct error *err);
enum status reference_fill(struct backend *b, float *x, size_t count, float value,
                           struct error *err);
enum status reference_scale(struct backend *b, float *x, size_t count, float by, struct error *err);
enum status reference_sum_squares(struct backend *b, const float *x, size_t count, double *out,
                                  struct error *err);

#endif
