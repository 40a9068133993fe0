/* unet_arch.h - bounds of an architecture, shared by reading and writing model files (the texts: model_info.h). */
#ifndef DAVID_PROTO_MODELS_UNET_ARCH_H
#define DAVID_PROTO_MODELS_UNET_ARCH_H

#include "proto/models/model_info.h"

/* Every number and combination that unet_arch_parse() lets through, for an architecture made in memory. */
enum status unet_arch_check(const struct unet_arch *a, struct error *err);

#endif
