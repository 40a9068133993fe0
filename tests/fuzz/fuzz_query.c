/* Any query string: accepted parameters are plain, terminated, inside the struct, and read back
 * from their escaped form; of the parameters of /restore only numbers within their limits are
 * accepted. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/query.h"
#include "proto/utf8.h"
#include "server/restore/parameters.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes every byte as %XX; returns the end. */
static char *escape(char *to, const char *text)
{
    for (; *text; text++)
        to += sprintf(to, "%%%02X", (unsigned)(unsigned char)*text);
    return to;
}

/* The comparisons are written so that a NaN aborts. */
static void read_parameters(const uint8_t *data, size_t size)
{
    static char text[QUERY_MAX_BYTES + 1];
    struct parameters p;
    if (size > QUERY_MAX_BYTES || memchr(data, 0, size)) return;
    memcpy(text, data, size);
    text[size] = '\0';
    parameters_init(&p);
    if (parameters_read_query(&p, text, NULL) || parameters_complete(&p, false, 64, NULL)) return;
    if (!(p.h == -1 || (p.h >= 0 && p.h <= 10))) abort();
    if (!(p.sigma >= 0 && p.sigma <= 10) || !(p.level >= 0 && p.level <= 100)) abort();
    if (p.samples < 1 || p.samples > 64 || p.deadline_ms > 86400000) abort();
    if (strlen(p.task) >= sizeof p.task || strlen(p.model) >= sizeof p.model) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct query q, again;
    static char escaped[3 * QUERY_MAX_BYTES + 2 * QUERY_MAX_PARAMS];
    read_parameters(data, size);
    if (query_parse(&q, (const char *)data, size, NULL)) return 0;
    char *end = escaped;
    for (size_t i = 0; i < q.n; i++) {
        const char *name = q.params[i].name, *value = q.params[i].value;
        if (!text_is_plain(name, strlen(name)) || !text_is_plain(value, strlen(value))) abort();
        end = escape(end, name);
        *end++ = '=';
        end = escape(end, value);
        *end++ = '&';
    }
    size_t len = (size_t)(end - escaped);
    if (query_parse(&again, escaped, len, NULL)) {
        if (len > QUERY_MAX_BYTES / 2) return 0;
        abort();
    }
    if (again.n != q.n) abort();
    for (size_t i = 0; i < q.n; i++)
        if (strcmp(again.params[i].name, q.params[i].name) != 0 ||
            strcmp(again.params[i].value, q.params[i].value) != 0)
            abort();
    return 0;
}
