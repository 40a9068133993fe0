/* The reader: it checks the whole header before it returns a tensor. The writer is
 * safetensors_write.c. */
#include "proto/models/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The JSON tree takes up to about fifty times the header's size; hence a limit far below the
 * format's. */
#define MAX_HEADER_BYTES ((uint64_t)4 << 20)
#define MAX_NAME_BYTES   512
#define MAX_TENSORS      65536
#define MAX_METADATA     256

struct entry {
    struct st_tensor tensor;
    uint64_t begin, end; /* bytes from the start of the data */
    size_t order;        /* position in the header: orders empty tensors at the same offset */
};

struct safetensors {
    void *map; /* NULL: the caller owns the bytes */
    size_t map_bytes;
    json_t *header; /* owns every name and metadata text */
    struct entry *entries;
    struct entry **by_name;
    size_t n;
    struct st_meta *meta;
    size_t n_meta;
};

static enum status parse_shape(struct st_tensor *t, const json_t *shape, const char *file,
                               struct error *err)
{
    size_t dims = json_array_size(shape);
    uint64_t bytes = dtype_size(t->dtype);
    bool is_empty = false;
    if (!json_is_array(shape))
        return error_set(err, ST_BAD_FILE, "%s: shape of \"%.100s\" is not an array", file,
                         t->name);
    if (dims > ST_MAX_DIMS)
        return error_set(err, ST_BAD_FILE, "%s: \"%.100s\" has %zu dimensions, more than %d", file,
                         t->name, dims, ST_MAX_DIMS);
    for (size_t i = 0; i < dims; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return error_set(err, ST_BAD_FILE,
                             "%s: shape of \"%.100s\" holds something that is not a size", file,
                             t->name);
        t->shape[i] = (uint64_t)json_integer_value(d);
        if (t->shape[i] == 0) is_empty = true;
        /* Zeros are left out of the product, so that [0, 2^62, 2^62] overflows as other shapes
         * do. */
        if (t->shape[i] && __builtin_mul_overflow(bytes, t->shape[i], &bytes))
            return error_set(err, ST_BAD_FILE, "%s: shape of \"%.100s\" overflows", file, t->name);
    }
    if (bytes > SIZE_MAX / 2)
        return error_set(err, ST_BAD_FILE, "%s: shape of \"%.100s\" overflows", file, t->name);
    t->dims = (uint32_t)dims;
    t->count = is_empty ? 0 : (size_t)(bytes / dtype_size(t->dtype));
    return ST_OK;
}

static enum status parse_entry(struct entry *e, const char *name, const json_t *value,
                               uint64_t data_bytes, const char *file, struct error *err)
{
    const json_t *dtype = json_object_get(value, "dtype");
    const json_t *shape = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    struct error cause = { 0 };
    enum status s;
    e->tensor.name = name;
    if (!dtype || !shape || !offsets || json_object_size(value) != 3)
        return error_set(err, ST_BAD_FILE,
                         "%s: \"%.100s\" is not an object of dtype, shape and data_offsets", file,
                         name);
    if (!json_is_string(dtype))
        return error_set(err, ST_BAD_FILE, "%s: dtype of \"%.100s\" is not a string", file, name);
    if (dtype_parse(&e->tensor.dtype, json_string_value(dtype), &cause))
        return error_set(err, ST_BAD_FILE, "%s: \"%.100s\": %s", file, name, cause.detail);
    s = parse_shape(&e->tensor, shape, file, err);
    if (s) return s;
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return error_set(err, ST_BAD_FILE, "%s: data_offsets of \"%.100s\" are not [begin, end]",
                         file, name);
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > data_bytes)
        return error_set(err, ST_BAD_FILE,
                         "%s: \"%.100s\" ends at byte %" PRIu64 " of %" PRIu64 " bytes of data",
                         file, name, e->end, data_bytes);
    if (e->end - e->begin != e->tensor.count * dtype_size(e->tensor.dtype))
        return error_set(err, ST_BAD_FILE,
                         "%s: \"%.100s\" has %" PRIu64 " bytes, but its shape needs %zu", file,
                         name, e->end - e->begin, e->tensor.count * dtype_size(e->tensor.dtype));
    return ST_OK;
}

static enum status parse_metadata(struct safetensors *st, const json_t *object, const char *file,
                                  struct error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return error_set(err, ST_BAD_FILE, "%s: __metadata__ is not an object", file);
    size_t n = json_object_size(object);
    if (n > MAX_METADATA)
        return error_set(err, ST_BAD_FILE, "%s: %zu metadata entries, more than %d", file, n,
                         MAX_METADATA);
    st->meta = calloc(n + 1, sizeof *st->meta);
    if (!st->meta) return error_set(err, ST_NO_MEMORY_NOW, "no memory to read %s", file);
    json_object_foreach ((json_t *)object, key, value) {
        if (!json_is_string(value))
            return error_set(err, ST_BAD_FILE, "%s: metadata \"%.100s\" is not a string", file,
                             key);
        st->meta[st->n_meta++] = (struct st_meta){ key, json_string_value(value) };
    }
    return ST_OK;
}

static int compare_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int compare_name(const void *a, const void *b)
{
    const struct entry *const *x = a, *const *y = b;
    return strcmp((*x)->tensor.name, (*y)->tensor.name);
}

/* Sorted by offset, the tensors must cover the data without a gap: the first begins at 0, each next
 * one where the previous one ends. */
static enum status check_layout(struct safetensors *st, uint64_t data_bytes, const char *file,
                                struct error *err)
{
    uint64_t at = 0;
    if (st->n > 1) qsort(st->entries, st->n, sizeof *st->entries, compare_offset);
    for (size_t i = 0; i < st->n; i++) {
        const struct entry *e = &st->entries[i];
        if (e->begin != at)
            return error_set(
                err, ST_BAD_FILE,
                "%s: \"%.100s\" begins at byte %" PRIu64 " of the data, %s byte %" PRIu64, file,
                e->tensor.name, e->begin,
                e->begin < at ? "overlapping what ends at" : "leaving a hole from", at);
        at = e->end;
    }
    if (at != data_bytes)
        return error_set(err, ST_BAD_FILE,
                         "%s: %" PRIu64 " bytes of data, but the tensors end at %" PRIu64, file,
                         data_bytes, at);
    return ST_OK;
}

static enum status parse_header(struct safetensors *st, const unsigned char *data,
                                uint64_t data_bytes, const char *file, struct error *err)
{
    const char *name;
    json_t *value;
    size_t n = json_object_size(st->header);
    if (n > MAX_TENSORS)
        return error_set(err, ST_BAD_FILE, "%s: %zu tensors, more than %d", file, n, MAX_TENSORS);
    st->entries = calloc(n + 1, sizeof *st->entries);
    st->by_name = calloc(n + 1, sizeof(struct entry *));
    if (!st->entries || !st->by_name)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory to read %s", file);
    json_object_foreach (st->header, name, value) {
        struct entry *e = &st->entries[st->n];
        enum status s;
        if (strcmp(name, "__metadata__") == 0) {
            s = parse_metadata(st, value, file, err);
        } else if (*name == '\0' || strlen(name) > MAX_NAME_BYTES) {
            s = error_set(err, ST_BAD_FILE, "%s: a tensor's name has %zu bytes, limits 1 and %d",
                          file, strlen(name), MAX_NAME_BYTES);
        } else {
            e->order = st->n++;
            s = parse_entry(e, name, value, data_bytes, file, err);
        }
        if (s) return s;
    }
    enum status s = check_layout(st, data_bytes, file, err);
    if (s) return s;
    for (size_t i = 0; i < st->n; i++) {
        st->entries[i].tensor.data = data + st->entries[i].begin;
        st->by_name[i] = &st->entries[i];
    }
    if (st->n > 1) qsort(st->by_name, st->n, sizeof(struct entry *), compare_name);
    return ST_OK;
}

enum status safetensors_open_memory(struct safetensors **out, const void *bytes, size_t len,
                                    const char *name, struct error *err)
{
    const unsigned char *p = bytes;
    uint64_t header_bytes;
    json_error_t why;
    enum status s;
    struct safetensors *st = NULL;
    if (len < sizeof header_bytes)
        return error_set(err, ST_BAD_FILE, "%s: %zu bytes, too short to be a safetensors file",
                         name, len);
    memcpy(&header_bytes, p, sizeof header_bytes);
    if (header_bytes > len - sizeof header_bytes)
        return error_set(err, ST_BAD_FILE,
                         "%s is truncated or not a safetensors file: it claims a header of %" PRIu64
                         " bytes and has %zu",
                         name, header_bytes, len - sizeof header_bytes);
    if (header_bytes > MAX_HEADER_BYTES)
        return error_set(err, ST_BAD_FILE, "%s: a header of %" PRIu64 " bytes, more than %" PRIu64,
                         name, header_bytes, MAX_HEADER_BYTES);
    p += sizeof header_bytes;
    st = calloc(1, sizeof *st);
    if (!st) return error_set(err, ST_NO_MEMORY_NOW, "no memory to read %s", name);
    st->header = json_loadb((const char *)p, (size_t)header_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(st->header)) {
        s = error_set(err, ST_BAD_FILE, "%s: the header is not a JSON object: %s", name,
                      st->header ? "another value" : why.text);
        goto done;
    }
    s = parse_header(st, p + header_bytes, len - sizeof header_bytes - header_bytes, name, err);
    if (s) goto done;
    *out = st;
    st = NULL;
done:
    safetensors_close(st);
    return s;
}

enum status safetensors_open(struct safetensors **out, const char *path, struct error *err)
{
    struct safetensors *st = NULL;
    struct stat info;
    void *map = MAP_FAILED;
    size_t bytes = 0;
    enum status s;
    /* the open must not wait for a FIFO's writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return error_set(err, ST_IO, "cannot open %s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) {
        s = error_set(err, ST_IO, "cannot stat %s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        s = error_set(err, ST_IO, "%s is not a regular file", path);
        goto done;
    }
    if (info.st_size == 0) {
        s = error_set(err, ST_BAD_FILE, "%s is empty", path);
        goto done;
    }
    bytes = (size_t)info.st_size;
    map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        s = error_set(err, ST_IO, "cannot map %s: %s", path, strerror(errno));
        goto done;
    }
    s = safetensors_open_memory(&st, map, bytes, path, err);
    if (s) goto done;
    st->map = map;
    st->map_bytes = bytes;
    map = MAP_FAILED;
    *out = st;
done:
    if (map != MAP_FAILED) munmap(map, bytes);
    close(fd);
    return s;
}

void safetensors_close(struct safetensors *st)
{
    if (!st) return;
    json_decref(st->header);
    free(st->entries);
    free(st->by_name);
    free(st->meta);
    if (st->map) munmap(st->map, st->map_bytes);
    free(st);
}

size_t safetensors_count(const struct safetensors *st)
{
    return st->n;
}

const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i)
{
    return i < st->n ? &st->entries[i].tensor : NULL;
}

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    size_t low = 0, high = st->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(name, st->by_name[mid]->tensor.name);
        if (order == 0) return &st->by_name[mid]->tensor;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const char *safetensors_metadata(const struct safetensors *st, const char *key)
{
    for (size_t i = 0; i < st->n_meta; i++)
        if (strcmp(st->meta[i].key, key) == 0) return st->meta[i].value;
    return NULL;
}
