/* torch_zip.h - tensors out of a PyTorch .pt file: a stored zip with a pickle inside (engine/README.md section 6).
 *
 * The pickle is a program from a stranger: an allow-list of opcodes and globals, bounded stack, memo and nesting; anything
 * else ends in ST_BAD_FILE with the offender named and nothing touched. Tensors are listed by path ("implicit_func_ema.
 * ema_model.out.2.weight", dict keys joined by '.'), views with offsets, strides and shared storages included; data is
 * read from the file when asked for, one tensor at a time, made contiguous. Owned by the caller; one thread at a time. */
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
