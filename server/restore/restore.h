/* restore.h - the path of POST /restore: admission, decoding, tile jobs, encoding, reply.
 *
 * restore_begin() judges the headers. restore_submit() gives the call with its body to the codec
 * workers; from there it goes to the queue, to a batcher, and back to the codec workers. A
 * request has one owner at a time, and its owner replies to it once. The first five are the
 * call-backs of its route (server/http/http.h); their context is the struct service. */
#ifndef DAVID_SERVER_RESTORE_H
#define DAVID_SERVER_RESTORE_H

#include "server/http/http.h"
#include "server/queue.h"

enum status restore_begin(void *service, struct http_call *call, struct error *err);
void restore_submit(void *service, struct http_call *call);
void restore_abandon(void *service, struct http_call *call);
/* Replies to a request that waits in the queue; one that is elsewhere ends at its next
 * request_check(). */
void restore_cancel(void *service, struct http_call *call);
/* Replies to what waits past its deadline; to all that waits where the server is aborting. */
void restore_tick(void *service, uint64_t now_ns);

/* The batcher's call-back: no tile job of the item is in the queue or in an engine any more. */
void restore_jobs_done(struct queue_item *item);

#endif
