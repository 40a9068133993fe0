#include "server/restore.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/images/codec.h"
#include "proto/messages/messages.h"
#include "proto/messages/multipart.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/parameters.h"
#include "server/server.h"

struct request {
    struct queue_item item; /* first: the batcher and the queue know only this */
    struct codec_task task;
    struct server *server;
    struct http_call *call; /* ours until the answer */
    atomic_uint references; /* the way's own, and the watch's while it cancels */
    atomic_bool is_cancelled;
    bool is_multipart, wants_json;
    enum image_format format; /* of the answer, where it is one image */
    struct parameters parameters;
    struct restore_params params;
    struct served_model *served;
    struct image image, mask;
    struct restoration *restoration;
    uint64_t reserved; /* bytes, beside the body's */
    uint64_t deadline_ns, queued_ns, decode_ns, encode_ns, jobs_done_ns;
};

static void unreference(struct request *r, unsigned n)
{
    if (atomic_fetch_sub(&r->references, n) == n) free(r);
}

/* Gives back everything that the way holds, and n references: the way's own, and the watch's where that is the caller. The
 * struct itself lives until the last of them. */
static void release(struct request *r, unsigned n)
{
    struct server *s = r->server;
    restoration_free(r->restoration);
    image_done(&r->image);
    image_done(&r->mask);
    models_release(r->served);
    memory_release(&s->memory, r->reserved);
    r->reserved = 0;
    unreference(r, n);
    atomic_fetch_sub(&s->working, 1);
}

void restore_count_refusal(struct server *s, enum status why)
{
    metric_number *n = s->metrics.rejected;
    if (why == ST_QUEUE_FULL) metric_add(&n[REJECTED_QUEUE_FULL], 1);
    if (why == ST_NO_MEMORY_NOW) metric_add(&n[REJECTED_MEMORY], 1);
    if (why == ST_DRAINING) metric_add(&n[REJECTED_DRAINING], 1);
    if (why == ST_DEADLINE) metric_add(&n[REJECTED_DEADLINE], 1);
    if (why == ST_CANCELLED) metric_add(&s->metrics.cancelled, 1);
}

static void answer_problem(struct request *r, const struct error *err)
{
    struct reply reply = { 0 };
    struct server *s = r->server;
    restore_count_refusal(s, err->status);
    reply_problem(&reply, err, r->call->request_id, server_retry_after(s));
    http_reply(r->call, &reply);
}

static void fail(struct request *r, const struct error *err)
{
    answer_problem(r, err);
    release(r, 1);
}

/* Why the work of a request should not go on. */
static enum status check_going(struct request *r, struct error *err)
{
    if (atomic_load(&r->is_cancelled))
        return error_set(err, ST_CANCELLED, "the client has closed its connection");
    /* Before the deadline: aborting expires all that waits. */
    if (atomic_load(&r->server->is_aborting))
        return error_set(err, ST_DRAINING,
                         "the service is shutting down: drain_timeout has passed");
    if (r->item.is_expired || (r->deadline_ns != NO_DEADLINE && clock_now_ns() >= r->deadline_ns))
        return error_set(err, ST_DEADLINE,
                         "not done within the deadline (deadline_ms, or default_deadline = %" PRIu64
                         " ms)",
                         r->server->config->default_deadline / NS_PER_MS);
    return ST_OK;
}

/* ---- from the headers ---- */

static enum status find_model(struct request *r, struct error *err)
{
    struct parameters *p = &r->parameters;
    enum status s =
        models_acquire(r->server->models, p->has_model ? p->model : NULL, &r->served, err);
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

/* The task asked for, or the only one. */
static const struct model_task *task_of(const struct request *r)
{
    return r->params.task ? model_find_task(r->served->model, r->params.task)
                          : &model_describe(r->served->model)->tasks[0];
}

static enum status complete(struct request *r, struct error *err)
{
    struct parameters *p = &r->parameters;
    const struct config *c = r->server->config;
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

static enum status admit(struct server *s, struct http_call *call, struct error *err)
{
    const struct config *c = s->config;
    enum status st = ST_OK;
    if (atomic_load(&s->is_refusing))
        return error_set(err, ST_DRAINING, "the service is shutting down");
    if (!atomic_load(&s->is_ready))
        return error_set(err, ST_NOT_READY, "the models are still being loaded");
    if (atomic_load(&s->is_faulty))
        return error_set(err, ST_DEVICE_FAULT,
                         "the device has failed; the service needs a restart");
    if (call->has_length && call->length > c->max_body)
        return error_set(err, ST_BODY_TOO_LARGE,
                         "the body has %" PRIu64 " bytes, more than max_body = %" PRIu64,
                         call->length, c->max_body);
    struct request *r = calloc(1, sizeof *r);
    if (!r) return error_set(err, ST_NO_MEMORY_NOW, "no memory for another request");
    r->server = s;
    r->call = call;
    r->deadline_ns = NO_DEADLINE;
    atomic_init(&r->references, 1);
    r->format = accept_choose(&r->wants_json, call->accept);
    r->is_multipart = multipart_is(call->content_type);
    atomic_fetch_add(&s->working, 1);
    parameters_init(&r->parameters);
    st = parameters_read_query(&r->parameters, call->query, err);
    if (!st && !r->is_multipart) st = complete(r, err);
    if (!st && queue_is_full(s->queue))
        st = error_set(err, ST_QUEUE_FULL,
                       "as many requests wait as max_queue = %" PRIu64 " allows", c->max_queue);
    if (!st && call->has_length && call->length > 0) {
        st = memory_reserve(&s->memory, call->length, err);
        if (!st) call->body_reserved = call->length;
    }
    if (st) {
        release(r, 1);
        return st;
    }
    call->user_data = r;
    return ST_OK;
}

enum status restore_begin(struct server *s, struct http_call *call, struct error *err)
{
    /* Counted before is_refusing is read; the drain sets that before it reads the count: one of the two sees the other. */
    atomic_fetch_add(&s->active, 1);
    enum status st = admit(s, call, err);
    if (st) atomic_fetch_sub(&s->active, 1);
    return st;
}

void restore_abandon(struct server *s, struct http_call *call, bool has_left)
{
    if (has_left) {
        restore_count_refusal(s, ST_CANCELLED);
        log_event(LOG_LEVEL_INFO, "client left in its body", "request_id", LOG_TEXT,
                  call->request_id, "bytes", LOG_NUMBER, (double)call->body_len, NULL);
    }
    if (call->user_data) release(call->user_data, 1);
}

/* ---- decoding ---- */

struct bytes {
    const void *at;
    size_t len;
};

static bool name_is(const struct multipart_part *p, const char *name)
{
    return strlen(name) == p->name_len && memcmp(name, p->name, p->name_len) == 0;
}

static enum status read_form(struct request *r, struct bytes *image, struct bytes *mask,
                             struct error *err)
{
    char boundary[MULTIPART_MAX_BOUNDARY + 1];
    struct multipart form;
    enum status s = multipart_boundary(boundary, r->call->content_type, err);
    if (!s) s = multipart_parse(&form, boundary, r->call->body, r->call->body_len, err);
    for (size_t i = 0; !s && i < form.n; i++) {
        const struct multipart_part *p = &form.parts[i];
        struct bytes *to = name_is(p, "image") ? image : name_is(p, "mask") ? mask : NULL;
        if (!to)
            s = parameters_set(&r->parameters, p->name, p->name_len, p->bytes, p->len, err);
        else if (to->at)
            s = error_set(err, ST_BAD_PARAMETER, "the part %s is given more than once",
                          to == image ? "image" : "mask");
        else
            *to = (struct bytes){ p->bytes, p->len };
    }
    if (!s && !image->at) s = error_set(err, ST_BAD_PARAMETER, "the form has no part named image");
    return s ? s : complete(r, err);
}

/* Reserves what the request will hold at its peak, now that the header of its image is known. */
static enum status reserve_peak(struct request *r, const struct image_header *h, size_t mask_bytes,
                                bool has_mask, struct error *err)
{
    const struct config *c = r->server->config;
    const struct task_shape shape = task_shape(task_of(r)->name);
    uint64_t px = (uint64_t)h->width * h->height, out_px = px * shape.scale * shape.scale;
    if (px > c->max_pixels)
        return error_set(err, ST_TOO_MANY_PX,
                         "the image is %u x %u px, more than max_pixels = %" PRIu64, h->width,
                         h->height, c->max_pixels);
    if (out_px > c->max_output_pixels)
        return error_set(err, ST_TOO_MANY_PX,
                         "the restored image would have %" PRIu64
                         " px, more than max_output_pixels = %" PRIu64,
                         out_px, c->max_output_pixels);
    uint64_t images = r->params.output == OUTPUT_ALL ? r->params.samples + 2u : 1;
    /* A image without colours has one (and alpha) or gets three; each job of a PNG has a byte before it. */
    uint64_t channels = h->channels + (shape.gives_colour && h->channels < 3 ? 2u : 0u);
    uint64_t jobs = (uint64_t)h->height * shape.scale;
    uint64_t encoded = out_px * channels * (h->depth / 8) + jobs + 65536;
    uint64_t peak = restoration_peak_bytes(r->served->model, &r->params, h->width, h->height,
                                           h->channels, h->depth, has_mask);
    if (peak ==
        SIZE_MAX) { /* there can be no such restoration; the engine says why, of the size alone */
        struct image sized = {
            .width = h->width, .height = h->height, .channels = h->channels, .depth = h->depth
        };
        enum status why =
            restoration_new(&r->restoration, r->served->model, &r->params, &sized, NULL, err);
        return why ? why : error_set(err, ST_NEVER_FITS, "larger than can be counted");
    }
    /* An encoded image can be as large as its pixels, and base64 makes four bytes of three. */
    uint64_t output = r->params.output == OUTPUT_ALL ? images * encoded * 7 / 3 : encoded;
    uint64_t bytes = peak + h->decode_bytes + mask_bytes + output;
    enum status s = memory_reserve(&r->server->memory, bytes, err);
    if (!s) r->reserved = bytes;
    return s;
}

static enum status decode(struct request *r, struct error *err)
{
    struct bytes image = { 0 }, mask = { 0 };
    struct image_header head, mask_head = { 0 };
    uint64_t max_px = r->server->config->max_pixels;
    enum status s;
    if (r->is_multipart) {
        s = read_form(r, &image, &mask, err);
        if (s) return s;
    } else {
        image = (struct bytes){ r->call->body, r->call->body_len };
    }
    if (image.len == 0) return error_set(err, ST_UNKNOWN_FORMAT, "there is no image: 0 bytes");
    s = codec_probe(&head, image.at, image.len, err);
    if (!s && mask.at) {
        s = task_check_mask(task_of(r)->name, err);
        if (!s) s = codec_probe(&mask_head, mask.at, mask.len, err);
        if (!s && (mask_head.width != head.width || mask_head.height != head.height))
            s = error_set(err, ST_BAD_MASK, "the mask is %u x %u px, the image %u x %u",
                          mask_head.width, mask_head.height, head.width, head.height);
    }
    if (!s) s = reserve_peak(r, &head, mask_head.decode_bytes, mask.at != NULL, err);
    if (!s) s = codec_decode(&r->image, image.at, image.len, max_px, err);
    if (!s && mask.at) s = codec_decode(&r->mask, mask.at, mask.len, max_px, err);
    if (!s)
        s = restoration_new(&r->restoration, r->served->model, &r->params, &r->image,
                            mask.at ? &r->mask : NULL, err);
    return s;
}

static void drop_body(struct request *r)
{
    free(r->call->body);
    r->call->body = NULL;
    memory_release(&r->server->memory, r->call->body_reserved);
    r->call->body_reserved = 0;
}

static void run_decode(struct codec_task *t)
{
    struct request *r = (struct request *)((char *)t - offsetof(struct request, task));
    struct error err = { 0 };
    uint64_t from = clock_now_ns();
    enum status s = check_going(r, &err);
    if (!s) s = decode(r, &err);
    drop_body(r);
    r->queued_ns = clock_now_ns();
    r->decode_ns = r->queued_ns - from;
    if (!s) s = check_going(r, &err);
    if (!s) {
        r->item.model = r->served;
        r->item.deadline_ns = r->deadline_ns;
        r->item.jobs = restoration_tile_jobs(r->restoration);
        r->item.restoration = r->restoration;
        s = queue_push(r->server->queue, &r->item, &err);
        if (!s) return; /* the queue's, or already the batcher's */
    }
    queue_unreserve(r->server->queue);
    fail(r, &err);
}

void restore_submit(struct server *s, struct http_call *call)
{
    struct request *r = call->user_data;
    struct error err = { 0 };
    if (call->refusal.status) {
        err = call->refusal;
    } else if (queue_reserve(s->queue, &err) == ST_OK) {
        r->task.run = run_decode;
        codec_pool_push(s->codecs, &r->task, false);
        return;
    }
    drop_body(r);
    fail(r, &err);
}

/* ---- encoding ---- */

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
    const struct model_task *task = task_of(r);
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

static void run_encode(struct codec_task *t)
{
    struct request *r = (struct request *)((char *)t - offsetof(struct request, task));
    struct error err = { 0 };
    struct reply reply = { 0 };
    enum status s = check_going(r, &err);
    if (!s) s = encode(r, &reply, &err);
    if (s) {
        fail(r, &err);
        return;
    }
    /* The encoded bytes stay reserved until the client has taken them. */
    uint64_t kept = reply.len < r->reserved ? reply.len : r->reserved;
    reply.reserved = kept;
    r->reserved -= kept;
    http_reply(r->call, &reply);
    release(r, 1);
}

void restore_jobs_done(struct queue_item *item)
{
    struct request *r = (struct request *)item;
    struct error err = { 0 };
    r->jobs_done_ns = clock_now_ns();
    metric_time(&r->server->metrics.queue_duration, clock_since_ns(r->queued_ns, item->first_ns));
    metric_time(&r->server->metrics.compute_duration, r->jobs_done_ns - item->first_ns);
    enum status s = check_going(r, &err);
    if (!s && item->failure)
        s = error_set(&err, item->failure, "the engine could not restore this image: %s",
                      status_title(item->failure));
    if (!s && !restoration_is_done(r->restoration))
        s = error_set(&err, ST_DRAINING, "the service is shutting down");
    if (s) {
        fail(r, &err);
        return;
    }
    r->task.run = run_encode;
    codec_pool_push(r->server->codecs, &r->task, true);
}

/* ---- clients that go, deadlines, the end ---- */

void *restore_disconnected(void *call)
{
    struct request *r = ((struct http_call *)call)->user_data;
    atomic_fetch_add(&r->references, 1);
    return r;
}

void restore_cancel(void *request)
{
    struct request *r = request;
    atomic_store(&r->is_cancelled, true);
    if (queue_drop(r->server->queue, &r->item)) {
        struct error err = { 0 };
        (void)check_going(r, &err);
        answer_problem(r, &err);
        release(r, 2);
    } else {
        unreference(r, 1);
    }
}

void restore_tick(struct server *s, uint64_t now_ns)
{
    /* Aborting: everything that waits is past its time. */
    uint64_t until = atomic_load(&s->is_aborting) ? NO_DEADLINE : now_ns;
    for (struct queue_item *item; (item = queue_expired(s->queue, until)) != NULL;) {
        struct error err = { 0 };
        struct request *r = (struct request *)item;
        if (atomic_load(&s->is_aborting)) item->is_expired = false;
        if (!check_going(r, &err)) (void)error_set(&err, ST_DEADLINE, "the deadline has passed");
        fail(r, &err);
    }
}
