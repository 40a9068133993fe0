/* torch_zip.h - tensors of a PyTorch .pt file: an uncompressed zip with a pickle inside
 * (engine/README.md section 6).
 *
 * The pickle is an untrusted program: only listed opcodes and globals are accepted; stack, memo and
 * nesting are bounded. Anything else ends in ST_BAD_FILE with the offender's name, and nothing is
 * returned. Tensors are listed by path ("implicit_func_ema.ema_model.out.2.weight", dict keys
 * joined by '.'). Views with offsets, strides and shared storages are supported; data is read on
 * request, one tensor at a time, and made contiguous. Owned by the caller; one thread at a time. */
#ifndef DAVID_PROTO_MODELS_TORCH_ZIP_H
#define DAVID_PROTO_MODELS_TORCH_ZIP_H

#include "proto/models/dtype.h"
#include "proto/models/safetensors.h"

struct torch_zip;

enum status torch_zip_open(struct torch_zip **out, const char *path, struct error *err);
void torch_zip_close(struct torch_zip *z); /* takes NULL */

size_t torch_zip_count(const struct torch_zip *z);
/* .name is the path, .data is NULL. */
const struct st_tensor *torch_zip_at(const struct torch_zip *z, size_t i);
/* dst: count * dtype size bytes, contiguous, little-endian. */
enum status torch_zip_read(struct torch_zip *z, size_t i, void *dst, struct error *err);

#endif
