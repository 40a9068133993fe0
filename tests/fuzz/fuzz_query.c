/* Any query string: what is accepted is plain, terminated, and inside the struct. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/query.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct query q;
    if (query_parse(&q, (const char *)data, size, NULL)) return 0;
    for (size_t i = 0; i < q.n; i++)
        if (!text_is_plain(q.params[i].name, strlen(q.params[i].name)) ||
            !text_is_plain(q.params[i].value, strlen(q.params[i].value)))
            abort();
    return 0;
}
