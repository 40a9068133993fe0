/* image_pool.h - restorations whose images live in a back end's memory: cut, blended, folded and finished there.
 *
 * What comes from the client goes over once, what is returned comes back once, and the rows between stay; the bytes are those of the host
 * (restoration.c), which is where a restoration stays that would not be whole on one back end, or for which there is no room. A image_pool
 * is two stretches of memory taken when it is opened, one of the back end's and one of the host's (pinned, for what comes back): nothing is
 * allocated while serving. A restoration settles when its first row is begun, and leaves when it is freed.
 * Threads: image_pool_release from any; the rest from whoever drives the back end. */
#ifndef DAVID_DAVI_IMAGE_POOL_H
#define DAVID_DAVI_IMAGE_POOL_H

#include <pthread.h>

#include "engine/davi/free_list.h"
#include "engine/davi/sampler.h"

struct restoration;

struct image_pool {
    struct backend *backend;
    uint32_t rows; /* of a batch execution, at most */
    pthread_mutex_t lock;
    struct free_list device_free, host_free; /* under the lock */
    char *device, *host;
    /* Of each stream_slot's rows: whether one is not finite. [rows] */
    uint32_t *bad[SAMPLER_STREAM_SLOTS], *host_bad[SAMPLER_STREAM_SLOTS];
};

/* What comes back of a restoration: byte offsets, the same in both memories. */
struct returned {
    size_t numbers, mean, std, samples, total; /* numbers: enum returned_number, F64 */
};
enum returned_number { RESIDUAL_SUM, RESIDUAL_COUNT, STD_LARGEST, RETURNED_NUMBERS };

/* A restoration that lives there. Pointers but `back` are the back end's memory. */
struct placement {
    struct image_pool *pool; /* NULL: it does not */
    char *device, *back;     /* its pieces; `back` is the host's */
    char *pixels, *tables;   /* as given; r->tables */
    int64_t *acc, *sum, *sum2;
    float *mean, *ax, *scratch;
    double *partial;
    char *out; /* struct returned */
    struct returned returned;
    bool has_arrived;    /* its images have been sent */
    uint32_t sample;     /* whose tiles are blended */
    uint64_t tiles_left; /* of it */
};

/* *out is written only where there is a image_pool now: ST_OK alone may be of a back end that cannot hold images. rows: of a batch execution, at most. */
enum status image_pool_open(struct image_pool **out, struct backend *b, uint32_t rows,
                            struct error *err);
void image_pool_close(struct image_pool *h); /* takes NULL; nobody lives there any more */

/* Takes room for `r`, which has none of its rows in an engine. False: there is too little, or the
 * back end lacks the operator. */
bool image_pool_place(struct image_pool *h, struct restoration *r);
void image_pool_release(struct restoration *r); /* also where it does not live anywhere */

/* The network's input for a row, as restoration_extract. y_in: the back end's. What it needs from the host's memory may change once the stream_slot has been waited for. */
enum status image_pool_extract(struct restoration *r, uint64_t row, uint32_t stream_slot,
                               float *y_in, struct error *err);
/* Row i of the stream_slot has been restored: x0: [tile][tile][3], the back end's. Rows come by ascending samples, or the restoration fails. With the last of all the result is made and
 * sent for. */
enum status image_pool_put(struct restoration *r, uint64_t row, uint32_t stream_slot, uint32_t i,
                           const float *x0, struct error *err);
/* Before image_pool_put: looks at rows first .. first + n of the stream_slot; x0: [n] of them. */
enum status image_pool_check(struct image_pool *h, uint32_t stream_slot, uint32_t first, uint32_t n,
                             const float *x0, size_t row_floats, struct error *err);
/* After the last of a stream_slot's rows: sends for what image_pool_check found. */
enum status image_pool_report(struct image_pool *h, uint32_t stream_slot, uint32_t n,
                              struct error *err);
/* Once the stream_slot has been waited for. */
bool image_pool_is_bad(const struct image_pool *h, uint32_t stream_slot, uint32_t i);

/* Of a restoration whose rows are all back: on the host. */
double image_pool_number(const struct restoration *r, enum returned_number which);
const void *image_pool_mean(const struct restoration *r);
const uint8_t *image_pool_std(const struct restoration *r);
const void *image_pool_sample(const struct restoration *r, uint32_t sample);

#endif
