/* spans.h - pieces of one stretch of memory, given out and taken back in any order: first fit, so that what is free stays together.
 *
 * Only offsets: the memory may be anywhere. At most SPANS_MOST pieces at a time; nothing is allocated. One thread at a time. */
#ifndef DAVID_DAVI_SPANS_H
#define DAVID_DAVI_SPANS_H

#include <stdbool.h>
#include <stddef.h>

enum { SPANS_MOST = 1024, SPAN_ALIGN = 256 };

struct spans {
    size_t bytes; /* of the stretch */
    size_t n;
    struct span {
        size_t at, bytes;
    } taken[SPANS_MOST]; /* ascending */
};

/* A piece of `bytes` at *at, a multiple of SPAN_ALIGN. False: there is no room. */
bool spans_take(struct spans *s, size_t bytes, size_t *at);
void spans_give(struct spans *s, size_t at); /* what spans_take gave */

#endif
