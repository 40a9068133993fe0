/* image_pool.h - memory for images on a device, and flags for rows that are not finite.
 *
 * A pool is two blocks of memory, taken when it is opened: one of the back end's, one of the host's
 * (pinned, for what comes back). A restoration takes a piece of both before its first row and
 * returns them when it is freed, so serving allocates nothing. The restoration lays out the pieces
 * (restoration_device.h).
 * Threads: image_pool_return from any; the rest from the thread that drives the back end. */
#ifndef DAVID_DAVI_IMAGE_POOL_H
#define DAVID_DAVI_IMAGE_POOL_H

#include <pthread.h>

#include "engine/davi/free_list.h"
#include "engine/davi/sampler.h"

struct image_pool {
    struct backend *backend;
    uint32_t rows; /* of a batch execution, at most */
    pthread_mutex_t lock;
    struct free_list device_free, host_free; /* under the lock */
    char *device, *host;
    /* [rows] of each stream slot: 1 where the row is not finite; and a copy on the host. */
    uint32_t *bad[SAMPLER_STREAM_SLOTS], *host_bad[SAMPLER_STREAM_SLOTS];
};

/* Memory of one restoration. */
struct image_pool_pieces {
    struct image_pool *pool; /* NULL: none is taken */
    char *device, *host;
};

/* rows: of a batch execution, at most. *out stays as it is where the back end has no image ops or
 * cannot copy beside computing (ST_OK). */
enum status image_pool_open(struct image_pool **out, struct backend *b, uint32_t rows,
                            struct error *err);
void image_pool_close(struct image_pool *p); /* takes NULL; every piece has been returned */

/* False: the free memory is too little. Pieces are aligned to FREE_LIST_ALIGN bytes. */
bool image_pool_take(struct image_pool *p, size_t device_bytes, size_t host_bytes,
                     struct image_pool_pieces *out);
void image_pool_return(struct image_pool_pieces *pieces); /* takes a zeroed struct */

/* Looks for values that are not finite in rows first .. first + n of the stream slot;
 * x0: [n][row_floats], the back end's. */
enum status image_pool_check(struct image_pool *p, uint32_t stream_slot, uint32_t first, uint32_t n,
                             const float *x0, size_t row_floats, struct error *err);
/* After the last of a stream slot's rows: copies the flags to the host. */
enum status image_pool_report(struct image_pool *p, uint32_t stream_slot, uint32_t n,
                              struct error *err);
/* After the wait for the stream slot. */
bool image_pool_is_bad(const struct image_pool *p, uint32_t stream_slot, uint32_t i);

#endif
