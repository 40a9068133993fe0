/* request.h - one restoration request, and how it ends.
 *
 * A request is the user_data of its call: http frees the struct, request_release() frees what it
 * holds. Whoever takes it out of the queue owns it. The owner ends it with request_fail() or
 * with http_reply(), after which it must not be touched. */
#ifndef DAVID_SERVER_RESTORE_REQUEST_H
#define DAVID_SERVER_RESTORE_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>

#include "engine/engine.h"
#include "server/http/http.h"
#include "server/queue.h"
#include "server/restore/codec_pool.h"
#include "server/restore/parameters.h"
#include "server/service.h"

struct request {
    struct queue_item item; /* first: the batcher and the queue know only this */
    struct codec_task task; /* decoding, then encoding */
    struct service *service;
    struct http_call *call;
    atomic_bool is_cancelled; /* set by the watch's thread, beside the owner */
    bool is_multipart, wants_json;
    enum image_format format; /* of the answer, where it is one image */
    struct parameters parameters;
    struct restore_params params;
    struct served_model *served;
    struct image image, mask;
    struct restoration *restoration;
    uint64_t peak_bytes; /* of call->reservation, beside the body's */
    uint64_t deadline_ns, queued_ns, decode_ns, encode_ns, jobs_done_ns;
};

/* Why the work on a request should stop: ST_CANCELLED, ST_DRAINING, ST_DEADLINE. ST_OK: it
 * should go on. */
enum status request_check(struct request *r, struct error *err);
/* Frees images, restoration and model reference, and gives the memory back but for `bytes` that
 * the reply holds. */
void request_release(struct request *r, uint64_t bytes);
/* Releases the request and replies with the problem. */
void request_fail(struct request *r, const struct error *err);

/* The task that was asked for, or the only one of the model. */
const struct model_task *request_task(const struct request *r);
/* All parameters are known: checks them together and finds model and task. */
enum status request_complete(struct request *r, struct error *err);

void decode_run(struct codec_task *t); /* decode.c: body -> restoration -> queue */
void encode_run(struct codec_task *t); /* reply.c: restoration -> reply */

#endif
