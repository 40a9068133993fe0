#include "proto/messages/multipart.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_boundary_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && strchr("'()+_,-./:=? ", c) != NULL);
}

/* True where text[0..len) equals the terminated word, in upper or lower case. */
static bool word_is(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && strncasecmp(text, word, len) == 0;
}

bool multipart_is(const char *content_type)
{
    static const char type[] = "multipart/form-data";
    if (!content_type || strncasecmp(content_type, type, sizeof type - 1) != 0) return false;
    char next = content_type[sizeof type - 1];
    return next == '\0' || next == ';' || is_space(next);
}

/* Parses one `; name=value` or `; name="value"` at *at; false at the end or where it is malformed.
 * Quoted values keep their backslashes. */
static bool next_parameter(const char **at, const char *end, const char **name, size_t *name_len,
                           const char **value, size_t *value_len)
{
    const char *p = *at;
    while (p < end && is_space(*p))
        p++;
    if (p == end || *p != ';') return false;
    p++;
    while (p < end && is_space(*p))
        p++;
    *name = p;
    while (p < end && *p != '=' && *p != ';')
        p++;
    *name_len = (size_t)(p - *name);
    if (p == end || *p != '=') return false;
    p++;
    if (p < end && *p == '"') {
        *value = ++p;
        while (p < end && *p != '"')
            p += (*p == '\\' && p + 1 < end) ? 2 : 1;
        if (p >= end) return false;
        *value_len = (size_t)(p - *value);
        p++;
    } else {
        *value = p;
        while (p < end && *p != ';' && !is_space(*p))
            p++;
        *value_len = (size_t)(p - *value);
    }
    *at = p;
    return true;
}

enum status multipart_boundary(char out[MULTIPART_MAX_BOUNDARY + 1], const char *content_type,
                               struct error *err)
{
    const char *at = content_type + strcspn(content_type, ";"), *end = at + strlen(at);
    const char *name, *value;
    size_t name_len, value_len;
    while (next_parameter(&at, end, &name, &name_len, &value, &value_len)) {
        if (!word_is(name, name_len, "boundary")) continue;
        if (value_len == 0 || value_len > MULTIPART_MAX_BOUNDARY)
            return error_set(err, ST_BAD_REQUEST,
                             "the multipart boundary has %zu characters, not 1 to %d", value_len,
                             MULTIPART_MAX_BOUNDARY);
        for (size_t i = 0; i < value_len; i++)
            if (!is_boundary_char(value[i]))
                return error_set(err, ST_BAD_REQUEST,
                                 "the multipart boundary holds a character that is not allowed");
        if (value[value_len - 1] == ' ')
            return error_set(err, ST_BAD_REQUEST, "the multipart boundary ends with a space");
        memcpy(out, value, value_len);
        out[value_len] = '\0';
        return ST_OK;
    }
    return error_set(err, ST_BAD_REQUEST, "Content-Type multipart/form-data without a boundary");
}

/* One header line of a part: takes the name from Content-Disposition and refuses encodings that
 * would have to be decoded. */
static enum status read_header(struct multipart_part *part, const char *line, size_t len,
                               struct error *err)
{
    const char *colon = memchr(line, ':', len);
    if (!colon) return error_set(err, ST_BAD_REQUEST, "a multipart header has no colon");
    size_t field = (size_t)(colon - line);
    const char *value = colon + 1, *end = line + len;
    while (value < end && is_space(*value))
        value++;
    while (end > value && is_space(end[-1]))
        end--;
    if (word_is(line, field, "Content-Transfer-Encoding")) {
        size_t n = (size_t)(end - value);
        if (!word_is(value, n, "binary") && !word_is(value, n, "8bit") &&
            !word_is(value, n, "7bit"))
            return error_set(err, ST_BAD_REQUEST,
                             "a multipart part is encoded; only binary, 8bit and 7bit are read");
        return ST_OK;
    }
    if (!word_is(line, field, "Content-Disposition")) return ST_OK;
    const char *at = memchr(value, ';', (size_t)(end - value));
    if (!at || !word_is(value, (size_t)(at - value), "form-data"))
        return error_set(err, ST_BAD_REQUEST, "a multipart part is not form-data with a name");
    const char *name, *text;
    size_t name_len, text_len;
    while (next_parameter(&at, end, &name, &name_len, &text, &text_len)) {
        if (!word_is(name, name_len, "name")) continue;
        if (part->name) return error_set(err, ST_BAD_REQUEST, "a multipart part has two names");
        part->name = text;
        part->name_len = text_len;
    }
    return ST_OK;
}

/* Reads the headers at *at, up to and including the empty line. */
static enum status read_headers(struct multipart_part *part, const char **at, const char *end,
                                struct error *err)
{
    const char *first = *at, *p = first;
    for (;;) {
        size_t left = (size_t)(end - p),
               capacity = MULTIPART_MAX_HEADER_BYTES - (size_t)(p - first);
        const char *eol = memmem(p, left < capacity ? left : capacity, "\r\n", 2);
        if (!eol)
            return error_set(err, ST_BAD_REQUEST,
                             "the headers of a multipart part end nowhere within %d bytes",
                             MULTIPART_MAX_HEADER_BYTES);
        size_t len = (size_t)(eol - p);
        const char *line = p;
        p = eol + 2;
        if (len == 0) break;
        enum status s = read_header(part, line, len, err);
        if (s) return s;
    }
    if (!part->name)
        return error_set(err, ST_BAD_REQUEST,
                         "a multipart part has no Content-Disposition with a name");
    *at = p;
    return ST_OK;
}

enum status multipart_parse(struct multipart *out, const char *boundary, const void *body,
                            size_t len, struct error *err)
{
    char delimiter[4 + MULTIPART_MAX_BOUNDARY + 1];
    size_t n = strlen(boundary);
    if (n == 0 || n > MULTIPART_MAX_BOUNDARY)
        return error_set(err, ST_BAD_REQUEST, "the multipart boundary has %zu characters", n);
    (void)snprintf(delimiter, sizeof delimiter, "\r\n--%s", boundary);
    n += 4;
    const char *p = body, *end = p + len;

    /* The first delimiter needs no line break before it; a preamble before it is skipped. */
    if (len >= n - 2 && memcmp(p, delimiter + 2, n - 2) == 0) {
        p += n - 2;
    } else {
        p = len ? memmem(p, len, delimiter, n) : NULL;
        if (!p) return error_set(err, ST_BAD_REQUEST, "the multipart boundary is not in the body");
        p += n;
    }
    out->n = 0;
    for (;;) {
        if (end - p >= 2 && p[0] == '-' && p[1] == '-') return ST_OK;
        while (p < end && is_space(*p))
            p++;
        if (end - p < 2 || p[0] != '\r' || p[1] != '\n')
            return error_set(err, ST_BAD_REQUEST,
                             "a multipart boundary is followed by neither a part nor the end");
        p += 2;
        if (out->n == MULTIPART_MAX_PARTS)
            return error_set(err, ST_BAD_REQUEST, "the body has more than the limit of %d parts",
                             MULTIPART_MAX_PARTS);
        struct multipart_part part = { 0 };
        enum status s = read_headers(&part, &p, end, err);
        if (s) return s;
        /* The delimiter of an empty part begins with the line break that ends the headers. */
        const char *from = p - 2, *next = memmem(from, (size_t)(end - from), delimiter, n);
        if (!next)
            return error_set(err, ST_BAD_REQUEST,
                             "the body ends inside multipart part %zu: no closing boundary",
                             out->n + 1);
        part.bytes = p;
        part.len = next > p ? (size_t)(next - p) : 0;
        out->parts[out->n++] = part;
        p = next + n;
    }
}
