/* restore.h - the way of one POST /restore: admission, decoding, jobs, encoding, answer.
 *
 * restore_begin() sees the headers; restore_submit() takes the suspended call with its body to the codec workers, from
 * where it goes to the queue, the batcher and back. Each request has one owner at a time, and its owner answers it once. */
#ifndef DAVID_SERVER_RESTORE_H
#define DAVID_SERVER_RESTORE_H

#include "server/http.h"
#include "server/queue.h"

enum status restore_begin(struct server *s, struct http_call *call, struct error *err);
void restore_submit(struct server *s, struct http_call *call);
void restore_abandon(struct server *s, struct http_call *call, bool has_left);

void restore_jobs_done(struct queue_item *item); /* the batcher's */
/* The watch's: a reference under its lock, then the client's going is acted upon. */
void *restore_disconnected(void *call);
void restore_cancel(void *request);
/* Answers what waits past its deadline; all that waits where the server is aborting. */
void restore_tick(struct server *s, uint64_t now_ns);
void restore_count_refusal(struct server *s, enum status why);

#endif
