#include "engine/davi/spans.h"

#include <string.h>

bool spans_take(struct spans *s, size_t bytes, size_t *at)
{
    if (s->n == SPANS_MOST || bytes > s->bytes) return false;
    const size_t wants = (bytes + SPAN_ALIGN - 1) / SPAN_ALIGN * SPAN_ALIGN;
    size_t free_from = 0, i = 0;
    while (i < s->n && s->taken[i].at - free_from < wants) {
        free_from = s->taken[i].at + s->taken[i].bytes;
        i++;
    }
    /* The last piece may be rounded up beyond the end. */
    if (i == s->n && (free_from > s->bytes || s->bytes - free_from < bytes)) return false;
    memmove(s->taken + i + 1, s->taken + i, (s->n - i) * sizeof *s->taken);
    s->taken[i] = (struct span){ free_from, wants };
    s->n++;
    *at = free_from;
    return true;
}

void spans_give(struct spans *s, size_t at)
{
    size_t i = 0;
    while (i < s->n && s->taken[i].at != at)
        i++;
    if (i == s->n) return;
    s->n--;
    memmove(s->taken + i, s->taken + i + 1, (s->n - i) * sizeof *s->taken);
}
