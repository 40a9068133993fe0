/* backward_tables.h - the training loops of one instruction set, from which backward_elementwise.c
 * of the same set builds the table. Only for files compiled per set. */
#ifndef DAVID_CPU_BACKWARD_TABLES_H
#define DAVID_CPU_BACKWARD_TABLES_H

#include "engine/cpu/backward.h"
#include "engine/cpu/vec.h"

size_t ISA_FN(weights_scratch)(const struct trained_conv_desc *d, int threads);
size_t ISA_FN(weights_amx_scratch)(const struct trained_conv_desc *d, int threads);
void ISA_FN(weights_amx)(const struct weights_job *j);
bool ISA_FN(weights_takes_winograd)(const struct trained_conv_desc *d);
size_t ISA_FN(weights_winograd_scratch)(const struct trained_conv_desc *d, int threads);
void ISA_FN(weights_winograd)(const struct weights_job *j);
size_t ISA_FN(attention_gradient_scratch)(const struct attention_desc *d);
void ISA_FN(im2col)(const struct im2col_job *j);
void ISA_FN(im2col_amx)(const struct im2col_job *j);
size_t ISA_FN(im2col_amx_scratch)(const struct im2col_job *j);
void ISA_FN(pack_weights)(const struct pack_job *j);
void ISA_FN(weights)(const struct weights_job *j);
void ISA_FN(trained_group_norm)(const struct norm_gradient_job *j);
void ISA_FN(group_norm_gradient)(const struct norm_gradient_job *j);
void ISA_FN(attention_gradient)(const struct attention_gradient_job *j);
void ISA_FN(batch_sums)(const struct batch_job *j);
void ISA_FN(batch_apply)(const struct batch_job *j);

#endif
