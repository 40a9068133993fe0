#include "proto/messages/query.h"

#include <string.h>

#include "proto/utf8.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Decodes raw[0..len) to `to` and appends a terminator; the result is never longer than the
 * source. */
static enum status decode(char *to, size_t *written, const char *raw, size_t len, struct error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = raw[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int high = i + 2 < len ? hex_digit(raw[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(raw[i + 2]) : -1;
            if (high < 0 || low < 0)
                return error_set(err, ST_BAD_REQUEST,
                                 "the query string has a '%%' without two hexadecimal digits");
            c = (char)(high * 16 + low);
            i += 2;
        }
        to[n++] = c;
    }
    if (!text_is_plain(to, n))
        return error_set(err, ST_BAD_REQUEST,
                         "a query parameter holds control bytes or is not UTF-8");
    to[n] = '\0';
    *written = n;
    return ST_OK;
}

enum status query_parse(struct query *out, const char *raw, size_t len, struct error *err)
{
    out->n = 0;
    if (len > QUERY_MAX_BYTES / 2)
        return error_set(err, ST_BAD_REQUEST,
                         "the query string has %zu bytes, more than the limit of %d", len,
                         QUERY_MAX_BYTES / 2);
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        const char *end = memchr(raw + i, '&', len - i);
        size_t field = end ? (size_t)(end - (raw + i)) : len - i;
        const char *text = raw + i;
        i += field + 1;
        if (field == 0) continue;
        if (out->n == QUERY_MAX_PARAMS)
            return error_set(err, ST_BAD_REQUEST,
                             "the query string has more than the limit of %d parameters",
                             QUERY_MAX_PARAMS);
        const char *equals = memchr(text, '=', field);
        size_t name_len = equals ? (size_t)(equals - text) : field;
        struct query_param p = { out->text + used, "" };
        size_t n = 0;
        enum status s = decode(out->text + used, &n, text, name_len, err);
        if (s) return s;
        used += n + 1;
        if (equals) {
            p.value = out->text + used;
            s = decode(out->text + used, &n, equals + 1, field - name_len - 1, err);
            if (s) return s;
            used += n + 1;
        }
        out->params[out->n++] = p;
    }
    return ST_OK;
}
