/* Any bytes as a PNG: each input as it is, and with correct CRCs, since wrong CRCs would keep the
 * fuzzer from the decoder. */
#include <zlib.h>

#include "image.h"

static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void repair(uint8_t *bytes, size_t len)
{
    for (size_t at = 8; len >= 12 && at <= len - 12;) {
        size_t size = (size_t)bytes[at] << 24 | (size_t)bytes[at + 1] << 16 |
                      (size_t)bytes[at + 2] << 8 | bytes[at + 3];
        if (size > len - 12 - at) return;
        put_be32(bytes + at + 8 + size, (uint32_t)crc32(0, bytes + at + 4, (uInt)size + 4));
        at += 12 + size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    check_image(bytes, len);
    uint8_t *repaired = malloc(len + 1);
    require(repaired != NULL);
    if (len) memcpy(repaired, bytes, len);
    repair(repaired, len);
    check_image(repaired, len);
    free(repaired);
    return 0;
}
