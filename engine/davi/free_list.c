#include "engine/davi/free_list.h"

#include <string.h>

bool free_list_take(struct free_list *s, size_t bytes, size_t *at)
{
    if (s->n == FREE_LIST_MOST || bytes > s->bytes) return false;
    const size_t wants = (bytes + FREE_LIST_ALIGN - 1) / FREE_LIST_ALIGN * FREE_LIST_ALIGN;
    size_t free_from = 0, i = 0;
    while (i < s->n && s->taken[i].at - free_from < wants) {
        free_from = s->taken[i].at + s->taken[i].bytes;
        i++;
    }
    /* The last piece may be rounded up beyond the end. */
    if (i == s->n && (free_from > s->bytes || s->bytes - free_from < bytes)) return false;
    memmove(s->taken + i + 1, s->taken + i, (s->n - i) * sizeof *s->taken);
    s->taken[i] = (struct taken){ free_from, wants };
    s->n++;
    *at = free_from;
    return true;
}

void free_list_return(struct free_list *s, size_t at)
{
    size_t i = 0;
    while (i < s->n && s->taken[i].at != at)
        i++;
    if (i == s->n) return;
    s->n--;
    memmove(s->taken + i, s->taken + i + 1, (s->n - i) * sizeof *s->taken);
}
