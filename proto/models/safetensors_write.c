#include "proto/models/safetensors.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proto/atomic_file.h"

static enum status tensor_bytes(size_t *out, const struct st_tensor *t, struct error *err)
{
    size_t count = 1;
    if (t->dims > ST_MAX_DIMS || dtype_size(t->dtype) == 0)
        return error_set(err, ST_INTERNAL, "\"%.100s\" has %u dimensions or no dtype", t->name,
                         t->dims);
    for (uint32_t i = 0; i < t->dims; i++)
        if (__builtin_mul_overflow(count, t->shape[i], &count))
            return error_set(err, ST_INTERNAL, "shape of \"%.100s\" overflows", t->name);
    if (count != t->count || __builtin_mul_overflow(count, dtype_size(t->dtype), out))
        return error_set(err, ST_INTERNAL, "shape of \"%.100s\" does not fit its count", t->name);
    return ST_OK;
}

/* Takes the references even on failure, as jansson's *_new functions do. */
static enum status describe(json_t *header, const struct st_tensor *t, size_t begin, size_t end,
                            struct error *err)
{
    json_t *shape = json_array();
    bool ok = shape != NULL;
    for (uint32_t i = 0; i < t->dims; i++)
        ok = json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) == 0 && ok;
    json_t *entry = ok ? json_pack("{s:s, s:O, s:[I,I]}", "dtype", dtype_name(t->dtype), "shape",
                                   shape, "data_offsets", (json_int_t)begin, (json_int_t)end)
                       : NULL;
    json_decref(shape);
    if (json_object_get(header, t->name)) {
        json_decref(entry);
        return error_set(err, ST_INTERNAL, "two tensors are called \"%.100s\"", t->name);
    }
    if (!entry || json_object_set_new(header, t->name, entry) != 0)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory to describe \"%.100s\" (or not UTF-8)",
                         t->name);
    return ST_OK;
}

static enum status make_header(char **out, const struct st_tensor *tensors, size_t n,
                               const struct st_meta *meta, size_t n_meta, struct error *err)
{
    size_t at = 0;
    enum status s = ST_OK;
    json_t *header = json_object(), *metadata = json_object();
    if (!header || !metadata) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a safetensors header");
        goto done;
    }
    for (size_t i = 0; i < n_meta; i++) {
        if (json_object_set_new(metadata, meta[i].key, json_string(meta[i].value)) != 0) {
            s = error_set(err, ST_INTERNAL, "metadata \"%.100s\" is not UTF-8", meta[i].key);
            goto done;
        }
    }
    if (n_meta > 0 && json_object_set(header, "__metadata__", metadata) != 0) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a safetensors header");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 0, end;
        s = tensor_bytes(&bytes, &tensors[i], err);
        if (s) goto done;
        if (__builtin_add_overflow(at, bytes, &end) || end > INT64_MAX) {
            s = error_set(err, ST_INTERNAL, "the tensors' sizes overflow");
            goto done;
        }
        s = describe(header, &tensors[i], at, end, err);
        if (s) goto done;
        at = end;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a safetensors header");
        goto done;
    }
    *out = text;
done:
    json_decref(header);
    json_decref(metadata);
    return s;
}

enum status safetensors_write(const char *path, const struct st_tensor *tensors, size_t n,
                              const struct st_meta *meta, size_t n_meta,
                              enum status (*fill)(void *ctx, size_t i, void *dst,
                                                  struct error *err),
                              void *ctx, struct error *err)
{
    static const char spaces[8] = "        ";
    struct atomic_file *file = NULL;
    char *header = NULL;
    void *buffer = NULL;
    size_t largest = 1;
    enum status s = make_header(&header, tensors, n, meta, n_meta, err);
    if (s) goto done;
    size_t text = strlen(header), pad = (8 - text % 8) % 8; /* so that the data begins aligned */
    uint64_t header_bytes = text + pad;
    for (size_t i = 0; i < n; i++) {
        size_t bytes = tensors[i].count * dtype_size(tensors[i].dtype);
        if (bytes > largest) largest = bytes;
    }
    if (fill) {
        buffer = malloc(largest);
        if (!buffer) {
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a tensor of %zu bytes", largest);
            goto done;
        }
    }
    s = atomic_file_open(&file, path, err);
    if (s) goto done;
    s = atomic_file_write(file, &header_bytes, sizeof header_bytes, err);
    if (!s) s = atomic_file_write(file, header, text, err);
    if (!s) s = atomic_file_write(file, spaces, pad, err);
    for (size_t i = 0; i < n && !s; i++) {
        size_t bytes = tensors[i].count * dtype_size(tensors[i].dtype);
        if (fill && bytes) s = fill(ctx, i, buffer, err);
        if (!s) s = atomic_file_write(file, fill ? buffer : tensors[i].data, bytes, err);
    }
    if (s) goto done;
    s = atomic_file_commit(file, err);
    file = NULL;
done:
    atomic_file_abort(file);
    free(buffer);
    free(header);
    return s;
}
