#include "server/http/report.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Whether the word that ends before text[end] is the name of a setting. */
static bool is_setting(const char *text, size_t end)
{
    char name[CONFIG_NAME_MAX];
    size_t from = end;
    while (from > 0 && (isalnum((unsigned char)text[from - 1]) || text[from - 1] == '_'))
        from--;
    if (end - from == 0 || end - from >= sizeof name) return false;
    memcpy(name, text + from, end - from);
    name[end - from] = '\0';
    return config_find(name) != CONFIG_COUNT;
}

void report_redact(char *out, size_t cap, const char *detail)
{
    static const char hidden[] = "...";
    size_t n = 0;
    const char *last_quote = strrchr(detail, '\'');
    for (size_t i = 0; detail[i] && n + sizeof hidden < cap;) {
        size_t skip = 0;
        /* A quote after a letter is an apostrophe. Up to the last quote: a value can hold quotes
         * of its own. */
        if (detail[i] == '\'' && (i == 0 || !isalnum((unsigned char)detail[i - 1])))
            skip = last_quote > detail + i ? (size_t)(last_quote - detail) + 1 - i
                                           : strlen(detail + i);
        else if (i >= 3 && strncmp(detail + i - 3, " = ", 3) == 0 && !is_setting(detail, i - 3))
            skip = strcspn(detail + i, " ,;:");
        if (skip > 0) {
            memcpy(out + n, hidden, sizeof hidden - 1);
            n += sizeof hidden - 1;
            i += skip;
        } else {
            out[n++] = detail[i++];
        }
    }
    out[n] = '\0';
}

void report_reply(struct server *s, enum log_level level, const struct http_route *route,
                  const char *method, const char *request_id, const struct reply *r,
                  uint64_t age_ns)
{
    const char *path = route ? route->path : "other";
    const double code = r->code, ms = (double)age_ns * 1e-6;
    metric_request(&s->metrics, path, method, r->code);
    if (!r->status) {
        log_event(level, "request", "request_id", LOG_TEXT, request_id, "route", LOG_TEXT, path,
                  "status", LOG_NUMBER, code, "ms", LOG_NUMBER, ms, NULL);
        return;
    }
    char detail[sizeof r->detail];
    report_redact(detail, sizeof detail, r->detail);
    log_event(level, "request", "request_id", LOG_TEXT, request_id, "route", LOG_TEXT, path,
              "status", LOG_NUMBER, code, "ms", LOG_NUMBER, ms, "error", LOG_TEXT,
              status_name(r->status), "detail", LOG_TEXT, detail, NULL);
}

void report_refusal(struct server *s, enum status why)
{
    const char *reason = status_reason(why);
    if (reason) metric_count(&s->metrics.rejected, 1, reason);
    if (why == ST_CANCELLED) metric_add(&s->metrics.cancelled, 1);
}

/* The reason phrase of the two codes that a connection is ended with. */
static const char *phrase(int code)
{
    return code == 408 ? "Request Timeout" : "Service Unavailable";
}

void report_ended(struct server *s, const struct ended_connection *c)
{
    char text[1024], request_id[REQUEST_ID_MAX + 1];
    struct error err = { 0 };
    struct reply r = { 0 };
    (void)error_set(&err, c->status, "%s", c->detail);
    request_id_choose(request_id, c->request_id);
    reply_problem(&r, &err, request_id, server_retry_after(s));
    int n =
        snprintf(text, sizeof text, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: %s\r\n",
                 r.code, phrase(r.code), r.type);
    for (unsigned i = 0; i < r.n; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s: %s\r\n", r.headers[i].name,
                      r.headers[i].value);
    /* What is above is short: it is the ids, the detail and the body that need the check. */
    n += snprintf(text + n, sizeof text - (size_t)n,
                  "X-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%.*s", request_id, r.len,
                  (int)r.len, r.body ? (const char *)r.body : "");
    if ((size_t)n < sizeof text) (void)send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    free(r.body);
    report_reply(s, LOG_LEVEL_INFO, c->route, c->route ? c->route->method : "", request_id, &r,
                 c->age_ns);
}
