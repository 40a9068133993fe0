/* The body of a request: gathered whole, within max_body and the memory budget. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/internal.h"

/* Makes the buffer hold `need` bytes: the whole body at once where its length is known, else in
 * doubling steps. Each step is reserved before it is allocated. */
static enum status grow(struct transaction *x, size_t need, struct error *err)
{
    enum { FIRST_STEP = 65536 };
    struct http_call *c = &x->call;
    uint64_t max = x->h->server->config->max_body;
    if (need > max)
        return error_set(err, ST_BODY_TOO_LARGE, "the body has more bytes than max_body = %" PRIu64,
                         max);
    if (need <= c->body_cap) return ST_OK;
    size_t cap = c->has_length ? (size_t)c->length : c->body_cap ? c->body_cap * 2 : FIRST_STEP;
    if (cap < need) cap = need;
    if (cap > max) cap = (size_t)max;
    if (cap > c->reservation.bytes) {
        enum status s = reservation_add(&c->reservation, cap - c->reservation.bytes, err);
        if (s) return s;
    }
    uint8_t *body = realloc(c->body, cap);
    if (!body) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a body of %zu bytes", cap);
    c->body = body;
    c->body_cap = cap;
    return ST_OK;
}

bool body_append(struct transaction *x, const char *data, size_t n)
{
    struct http_call *c = &x->call;
    if (n > SIZE_MAX / 4 - c->body_len) return false;
    if (!x->refusal.status) {
        if (grow(x, c->body_len + n, &x->refusal)) {
            http_drop_body(c);
            reservation_keep(&c->reservation, 0);
        } else {
            memcpy(c->body + c->body_len, data, n);
        }
    }
    c->body_len += n;
    /* libmicrohttpd cannot answer while a body comes: up to twice the limit is read and
     * discarded; beyond that the connection is closed. */
    return c->body_len <= 2 * x->h->server->config->max_body;
}

void http_drop_body(struct http_call *call)
{
    free(call->body);
    call->body = NULL;
    call->body_cap = 0;
}
