/* Any Content-Type and body: parts lie inside the body in order, no part holds its own delimiter,
 * and nothing reads outside the body. Input: type, NUL, body. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *type = (const char *)data, *nul = memchr(data, 0, size);
    if (!nul) return 0;
    char boundary[MULTIPART_MAX_BOUNDARY + 1], delimiter[sizeof boundary + 4];
    struct multipart m;
    const char *body = nul + 1, *end = type + size;
    (void)multipart_is(type);
    if (multipart_boundary(boundary, type, NULL)) return 0;
    if (multipart_parse(&m, boundary, body, (size_t)(end - body), NULL)) return 0;
    int n = snprintf(delimiter, sizeof delimiter, "\r\n--%s", boundary);
    const char *from = body;
    for (size_t i = 0; i < m.n; i++) {
        const struct multipart_part *p = &m.parts[i];
        require(p->name >= from && p->name_len <= (size_t)(end - p->name));
        require(p->bytes > p->name + p->name_len && p->len <= (size_t)(end - p->bytes));
        require(!memmem(p->bytes, p->len, delimiter, (size_t)n));
        from = p->bytes + p->len;
    }
    return 0;
}
