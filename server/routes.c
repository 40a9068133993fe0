#include "server/routes.h"

#include "proto/messages/messages.h"
#include "proto/messages/openapi.h"
#include "server/restore/restore.h"
#include "server/scrape.h"
#include "server/service.h"

static void answer_health(enum status (*ask)(struct server *s, struct error *err), struct server *s,
                          const struct http_call *call, struct reply *r)
{
    struct error err = { 0 };
    size_t len = 0;
    if (ask(s, &err)) {
        reply_problem(r, &err, call->request_id, server_retry_after(s));
        return;
    }
    char *text = message_health(&len, "ok");
    reply_json(r, 200, text, len);
}

static void answer_live(void *context, const struct http_call *call, struct reply *r)
{
    struct service *v = context;
    answer_health(server_alive, &v->server, call, r);
}

static void answer_ready(void *context, const struct http_call *call, struct reply *r)
{
    struct service *v = context;
    answer_health(server_ready, &v->server, call, r);
}

static void answer_version(void *context, const struct http_call *call, struct reply *r)
{
    (void)call;
    const struct service *v = context;
    const struct engine_facts *f = engine_describe(v->engines[0]);
    const struct message_version m = { DAVID_VERSION, f->backend, f->dtype,
                                       f->isa,        f->reason,  f->threads };
    size_t len = 0;
    char *text = message_version(&len, &m);
    reply_json(r, 200, text, len);
}

static void answer_models(void *context, const struct http_call *call, struct reply *r)
{
    (void)call;
    const struct service *v = context;
    size_t len = 0;
    char *text = models_json(v->models, &len);
    reply_json(r, 200, text, len);
}

static void answer_openapi(void *context, const struct http_call *call, struct reply *r)
{
    (void)context, (void)call;
    r->code = 200;
    r->type = "application/json";
    r->body = (void *)(uintptr_t)openapi_json;
    r->len = openapi_json_len;
    r->is_static = true;
}

static void answer_metrics(void *context, const struct http_call *call, struct reply *r)
{
    (void)call;
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (f) {
        scrape(context, f);
        (void)fclose(f);
    }
    reply_json(r, 200, text, len);
    r->type = "text/plain; version=0.0.4; charset=utf-8";
}

const struct http_route routes[] = {
    { .path = "/restore",
      .method = "POST",
      .begin = restore_begin,
      .submit = restore_submit,
      .abandon = restore_abandon,
      .cancel = restore_cancel,
      .tick = restore_tick },
    { .path = "/livez", .method = "GET", .answer = answer_live },
    { .path = "/readyz", .method = "GET", .answer = answer_ready },
    { .path = "/healthz", .method = "GET", .answer = answer_ready },
    { .path = "/metrics", .method = "GET", .answer = answer_metrics },
    { .path = "/version", .method = "GET", .answer = answer_version },
    { .path = "/v1/models", .method = "GET", .answer = answer_models },
    { .path = "/openapi.json", .method = "GET", .answer = answer_openapi },
};
const size_t n_routes = sizeof routes / sizeof routes[0];
