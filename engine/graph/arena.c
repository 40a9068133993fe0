#include "engine/graph/arena.h"

#include <stdbool.h>
#include <stdlib.h>

enum { ALIGN = 64 };

struct ranked {
    size_t bytes;
    uint32_t lifetime;
};

static int largest_first(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->lifetime < y->lifetime ? -1 : 1;
}

static bool meet(const struct lifetime *a, const struct lifetime *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset at which `s` overlaps none of the first `placed` buffers of the order, in time
 * and in memory. */
static size_t lowest_offset(const struct lifetime *lifetimes, const struct ranked *order,
                            uint32_t placed, const struct lifetime *s)
{
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t k = 0; k < placed; k++) {
            const struct lifetime *o = &lifetimes[order[k].lifetime];
            if (!meet(o, s) || offset >= o->offset + order[k].bytes ||
                o->offset >= offset + s->bytes)
                continue;
            offset = o->offset + order[k].bytes;
            moved = true;
        }
    }
    return offset;
}

enum status arena_lay_out(struct lifetime *lifetimes, uint32_t n, size_t *total, struct error *err)
{
    struct ranked *order = malloc((n + 1) * sizeof *order);
    if (!order) return error_set(err, ST_NO_MEMORY_NOW, "no memory to plan %u buffers", n);
    uint32_t used = 0;
    size_t end = 0;
    for (uint32_t i = 0; i < n; i++) {
        lifetimes[i].offset = 0;
        if (lifetimes[i].bytes)
            order[used++] = (struct ranked){ (lifetimes[i].bytes + ALIGN - 1) / ALIGN * ALIGN, i };
    }
    qsort(order, used, sizeof *order, largest_first);
    for (uint32_t k = 0; k < used; k++) {
        struct lifetime *s = &lifetimes[order[k].lifetime];
        s->offset = lowest_offset(lifetimes, order, k, s);
        if (s->offset + order[k].bytes > end) end = s->offset + order[k].bytes;
    }
    free(order);
    *total = end;
    return ST_OK;
}
