/* The allowed globals, and the tensors and storages that they describe. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/models/pickle_machine.h"

enum { MAX_VIEWS = 65536, FREE_EXPANSION = 1 << 20 };

static const struct {
    const char *module, *name;
    enum global_kind kind;
    enum dtype dtype;
} allowed[] = {
    { "collections", "OrderedDict", G_ORDERED_DICT, DT_COUNT },
    { "torch._utils", "_rebuild_tensor_v2", G_TENSOR, DT_COUNT },
    { "torch._utils", "_rebuild_parameter", G_PARAMETER, DT_COUNT },
    { "torch", "FloatStorage", G_STORAGE, DT_F32 },
    { "torch", "HalfStorage", G_STORAGE, DT_F16 },
    { "torch", "BFloat16Storage", G_STORAGE, DT_BF16 },
    { "torch", "DoubleStorage", G_STORAGE, DT_F64 },
    { "torch", "LongStorage", G_STORAGE, DT_I64 },
    { "torch", "IntStorage", G_STORAGE, DT_I32 },
    { "torch", "ShortStorage", G_STORAGE, DT_I16 },
    { "torch", "CharStorage", G_STORAGE, DT_I8 },
    { "torch", "ByteStorage", G_STORAGE, DT_U8 },
    { "torch", "BoolStorage", G_STORAGE, DT_BOOL },
};

static bool is_text(const char *a, size_t len, const char *b)
{
    return strlen(b) == len && memcmp(a, b, len) == 0;
}

/* Untrusted bytes for a message: '?' in place of those that are not printable. */
static void printable(char out[64], const char *text, size_t len)
{
    size_t n = len < 63 ? len : 63;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?');
    out[n] = '\0';
}

enum status machine_global(struct machine *m, const char *module, size_t module_len,
                           const char *name, size_t name_len, uint32_t *out)
{
    char shown[2][64];
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++) {
        if (!is_text(module, module_len, allowed[i].module) ||
            !is_text(name, name_len, allowed[i].name))
            continue;
        enum status s = machine_new(m, V_GLOBAL, out);
        if (s) return s;
        m->values[*out].global = allowed[i].kind;
        m->values[*out].dtype = allowed[i].dtype;
        return ST_OK;
    }
    printable(shown[0], module, module_len);
    printable(shown[1], name, name_len);
    return error_set(m->err, ST_BAD_FILE, "the pickle asks for %s.%s, which is not allowed",
                     shown[0], shown[1]);
}

static enum status bad(struct machine *m, const char *what)
{
    return error_set(m->err, ST_BAD_FILE, "the pickle is not one of plain tensors: %s", what);
}

/* ('storage', class, key, device, numel) */
enum status machine_persistent(struct machine *m, uint32_t id, uint32_t *out)
{
    const struct value *v = &m->values[id];
    struct pickle_storage storage = { 0 };
    if (v->kind != V_TUPLE || v->n != 5) return bad(m, "a persistent id is not a storage of five");
    const struct value *word = &m->values[v->items[0]], *type = &m->values[v->items[1]],
                       *key = &m->values[v->items[2]], *device = &m->values[v->items[3]],
                       *numel = &m->values[v->items[4]];
    if (word->kind != V_TEXT || !is_text(word->text, word->n, "storage") ||
        type->kind != V_GLOBAL || type->global != G_STORAGE || key->kind != V_TEXT ||
        device->kind != V_TEXT || numel->kind != V_INT)
        return bad(m, "a persistent id is not ('storage', class, key, device, count)");
    if (key->n == 0 || key->n >= STORAGE_KEY_MAX) return bad(m, "the key of a storage is too long");
    for (uint32_t i = 0; i < key->n; i++) {
        if (!strchr("0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                    key->text[i]) ||
            key->text[i] == '\0')
            return bad(m, "the key of a storage is not a plain word");
    }
    if (numel->number < 0 || (uint64_t)numel->number > (uint64_t)INT64_MAX / 8)
        return error_set(m->err, ST_BAD_FILE, "the pickle claims a storage of %" PRId64 " elements",
                         numel->number);
    memcpy(storage.key, key->text, key->n);
    storage.dtype = type->dtype;
    storage.numel = (uint64_t)numel->number;
    void *array = m->storages;
    if (m->n_storages >= MAX_VIEWS) return bad(m, "more than 65536 storages");
    if (!array_grow(&array, &m->storages_capacity, m->n_storages, sizeof *m->storages))
        return error_set(m->err, ST_NO_MEMORY_NOW, "no memory to read the pickle");
    m->storages = array;
    m->storages[m->n_storages] = storage;
    enum status s = machine_new(m, V_STORAGE, out);
    if (s) return s;
    m->values[*out].number = (int64_t)m->n_storages++;
    return ST_OK;
}

static enum status read_sizes(struct machine *m, const struct value *tuple, uint64_t *out,
                              const char *what)
{
    for (uint32_t i = 0; i < tuple->n; i++) {
        const struct value *v = &m->values[tuple->items[i]];
        if (v->kind != V_INT || v->number < 0)
            return error_set(m->err, ST_BAD_FILE,
                             "the pickle has a %s that is negative or no number", what);
        out[i] = (uint64_t)v->number;
    }
    return ST_OK;
}

/* Checks that every element of the view lies inside its storage. */
static enum status check_view(struct machine *m, struct pickle_view *view)
{
    const struct pickle_storage *storage = &m->storages[view->storage];
    uint64_t count = 1, last = view->offset, step;
    bool is_empty = false;
    for (uint32_t i = 0; i < view->tensor.dims; i++) {
        uint64_t size = view->tensor.shape[i];
        if (size == 0) {
            is_empty = true;
            continue;
        }
        if (__builtin_mul_overflow(count, size, &count) ||
            __builtin_mul_overflow(size - 1, view->stride[i], &step) ||
            __builtin_add_overflow(last, step, &last))
            return bad(m, "the shape of a tensor overflows");
    }
    if (is_empty) count = 0;
    if (!is_empty && last >= storage->numel)
        return error_set(m->err, ST_BAD_FILE,
                         "the pickle has a tensor that reaches element %" PRIu64
                         " of a storage of %" PRIu64,
                         last, storage->numel);
    /* Stride 0 repeats elements: the limit keeps a small file from using all memory. */
    if (count > storage->numel && count > FREE_EXPANSION)
        return error_set(m->err, ST_BAD_FILE,
                         "the pickle has a tensor of %" PRIu64 " elements on a storage of %" PRIu64,
                         count, storage->numel);
    view->tensor.count = (size_t)count;
    return ST_OK;
}

/* (storage, offset, size, stride, requires_grad, hooks) */
static enum status rebuild_tensor(struct machine *m, const struct value *args, uint32_t *out)
{
    struct pickle_view view = { 0 };
    if (args->n != 6) return bad(m, "a tensor is not made of six arguments");
    const struct value *storage = &m->values[args->items[0]], *offset = &m->values[args->items[1]],
                       *size = &m->values[args->items[2]], *stride = &m->values[args->items[3]],
                       *grad = &m->values[args->items[4]], *hooks = &m->values[args->items[5]];
    if (storage->kind != V_STORAGE || offset->kind != V_INT || size->kind != V_TUPLE ||
        stride->kind != V_TUPLE || grad->kind != V_BOOL || hooks->kind != V_DICT)
        return bad(m, "the arguments of a tensor have other types");
    if (offset->number < 0 || size->n != stride->n)
        return bad(m, "a tensor has a negative offset, or more sizes than strides");
    if (size->n > ST_MAX_DIMS) return bad(m, "a tensor has more than 8 dimensions");
    view.storage = (uint32_t)storage->number;
    view.offset = (uint64_t)offset->number;
    view.tensor.dims = size->n;
    view.tensor.dtype = m->storages[view.storage].dtype;
    enum status s = read_sizes(m, size, view.tensor.shape, "size");
    if (!s) s = read_sizes(m, stride, view.stride, "stride");
    if (!s) s = check_view(m, &view);
    if (s) return s;
    void *array = m->views;
    if (m->n_views >= MAX_VIEWS) return bad(m, "more than 65536 tensors");
    if (!array_grow(&array, &m->views_capacity, m->n_views, sizeof *m->views))
        return error_set(m->err, ST_NO_MEMORY_NOW, "no memory to read the pickle");
    m->views = array;
    m->views[m->n_views] = view;
    s = machine_new(m, V_TENSOR, out);
    if (s) return s;
    m->values[*out].number = (int64_t)m->n_views++;
    return ST_OK;
}

enum status machine_reduce(struct machine *m, uint32_t callable, uint32_t args, uint32_t *out)
{
    const struct value *f = &m->values[callable], *a = &m->values[args];
    if (f->kind != V_GLOBAL || a->kind != V_TUPLE)
        return bad(m, "REDUCE of something not callable");
    switch (f->global) {
    case G_ORDERED_DICT:
        if (a->n != 0) return bad(m, "an OrderedDict is made with arguments");
        return machine_new(m, V_DICT, out);
    case G_TENSOR: return rebuild_tensor(m, a, out);
    case G_PARAMETER:
        if (a->n != 3 || m->values[a->items[0]].kind != V_TENSOR)
            return bad(m, "a parameter is not made of a tensor, a flag and hooks");
        *out = a->items[0];
        return ST_OK;
    case G_STORAGE: break;
    }
    return bad(m, "a storage class is called");
}
