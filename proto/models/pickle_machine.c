/* The opcodes. This file calls nothing, imports nothing, and allocates no amount that the pickle
 * claims. */
#include "proto/models/pickle_machine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUES = 1 << 20, MAX_STACK = 1 << 20, MAX_MEMO = 1 << 20 };

#define NO_VALUE UINT32_MAX

static enum status bad(struct machine *m, const char *what)
{
    return error_set(m->err, ST_BAD_FILE, "the pickle is not one of plain tensors: %s", what);
}

static enum status no_memory(struct machine *m)
{
    return error_set(m->err, ST_NO_MEMORY_NOW, "no memory to read the pickle");
}

bool array_grow(void **array, size_t *capacity, size_t n, size_t size)
{
    if (n < *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    void *grown = realloc(*array, wanted * size);
    if (!grown) return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

static enum status append(struct machine *m, uint32_t **at, uint32_t *n, uint32_t *capacity,
                          uint32_t v, uint32_t limit, const char *what)
{
    size_t wide = *capacity;
    void *array = *at;
    if (*n >= limit) return bad(m, what);
    if (!array_grow(&array, &wide, *n, sizeof **at)) return no_memory(m);
    *at = array;
    *capacity = (uint32_t)wide;
    (*at)[(*n)++] = v;
    return ST_OK;
}

enum status machine_new(struct machine *m, enum value_kind kind, uint32_t *out)
{
    size_t capacity = m->values_capacity;
    void *array = m->values;
    if (m->n_values >= MAX_VALUES) return bad(m, "more than 1048576 values");
    if (!array_grow(&array, &capacity, m->n_values, sizeof *m->values)) return no_memory(m);
    m->values = array;
    m->values_capacity = (uint32_t)capacity;
    m->values[m->n_values] = (struct value){ .kind = kind };
    *out = m->n_values++;
    return ST_OK;
}

static enum status push(struct machine *m, uint32_t v)
{
    return append(m, &m->stack.at, &m->stack.n, &m->stack.capacity, v, MAX_STACK,
                  "its stack grows beyond 1048576 values");
}

static enum status push_new(struct machine *m, enum value_kind kind, int64_t number)
{
    uint32_t v = 0;
    enum status s = machine_new(m, kind, &v);
    if (s) return s;
    m->values[v].number = number;
    return push(m, v);
}

/* Values below the last mark do not belong to the current sequence. */
static enum status pop(struct machine *m, uint32_t *out)
{
    uint32_t floor = m->marks.n ? m->marks.at[m->marks.n - 1] : 0;
    if (m->stack.n <= floor) return bad(m, "it takes a value from an empty stack");
    *out = m->stack.at[--m->stack.n];
    return ST_OK;
}

static enum status pop_mark(struct machine *m, uint32_t *base)
{
    if (m->marks.n == 0) return bad(m, "it looks for a mark that is not there");
    *base = m->marks.at[--m->marks.n];
    return ST_OK;
}

/* The top of the stack, which is not popped. */
static enum status top(struct machine *m, uint32_t *out)
{
    enum status s = pop(m, out);
    if (!s) m->stack.n++;
    return s;
}

static enum status make_tuple(struct machine *m, uint32_t n)
{
    uint32_t v = 0, floor = m->marks.n ? m->marks.at[m->marks.n - 1] : 0;
    if (m->stack.n - floor < n) return bad(m, "it takes a value from an empty stack");
    enum status s = machine_new(m, V_TUPLE, &v);
    if (s) return s;
    if (n) {
        uint32_t *items = malloc(n * sizeof *items);
        if (!items) return no_memory(m);
        memcpy(items, m->stack.at + (m->stack.n - n), n * sizeof *items);
        m->values[v].items = items;
        m->values[v].n = m->values[v].capacity = n;
    }
    m->stack.n -= n;
    return push(m, v);
}

/* Moves the `n` values on top of the stack to the end of the container below them. */
static enum status extend(struct machine *m, uint32_t n, enum value_kind kind)
{
    uint32_t floor = m->marks.n ? m->marks.at[m->marks.n - 1] : 0;
    if (m->stack.n - floor < n || m->stack.n - n <= floor)
        return bad(m, "it takes a value from an empty stack");
    uint32_t first = m->stack.n - n;
    struct value *into = &m->values[m->stack.at[first - 1]];
    if (into->kind != kind)
        return bad(m, kind == V_DICT ? "it sets items of something that is not a dict"
                                     : "it appends to something that is not a list");
    if (kind == V_DICT && n % 2 != 0) return bad(m, "it sets an item without a value");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = m->stack.at[first + i];
        if (kind == V_DICT && i % 2 == 0 && m->values[v].kind != V_TEXT &&
            m->values[v].kind != V_INT)
            return bad(m, "the key of a dict is neither text nor an integer");
        enum status s = append(m, &into->items, &into->n, &into->capacity, v, MAX_VALUES,
                               "a container is too long");
        if (s) return s;
    }
    m->stack.n = first;
    return ST_OK;
}

static enum status take(struct machine *m, size_t n, const unsigned char **out)
{
    if ((size_t)(m->end - m->at) < n) return bad(m, "it is cut short");
    *out = m->at;
    m->at += n;
    return ST_OK;
}

static uint64_t little(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Reads the unsigned number of `n` bytes after the opcode. */
static enum status take_number(struct machine *m, size_t n, uint64_t *out)
{
    const unsigned char *p = NULL;
    enum status s = take(m, n, &p);
    if (!s) *out = little(p, n);
    return s;
}

static enum status op_integer(struct machine *m, size_t bytes, bool is_signed)
{
    uint64_t v = 0;
    enum status s = take_number(m, bytes, &v);
    if (s) return s;
    return push_new(m, V_INT, is_signed ? (int32_t)(uint32_t)v : (int64_t)v);
}

static enum status op_long(struct machine *m)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    enum status s = take_number(m, 1, &n);
    if (!s) s = take(m, (size_t)n, &p);
    if (s) return s;
    if (n > 8) return push_new(m, V_OPAQUE, 0);
    uint64_t v = little(p, (size_t)n);
    if (n > 0 && n < 8 && p[n - 1] & 0x80) v |= UINT64_MAX << (8 * n);
    return push_new(m, V_INT, (int64_t)v);
}

static enum status op_text(struct machine *m)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    uint32_t v = 0;
    enum status s = take_number(m, 4, &n);
    if (!s) s = take(m, (size_t)n, &p);
    if (!s) s = machine_new(m, V_TEXT, &v);
    if (s) return s;
    m->values[v].text = (const char *)p;
    m->values[v].n = (uint32_t)n;
    return push(m, v);
}

static enum status op_global(struct machine *m)
{
    const unsigned char *line[2];
    size_t len[2];
    uint32_t v = 0;
    for (int i = 0; i < 2; i++) {
        const unsigned char *newline = memchr(m->at, '\n', (size_t)(m->end - m->at));
        if (!newline) return bad(m, "it is cut short");
        line[i] = m->at;
        len[i] = (size_t)(newline - m->at);
        m->at = newline + 1;
    }
    enum status s =
        machine_global(m, (const char *)line[0], len[0], (const char *)line[1], len[1], &v);
    return s ? s : push(m, v);
}

static enum status op_put(struct machine *m, size_t bytes)
{
    uint64_t slot = 0;
    uint32_t v = 0;
    enum status s = take_number(m, bytes, &slot);
    if (!s) s = top(m, &v);
    if (s) return s;
    if (slot >= MAX_MEMO) return bad(m, "its memo grows beyond 1048576 entries");
    while (m->memo.n <= slot) {
        s = append(m, &m->memo.at, &m->memo.n, &m->memo.capacity, NO_VALUE, MAX_MEMO, "memo");
        if (s) return s;
    }
    m->memo.at[slot] = v;
    return ST_OK;
}

static enum status op_get(struct machine *m, size_t bytes)
{
    uint64_t slot = 0;
    enum status s = take_number(m, bytes, &slot);
    if (s) return s;
    if (slot >= m->memo.n || m->memo.at[slot] == NO_VALUE)
        return error_set(m->err, ST_BAD_FILE, "the pickle reads memo %" PRIu64 ", which is not set",
                         slot);
    return push(m, m->memo.at[slot]);
}

static enum status op_to_mark(struct machine *m, unsigned char op)
{
    uint32_t base = 0;
    enum status s = pop_mark(m, &base);
    if (s) return s;
    uint32_t n = m->stack.n - base;
    if (op == 't') return make_tuple(m, n);
    return extend(m, n, op == 'u' ? V_DICT : V_LIST);
}

static enum status op_call(struct machine *m, unsigned char op)
{
    uint32_t args = 0, callable = 0, v = 0;
    enum status s = pop(m, &args);
    if (s) return s;
    if (op == 'Q') {
        s = machine_persistent(m, args, &v);
        return s ? s : push(m, v);
    }
    if (op == 'b') { /* BUILD only attaches _metadata to an OrderedDict, which is not needed here */
        s = top(m, &callable);
        if (s) return s;
        return m->values[callable].kind == V_DICT ? ST_OK
                                                  : bad(m, "BUILD of something that is not a dict");
    }
    s = pop(m, &callable);
    if (!s) s = machine_reduce(m, callable, args, &v);
    return s ? s : push(m, v);
}

static enum status op_mark(struct machine *m)
{
    return append(m, &m->marks.at, &m->marks.n, &m->marks.capacity, m->stack.n, MAX_STACK,
                  "its marks grow beyond 1048576");
}

static enum status step(struct machine *m, unsigned char op)
{
    const unsigned char *skipped;
    enum status s;
    switch (op) {
    case '(': return op_mark(m);
    case ')': return push_new(m, V_TUPLE, 0);
    case '}': return push_new(m, V_DICT, 0);
    case ']': return push_new(m, V_LIST, 0);
    case 'N': return push_new(m, V_NONE, 0);
    case 0x88: return push_new(m, V_BOOL, 1);
    case 0x89: return push_new(m, V_BOOL, 0);
    case 'J': return op_integer(m, 4, true);
    case 'K': return op_integer(m, 1, false);
    case 'M': return op_integer(m, 2, false);
    case 0x8a: return op_long(m);
    case 'G': s = take(m, 8, &skipped); return s ? s : push_new(m, V_OPAQUE, 0);
    case 'X': return op_text(m);
    case 'c': return op_global(m);
    case 'q': return op_put(m, 1);
    case 'r': return op_put(m, 4);
    case 'h': return op_get(m, 1);
    case 'j': return op_get(m, 4);
    case 0x85: return make_tuple(m, 1);
    case 0x86: return make_tuple(m, 2);
    case 0x87: return make_tuple(m, 3);
    case 't':
    case 'u':
    case 'e': return op_to_mark(m, op);
    case 's': return extend(m, 2, V_DICT);
    case 'a': return extend(m, 1, V_LIST);
    case 'Q':
    case 'R':
    case 'b': return op_call(m, op);
    default:
        return error_set(m->err, ST_BAD_FILE, "the pickle uses opcode 0x%02x, which is not allowed",
                         op);
    }
}

enum status machine_run(struct machine *m, uint32_t *root)
{
    if (m->end - m->at < 2 || m->at[0] != 0x80 || m->at[1] != 2)
        return bad(m, "it does not begin as protocol 2");
    m->at += 2;
    while (m->at < m->end) {
        unsigned char op = *m->at++;
        if (op == '.') {
            if (m->marks.n != 0 || m->stack.n != 1 || m->at != m->end)
                return bad(m, "it does not end with one value");
            *root = m->stack.at[0];
            return ST_OK;
        }
        enum status s = step(m, op);
        if (s) return s;
    }
    return bad(m, "it is cut short");
}

void machine_done(struct machine *m)
{
    for (uint32_t i = 0; i < m->n_values; i++) {
        enum value_kind kind = m->values[i].kind;
        if (kind == V_TUPLE || kind == V_LIST || kind == V_DICT) free(m->values[i].items);
    }
    free(m->values);
    free(m->stack.at);
    free(m->marks.at);
    free(m->memo.at);
    free(m->views);
    free(m->storages);
    *m = (struct machine){ 0 };
}
