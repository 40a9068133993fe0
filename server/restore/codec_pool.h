/* codec_pool.h - workers that decode and encode, so that neither the HTTP threads nor those of
 * the engine do.
 *
 * A task is embedded in its owner and runs once; urgent ones (encoding: it ends a request and
 * frees memory) run first. Any thread pushes. codec_pool_free() runs the tasks that are left,
 * then joins. */
#ifndef DAVID_SERVER_RESTORE_CODEC_POOL_H
#define DAVID_SERVER_RESTORE_CODEC_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/error.h"

struct codec_task {
    struct codec_task *next;
    void (*run)(struct codec_task *t);
};

struct codec_pool;
enum status codec_pool_new(struct codec_pool **out, size_t workers, struct error *err);
void codec_pool_free(struct codec_pool *p); /* takes NULL */
void codec_pool_push(struct codec_pool *p, struct codec_task *t, bool is_urgent);

#endif
