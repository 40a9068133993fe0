/* free_list.h - pieces of one block of memory, taken and returned in any order. First fit keeps the
 * free memory together.
 *
 * It handles offsets alone: the block may be on any device. At most FREE_LIST_MOST pieces at a
 * time; nothing is allocated. One thread at a time. */
#ifndef DAVID_DAVI_FREE_LIST_H
#define DAVID_DAVI_FREE_LIST_H

#include <stdbool.h>
#include <stddef.h>

enum { FREE_LIST_MOST = 1024, FREE_LIST_ALIGN = 256 };

struct free_list {
    size_t bytes; /* of the block */
    size_t n;
    struct taken {
        size_t at, bytes;
    } taken[FREE_LIST_MOST]; /* ascending */
};

/* A piece of `bytes` at *at, a multiple of FREE_LIST_ALIGN. False: none is free. */
bool free_list_take(struct free_list *s, size_t bytes, size_t *at);
void free_list_return(struct free_list *s, size_t at); /* what free_list_take gave */

#endif
