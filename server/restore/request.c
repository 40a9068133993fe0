#include "server/restore/request.h"

#include <inttypes.h>

#include "server/clock.h"
#include "server/restore/restore.h"

enum status request_check(struct request *r, struct error *err)
{
    if (atomic_load(&r->is_cancelled))
        return error_set(err, ST_CANCELLED, "the client has closed its connection");
    /* Before the deadline: an abort expires everything that waits. */
    if (atomic_load(&r->service->server.is_aborting))
        return error_set(err, ST_DRAINING,
                         "the service is shutting down: drain_timeout has passed");
    if (r->item.is_expired || (r->deadline_ns != NO_DEADLINE && clock_now_ns() >= r->deadline_ns))
        return error_set(err, ST_DEADLINE,
                         "not done within the deadline (deadline_ms, or default_deadline = %" PRIu64
                         " ms)",
                         r->service->server.config->default_deadline / NS_PER_MS);
    return ST_OK;
}

void request_release(struct request *r, uint64_t bytes)
{
    restoration_free(r->restoration);
    image_done(&r->image);
    image_done(&r->mask);
    models_release(r->served);
    r->restoration = NULL;
    r->served = NULL;
    reservation_keep(&r->call->reservation, bytes);
}

void request_fail(struct request *r, const struct error *err)
{
    struct reply reply = { 0 };
    reply_problem(&reply, err, r->call->request_id, server_retry_after(&r->service->server));
    http_drop_body(r->call);
    request_release(r, 0);
    http_reply(r->call, &reply);
}

void restore_abandon(void *service, struct http_call *call)
{
    (void)service;
    http_drop_body(call);
    request_release(call->user_data, 0);
}

void restore_cancel(void *service, struct http_call *call)
{
    struct service *v = service;
    struct request *r = call->user_data;
    struct error err = { 0 };
    atomic_store(&r->is_cancelled, true);
    if (!queue_drop(v->queue, &r->item)) return;
    (void)request_check(r, &err);
    request_fail(r, &err);
}

void restore_tick(void *service, uint64_t now_ns)
{
    struct service *v = service;
    const bool is_aborting = atomic_load(&v->server.is_aborting);
    /* An abort is the deadline of everything that waits. */
    uint64_t until_ns = is_aborting ? NO_DEADLINE : now_ns;
    for (struct queue_item *item; (item = queue_expired(v->queue, until_ns)) != NULL;) {
        struct error err = { 0 };
        struct request *r = (struct request *)item;
        if (is_aborting) item->is_expired = false;
        if (!request_check(r, &err)) (void)error_set(&err, ST_DEADLINE, "the deadline has passed");
        request_fail(r, &err);
    }
}
