/* Makes a flat list of tensors by path of the one value that a pickle returns. */
#include "proto/models/unpickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/models/pickle_machine.h"
#include "proto/utf8.h"

enum {
    MAX_PICKLE = 16 << 20,
    MAX_DEPTH = 32,
    MAX_PATH = 512,
    MAX_LISTED = 65536,
    MAX_VISITS = 1 << 20 /* a container that occurs twice at every level is visited 2^depth times */
};

struct traversal {
    const struct machine *m;
    struct unpickled *out;
    size_t capacity, visits;
    char path[MAX_PATH + 1];
    struct error *err;
};

/* Appends ".key" (or "key" at the top) to path[0..len); returns the new length, 0 where it does not
 * fit or is not text. */
static size_t path_add(struct traversal *t, size_t len, const struct value *key, uint32_t index)
{
    char number[24];
    const char *text = number;
    size_t n;
    if (key && key->kind == V_TEXT) {
        text = key->text;
        n = key->n;
        if (!utf8_is_valid(text, n) || memchr(text, '\0', n)) return 0;
    } else {
        n = (size_t)snprintf(number, sizeof number, "%" PRId64, key ? key->number : (int64_t)index);
    }
    if (n == 0 || n > MAX_PATH || len + 1 + n > MAX_PATH) return 0;
    if (len) t->path[len++] = '.';
    memcpy(t->path + len, text, n);
    t->path[len + n] = '\0';
    return len + n;
}

static enum status list_tensor(struct traversal *t, const struct value *v)
{
    struct unpickled *u = t->out;
    void *array = u->tensors;
    if (u->n_tensors >= MAX_LISTED)
        return error_set(t->err, ST_BAD_FILE, "the pickle lists more than %d tensors", MAX_LISTED);
    if (!array_grow(&array, &t->capacity, u->n_tensors, sizeof *u->tensors))
        return error_set(t->err, ST_NO_MEMORY_NOW, "no memory to list the pickle's tensors");
    u->tensors = array;
    char *name = strdup(t->path);
    if (!name) return error_set(t->err, ST_NO_MEMORY_NOW, "no memory to list the pickle's tensors");
    u->tensors[u->n_tensors] = t->m->views[v->number];
    u->tensors[u->n_tensors++].tensor.name = name;
    return ST_OK;
}

static enum status visit(struct traversal *t, uint32_t index, size_t len, unsigned depth)
{
    const struct value *v = &t->m->values[index];
    uint32_t stride = v->kind == V_DICT ? 2 : 1;
    if (v->kind == V_TENSOR) return list_tensor(t, v);
    if (v->kind != V_DICT && v->kind != V_LIST && v->kind != V_TUPLE) return ST_OK;
    if (depth >= MAX_DEPTH)
        return error_set(t->err, ST_BAD_FILE, "the pickle nests deeper than %d (or holds itself)",
                         MAX_DEPTH);
    for (uint32_t i = 0; i + stride <= v->n; i += stride) {
        const struct value *key = stride == 2 ? &t->m->values[v->items[i]] : NULL;
        uint32_t child = v->items[i + stride - 1];
        enum value_kind kind = t->m->values[child].kind;
        if (++t->visits > MAX_VISITS)
            return error_set(t->err, ST_BAD_FILE, "the pickle holds more than %d things",
                             MAX_VISITS);
        if (kind != V_TENSOR && kind != V_DICT && kind != V_LIST && kind != V_TUPLE) continue;
        size_t longer = path_add(t, len, key, i);
        if (longer == 0)
            return error_set(
                t->err, ST_BAD_FILE,
                "the pickle has a key that is empty, not UTF-8, or a path beyond %d bytes",
                MAX_PATH);
        enum status s = visit(t, child, longer, depth + 1);
        if (s) return s;
    }
    return ST_OK;
}

static int compare_path(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum status refuse_duplicates(const struct unpickled *u, struct error *err)
{
    enum status s = ST_OK;
    const char **names = malloc((u->n_tensors + 1) * sizeof *names);
    if (!names) return error_set(err, ST_NO_MEMORY_NOW, "no memory to list the pickle's tensors");
    for (size_t i = 0; i < u->n_tensors; i++)
        names[i] = u->tensors[i].tensor.name;
    if (u->n_tensors > 1) qsort(names, u->n_tensors, sizeof *names, compare_path);
    for (size_t i = 1; i < u->n_tensors && !s; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            s = error_set(err, ST_BAD_FILE, "the pickle has two tensors at \"%.100s\"", names[i]);
    free(names);
    return s;
}

enum status unpickle(struct unpickled *out, const void *bytes, size_t len, struct error *err)
{
    struct machine m = { .at = bytes, .end = (const unsigned char *)bytes + len, .err = err };
    struct unpickled u = { 0 };
    struct traversal *t = NULL;
    uint32_t root = 0;
    enum status s;
    if (len > MAX_PICKLE)
        return error_set(err, ST_BAD_FILE, "a pickle of %zu bytes, more than %d", len, MAX_PICKLE);
    s = machine_run(&m, &root);
    if (s) goto done;
    t = calloc(1, sizeof *t);
    if (!t) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to list the pickle's tensors");
        goto done;
    }
    t->m = &m;
    t->out = &u;
    t->err = err;
    s = m.values[root].kind == V_TENSOR
            ? error_set(err, ST_BAD_FILE, "the pickle is one tensor without a name")
            : visit(t, root, 0, 0);
    if (!s) s = refuse_duplicates(&u, err);
    if (s) goto done;
    u.storages = m.storages;
    u.n_storages = m.n_storages;
    m.storages = NULL;
    *out = u;
    u = (struct unpickled){ 0 };
done:
    unpickle_done(&u);
    machine_done(&m);
    free(t);
    return s;
}

void unpickle_done(struct unpickled *u)
{
    for (size_t i = 0; i < u->n_tensors; i++)
        free((char *)u->tensors[i].tensor.name);
    free(u->tensors);
    free(u->storages);
    *u = (struct unpickled){ 0 };
}
