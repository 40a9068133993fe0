/* unet_arch.h - limits of an architecture, for reading and for writing model files (the texts:
 * model_info.h). */
#ifndef DAVID_PROTO_MODELS_UNET_ARCH_H
#define DAVID_PROTO_MODELS_UNET_ARCH_H

#include "proto/models/model_info.h"

/* Checks every number and combination that unet_arch_parse() checks, for an architecture that was
 * made in memory. */
enum status unet_arch_check(const struct unet_arch *a, struct error *err);

#endif
