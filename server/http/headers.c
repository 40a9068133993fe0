/* The request line and the headers of a request. */
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/internal.h"

static const char *header(struct transaction *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

static const struct http_route *find_route(const struct http *h, const char *path)
{
    for (size_t i = 0; i < h->n_routes; i++)
        if (strcmp(h->routes[i].path, path) == 0) return &h->routes[i];
    return NULL;
}

void headers_read(struct transaction *x, const char *method)
{
    struct http_call *c = &x->call;
    const char *accept = header(x, "Accept"), *type = header(x, "Content-Type");
    const char *length = header(x, "Content-Length");
    (void)snprintf(c->method, sizeof c->method, "%s", method);
    (void)snprintf(c->accept, sizeof c->accept, "%s", accept ? accept : "");
    (void)snprintf(c->content_type, sizeof c->content_type, "%s", type ? type : "");
    request_id_choose(c->request_id, header(x, "X-Request-Id"));
    c->is_chunked = header(x, "Transfer-Encoding") != NULL;
    if (length && !c->is_chunked) {
        char *end;
        errno = 0;
        c->length = strtoull(length, &end, 10);
        if (errno || *end) c->length = UINT64_MAX;
        c->has_length = true;
    }
    c->has_body = c->is_chunked || c->length > 0;
    c->route = find_route(x->h, c->path);
}

/* The length of the body must be given exactly once, so that a proxy in front and this daemon
 * see the same requests on a connection (RFC 9112, section 6.3). libmicrohttpd takes the first
 * of two lengths, and takes a header name that ends with a space for another name. */
struct framing {
    unsigned lengths, encodings;
    bool is_other; /* an encoding that is not chunked */
    bool is_name;  /* every header name is a token */
};

static enum MHD_Result note_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    (void)kind;
    struct framing *f = cls;
    if (name[0] == '\0' || strpbrk(name, " \t")) f->is_name = false;
    if (strcasecmp(name, "Content-Length") == 0) f->lengths++;
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        if (!value || strcasecmp(value, "chunked") != 0) f->is_other = true;
    }
    return MHD_YES;
}

const char *headers_fault(struct MHD_Connection *connection)
{
    struct framing f = { .is_name = true };
    (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, note_header, &f);
    if (!f.is_name) return "a header's name is empty or holds a space";
    if (f.lengths + f.encodings > 1)
        return "Content-Length and Transfer-Encoding: one of them, once, is needed";
    if (f.is_other) return "Transfer-Encoding is not chunked, the only one that is read";
    return NULL;
}
