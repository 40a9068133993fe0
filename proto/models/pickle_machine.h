/* pickle_machine.h - the stack machine of unpickle.c: values, stack, marks and memo, all bounded.
 *
 * Values are elements of one growing array and refer to each other by index, so that a cycle needs
 * no special treatment when they are freed. machine_done() takes a zeroed struct. Private to
 * unpickle.c, pickle_machine.c and pickle_reduce.c. */
#ifndef DAVID_PROTO_MODELS_PICKLE_MACHINE_H
#define DAVID_PROTO_MODELS_PICKLE_MACHINE_H

#include <stdbool.h>

#include "proto/models/unpickle.h"

enum value_kind {
    V_NONE,
    V_BOOL,
    V_INT,
    V_OPAQUE, /* floats, and integers of more than 64 bits: never used as a size */
    V_TEXT,
    V_TUPLE,
    V_LIST,
    V_DICT, /* the items are key, value, key, value ... */
    V_GLOBAL,
    V_STORAGE, /* number: index of a storage */
    V_TENSOR   /* number: index of a view */
};

enum global_kind { G_ORDERED_DICT, G_TENSOR, G_PARAMETER, G_STORAGE };

struct value {
    enum value_kind kind;
    enum global_kind global;
    enum dtype dtype;     /* of a storage class */
    uint32_t n, capacity; /* bytes of a text, items of a container */
    int64_t number;
    union {
        const char *text; /* points into the pickle */
        uint32_t *items;
    };
};

/* An array that grows by doubling. */
struct indices {
    uint32_t *at;
    uint32_t n, capacity;
};

struct machine {
    const unsigned char *at, *end;
    struct value *values;
    uint32_t n_values, values_capacity;
    struct indices stack, marks, memo;
    struct pickle_view *views; /* every tensor that was built, listed or not */
    size_t n_views, views_capacity;
    struct pickle_storage *storages;
    size_t n_storages, storages_capacity;
    struct error *err;
};

/* Runs the pickle up to STOP; *root is the index of the one value that remains. */
enum status machine_run(struct machine *m, uint32_t *root);
void machine_done(struct machine *m);

/* Grows the array, which doubles, to hold one more element of `size` bytes; false where memory is
 * out. */
bool array_grow(void **array, size_t *capacity, size_t n, size_t size);

/* pickle_reduce.c: the values that the allowed globals make of their arguments. */
enum status machine_new(struct machine *m, enum value_kind kind, uint32_t *out);
enum status machine_persistent(struct machine *m, uint32_t id, uint32_t *out);
enum status machine_reduce(struct machine *m, uint32_t callable, uint32_t args, uint32_t *out);
enum status machine_global(struct machine *m, const char *module, size_t module_len,
                           const char *name, size_t name_len, uint32_t *out);

#endif
