/* Decoding: from the body of a request to a restoration in the queue, on a codec worker. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "proto/images/codec.h"
#include "proto/messages/multipart.h"
#include "server/clock.h"
#include "server/restore/request.h"

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
    return s ? s : request_complete(r, err);
}

/* Reserves what the request will hold at its peak, from the header of its image. */
static enum status reserve_peak(struct request *r, const struct image_header *h, size_t mask_bytes,
                                bool has_mask, struct error *err)
{
    const struct config *c = r->service->server.config;
    const struct task_shape shape = task_shape(request_task(r)->name);
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
    /* Gray becomes RGB where the task gives colours. A PNG holds a byte before each of its rows
     * of pixels. */
    uint64_t channels = h->channels + (shape.gives_colour && h->channels < 3 ? 2u : 0u);
    uint64_t rows = (uint64_t)h->height * shape.scale;
    uint64_t encoded = out_px * channels * (h->depth / 8) + rows + 65536;
    uint64_t peak = restoration_peak_bytes(r->served->model, &r->params, h->width, h->height,
                                           h->channels, h->depth, has_mask);
    if (peak == SIZE_MAX) { /* there can be no restoration of this size; the engine says why */
        struct image sized = {
            .width = h->width, .height = h->height, .channels = h->channels, .depth = h->depth
        };
        enum status why =
            restoration_new(&r->restoration, r->served->model, &r->params, &sized, NULL, err);
        return why ? why : error_set(err, ST_NEVER_FITS, "larger than can be counted");
    }
    /* An encoded image can be as large as its pixels; base64 makes four bytes of three. */
    uint64_t output = r->params.output == OUTPUT_ALL ? images * encoded * 7 / 3 : encoded;
    uint64_t bytes = peak + h->decode_bytes + mask_bytes + output;
    enum status s = reservation_add(&r->call->reservation, bytes, err);
    if (!s) r->peak_bytes = bytes;
    return s;
}

static enum status decode(struct request *r, struct error *err)
{
    struct bytes image = { 0 }, mask = { 0 };
    struct image_header head, mask_head = { 0 };
    uint64_t max_px = r->service->server.config->max_pixels;
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
        s = task_check_mask(request_task(r)->name, err);
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

void decode_run(struct codec_task *t)
{
    struct request *r = (struct request *)((char *)t - offsetof(struct request, task));
    struct error err = { 0 };
    uint64_t from = clock_now_ns();
    enum status s = request_check(r, &err);
    if (!s) s = decode(r, &err);
    http_drop_body(r->call);
    reservation_keep(&r->call->reservation, r->peak_bytes);
    r->queued_ns = clock_now_ns();
    r->decode_ns = r->queued_ns - from;
    if (!s) s = request_check(r, &err);
    if (!s) {
        r->item.model = r->served;
        r->item.deadline_ns = r->deadline_ns;
        r->item.jobs = restoration_tile_jobs(r->restoration);
        r->item.restoration = r->restoration;
        s = queue_push(r->service->queue, &r->item, &err);
        if (!s) return; /* it belongs to the queue, or already to the batcher */
    }
    queue_unreserve(r->service->queue);
    request_fail(r, &err);
}
