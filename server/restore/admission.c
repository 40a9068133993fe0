/* Admission: what the headers and the parameters of a request decide, before its body is read or
 * decoded. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/messages/multipart.h"
#include "server/clock.h"
#include "server/restore/request.h"
#include "server/restore/restore.h"

static enum status find_model(struct request *r, struct error *err)
{
    struct parameters *p = &r->parameters;
    enum status s =
        models_acquire(r->service->models, p->has_model ? p->model : NULL, &r->served, err);
    if (s) return s;
    const struct model_info *info = model_describe(r->served->model);
    if (p->has_task ? model_find_task(r->served->model, p->task) != NULL : info->n_tasks == 1)
        return ST_OK;
    char list[MODEL_MAX_TASKS * (TASK_NAME_MAX + 2)] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < info->n_tasks && n < sizeof list; i++)
        n +=
            (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", info->tasks[i].name);
    if (p->has_task)
        return error_set(err, ST_UNKNOWN_TASK,
                         "task = '%s' is not offered by model %s; it offers %s", p->task,
                         r->served->name, list);
    return error_set(err, ST_UNKNOWN_TASK, "task is missing; model %s offers %s", r->served->name,
                     list);
}

const struct model_task *request_task(const struct request *r)
{
    return r->params.task ? model_find_task(r->served->model, r->params.task)
                          : &model_describe(r->served->model)->tasks[0];
}

enum status request_complete(struct request *r, struct error *err)
{
    struct parameters *p = &r->parameters;
    const struct config *c = r->service->server.config;
    enum status s = parameters_complete(p, r->wants_json, c->max_samples, err);
    if (s) return s;
    r->params = (struct restore_params){ .task = p->has_task ? p->task : NULL,
                                         .seed = p->seed,
                                         .h = p->h,
                                         .sigma = p->sigma,
                                         .level = p->level,
                                         .samples = p->samples,
                                         .output = p->output,
                                         .keep_samples = p->output == OUTPUT_ALL };
    uint64_t within = p->deadline_ms ? p->deadline_ms * NS_PER_MS : c->default_deadline;
    r->deadline_ns = within ? r->call->started_ns + within : NO_DEADLINE;
    s = find_model(r, err);
    return s ? s : restore_params_check(&r->params, r->served->model, err);
}

/* The parameters of the query; those of a form come with its body. */
static enum status admit(struct request *r, struct error *err)
{
    const struct config *c = r->service->server.config;
    enum status s = parameters_read_query(&r->parameters, r->call->query, err);
    if (!s && !r->is_multipart) s = request_complete(r, err);
    if (!s && queue_is_full(r->service->queue))
        s = error_set(err, ST_QUEUE_FULL, "as many requests wait as max_queue = %" PRIu64 " allows",
                      c->max_queue);
    return s;
}

enum status restore_begin(void *service, struct http_call *call, struct error *err)
{
    struct request *r = calloc(1, sizeof *r);
    if (!r) return error_set(err, ST_NO_MEMORY_NOW, "no memory for another request");
    r->service = service;
    r->call = call;
    r->deadline_ns = NO_DEADLINE;
    r->format = accept_choose(&r->wants_json, call->accept);
    r->is_multipart = multipart_is(call->content_type);
    parameters_init(&r->parameters);
    enum status s = admit(r, err);
    if (s) {
        request_release(r, 0);
        free(r);
        return s;
    }
    call->user_data = r;
    return ST_OK;
}

void restore_submit(void *service, struct http_call *call)
{
    struct service *v = service;
    struct request *r = call->user_data;
    struct error err = { 0 };
    if (queue_reserve(v->queue, &err)) {
        request_fail(r, &err);
        return;
    }
    r->task.run = decode_run;
    codec_pool_push(v->codecs, &r->task, false);
}
