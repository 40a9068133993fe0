/* Any Content-Type and body: parts lie inside the body, and nothing reads outside it. Input: type, NUL, body. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    if (!end) return 0;
    char boundary[MULTIPART_MAX_BOUNDARY + 1];
    struct multipart m;
    const char *type = (const char *)data;
    const uint8_t *body = end + 1;
    size_t len = size - (size_t)(body - data);
    (void)multipart_is(type);
    if (multipart_boundary(boundary, type, NULL)) return 0;
    if (multipart_parse(&m, boundary, body, len, NULL)) return 0;
    for (size_t i = 0; i < m.n; i++) {
        const struct multipart_part *p = &m.parts[i];
        if ((const uint8_t *)p->bytes < body || (const uint8_t *)p->bytes + p->len > body + len)
            abort();
        if ((const uint8_t *)p->name < body || (const uint8_t *)p->name + p->name_len > body + len)
            abort();
    }
    return 0;
}
