/* The reply: from a restoration whose tile jobs are done to the bytes that its client gets. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/images/codec.h"
#include "proto/messages/messages.h"
#include "server/clock.h"
#include "server/restore/request.h"
#include "server/restore/restore.h"

static enum status encode_image(struct request *r, enum output_kind kind, uint32_t sample,
                                enum image_format format, void **bytes, size_t *len,
                                struct error *err)
{
    struct image img = { 0 };
    struct encode_options o = { format, -1, 0 };
    enum status s = restoration_image(r->restoration, kind, sample, &img, err);
    if (!s) s = codec_encode(bytes, len, &img, &o, err);
    image_done(&img);
    return s;
}

static enum status encode_all(struct request *r, struct message_restored *m, struct reply *reply,
                              struct error *err)
{
    uint32_t n = r->params.samples;
    enum status s = ST_OK;
    struct message_image *p = calloc(n + 2u, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %u images", n);
    uint32_t images = n > 1 ? n + 2 : n; /* one sample has neither mean nor spread */
    for (uint32_t i = 0; !s && i < images; i++) {
        void *bytes = NULL;
        enum output_kind kind = i < n ? OUTPUT_IMAGE : i == n ? OUTPUT_MEAN : OUTPUT_STD;
        s = encode_image(r, kind, i < n ? i : 0, IMAGE_PNG, &bytes, &p[i].len, err);
        p[i].bytes = bytes;
    }
    if (!s) {
        m->images = p;
        m->n_images = n;
        m->mean = p[n];
        m->std = p[n + 1];
        reply->type = "application/json";
        reply->body = message_restored(&reply->len, m);
        if (!reply->body) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for the answer");
    }
    for (uint32_t i = 0; i < n + 2u; i++)
        free((void *)(uintptr_t)p[i].bytes);
    free(p);
    return s;
}

static enum status encode(struct request *r, struct reply *reply, struct error *err)
{
    uint64_t from = clock_now_ns();
    const struct restoration_result *f = restoration_facts(r->restoration);
    const struct parameters *p = &r->parameters;
    const struct model_task *task = request_task(r);
    char model[MODEL_NAME_MAX + 16];
    (void)snprintf(model, sizeof model, "%s@%.12s", r->served->name,
                   model_digest(r->served->model));
    enum status s;
    if (p->output == OUTPUT_ALL) {
        struct message_restored m = {
            .request_id = r->call->request_id,
            .model = model,
            .task = task->name,
            .seed = p->seed,
            .h = f->h,
            .sigma = f->sigma,
            .level = f->level,
            .std_scale = f->std_scale,
            .residual_rms = f->residual_rms,
            .residual_expected = f->sigma,
            .width = f->width,
            .height = f->height,
        };
        s = encode_all(r, &m, reply, err);
    } else {
        reply->type = image_formats[r->format].media_type;
        s = encode_image(r, p->output, 0, r->format, &reply->body, &reply->len, err);
    }
    if (s) return s;
    r->encode_ns = clock_now_ns() - from;
    reply->code = 200;
    reply_header(reply, "David-Model", "%s", model);
    reply_header(reply, "David-Seed", "%" PRIu64, p->seed);
    reply_header(reply, "David-H", "%g", f->h);
    if (p->sigma > 0 || task->sigma_range[0] < task->sigma_range[1])
        reply_header(reply, "David-Sigma", "%g", f->sigma);
    if (p->level > 0 || task->level_range[0] < task->level_range[1])
        reply_header(reply, "David-Level", "%g", f->level);
    reply_header(reply, "David-Residual-Rms", "%.6g", f->residual_rms);
    reply_header(reply, "David-Residual-Expected", "%g", f->sigma);
    if (p->output == OUTPUT_STD || p->output == OUTPUT_ALL)
        reply_header(reply, "David-Std-Scale", "%.9g", f->std_scale);
    reply_header(reply, "Server-Timing",
                 "decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f, encode;dur=%.3f",
                 (double)r->decode_ns * 1e-6,
                 (double)clock_since_ns(r->queued_ns, r->item.first_ns) * 1e-6,
                 (double)(r->jobs_done_ns - r->item.first_ns) * 1e-6, (double)r->encode_ns * 1e-6);
    return ST_OK;
}

void encode_run(struct codec_task *t)
{
    struct request *r = (struct request *)((char *)t - offsetof(struct request, task));
    struct error err = { 0 };
    struct reply reply = { 0 };
    enum status s = request_check(r, &err);
    if (!s) s = encode(r, &reply, &err);
    if (s) {
        request_fail(r, &err);
        return;
    }
    /* The encoded bytes stay reserved until the client has read them. */
    request_release(r, reply.len);
    http_reply(r->call, &reply);
}

void restore_jobs_done(struct queue_item *item)
{
    struct request *r = (struct request *)item;
    struct error err = { 0 };
    r->jobs_done_ns = clock_now_ns();
    metric_time(&r->service->server.metrics.queue_duration,
                clock_since_ns(r->queued_ns, item->first_ns));
    metric_time(&r->service->server.metrics.compute_duration, r->jobs_done_ns - item->first_ns);
    enum status s = request_check(r, &err);
    if (!s && item->failure)
        s = error_set(&err, item->failure, "the engine could not restore this image: %s",
                      status_title(item->failure));
    if (!s && !restoration_is_done(r->restoration))
        s = error_set(&err, ST_DRAINING, "the service is shutting down");
    if (s) {
        request_fail(r, &err);
        return;
    }
    r->task.run = encode_run;
    codec_pool_push(r->service->codecs, &r->task, true);
}
