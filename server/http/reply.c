#include "server/http/reply.h"

#include <stdarg.h>
#include <stdio.h>

#include "proto/messages/messages.h"

void reply_header(struct reply *r, const char *name, const char *format, ...)
{
    if (r->n == REPLY_HEADERS) return;
    va_list args;
    va_start(args, format);
    r->headers[r->n].name = name;
    (void)vsnprintf(r->headers[r->n].value, sizeof r->headers[r->n].value, format, args);
    va_end(args);
    r->n++;
}

void reply_json(struct reply *r, int code, char *text, size_t len)
{
    r->status = text ? ST_OK : ST_INTERNAL;
    r->code = text ? code : 500;
    r->type = "application/json";
    r->body = text;
    r->len = text ? len : 0;
}

void reply_problem(struct reply *r, const struct error *err, const char *request_id,
                   unsigned retry_after_s)
{
    r->status = err->status;
    (void)snprintf(r->detail, sizeof r->detail, "%s", err->detail);
    r->code = status_http(err->status);
    r->type = "application/problem+json";
    r->body = message_problem(&r->len, err->status, err->detail, request_id);
    if (!r->body) r->len = 0;
    if (r->code == 503) reply_header(r, "Retry-After", "%u", retry_after_s);
    if (err->status == ST_DRAINING) r->closes = true;
}
