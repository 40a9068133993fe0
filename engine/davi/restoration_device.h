/* restoration_device.h - a restoration whose images lie in a device's memory.
 *
 * The measurement is sent once and what is returned comes back once; the rows between stay on the
 * device. The bytes are those of the host. A restoration is placed here where all of its rows run
 * on one back end, that back end has its operator, and the pool has memory for it.
 * Threads: the thread that drives the back end; any for restoration_returned_*. */
#ifndef DAVID_DAVI_RESTORATION_DEVICE_H
#define DAVID_DAVI_RESTORATION_DEVICE_H

#include "engine/davi/restoration.h"

/* Takes pieces of the pool and moves the accumulators of `r` there; no row of it has been
 * extracted. False: the pool has too little memory, or the back end lacks the operator. */
bool restoration_move_to_device(struct restoration *r, struct image_pool *pool);

/* Before the first row is extracted; later calls do nothing. The host's memory that is read may
 * change after the wait for the stream slot. */
enum status restoration_send(struct restoration *r, uint32_t stream_slot, struct error *err);
/* Row i of the stream slot has been restored and checked (image_pool_check). x0: [tile][tile][3],
 * the device's. Samples come in ascending order, else the restoration fails (ST_OK: the batch does
 * not). After the last row the result is computed and copied to the host. */
enum status restoration_put_on_device(struct restoration *r, uint64_t row, uint32_t stream_slot,
                                      uint32_t i, const float *x0, struct error *err);

/* On the host, once every row is back and the stream slot of the last has been waited for. */
enum returned_number { RESIDUAL_SUM, RESIDUAL_COUNT, STD_LARGEST, RETURNED_NUMBERS };
double restoration_returned_number(const struct restoration *r, enum returned_number which);
const void *restoration_returned_mean(const struct restoration *r);
const void *restoration_returned_std(const struct restoration *r);
const void *restoration_returned_sample(const struct restoration *r, uint32_t sample);

/* Restores a small image of every task and depth, so that the back end loads its kernels before the
 * first request. */
enum status restorations_warm(struct image_pool *pool, struct error *err);

#endif
