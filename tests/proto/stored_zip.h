/* stored_zip.h - a minimal zip writer: entries are stored, sizes are only in the central directory,
 * as in PyTorch's files.
 *
 * For hostile files in tests: the method and the claimed size of an entry may be false. One fixed
 * buffer; overflow asserts. */
#ifndef DAVID_TESTS_PROTO_STORED_ZIP_H
#define DAVID_TESTS_PROTO_STORED_ZIP_H

#include <zlib.h>

#include "tests/proto/sandbox.h"

struct stored_zip {
    unsigned char file[1 << 16], directory[1 << 14];
    size_t file_len, directory_len;
    unsigned entries;
};

static inline void zip_put(unsigned char *at, size_t *len, size_t capacity, const void *p, size_t n)
{
    assert_true(n <= capacity - *len);
    memcpy(at + *len, p, n);
    *len += n;
}

static inline void zip_number(unsigned char *at, size_t *len, size_t capacity, uint32_t v, size_t n)
{
    unsigned char bytes[4] = { (unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16),
                               (unsigned char)(v >> 24) };
    zip_put(at, len, capacity, bytes, n);
}

#define FILE_NUMBER(v, n) zip_number(z->file, &z->file_len, sizeof z->file, (v), (n))
#define DIRECTORY_NUMBER(v, n)                                                                     \
    zip_number(z->directory, &z->directory_len, sizeof z->directory, (v), (n))

static inline void zip_add(struct stored_zip *z, const char *name, const void *bytes, size_t n,
                           unsigned method, uint32_t claimed)
{
    uint32_t offset = (uint32_t)z->file_len, crc = (uint32_t)crc32(0, bytes, (uInt)n),
             len = (uint32_t)strlen(name);
    FILE_NUMBER(0x04034b50, 4);
    FILE_NUMBER(20, 2);
    FILE_NUMBER(8, 2); /* a data descriptor follows: the next three numbers are 0 */
    FILE_NUMBER(method, 2);
    for (int i = 0; i < 4; i++)
        FILE_NUMBER(0, 4);
    FILE_NUMBER(len, 2);
    FILE_NUMBER(0, 2);
    zip_put(z->file, &z->file_len, sizeof z->file, name, len);
    zip_put(z->file, &z->file_len, sizeof z->file, bytes, n);
    FILE_NUMBER(0x08074b50, 4);
    FILE_NUMBER(crc, 4);
    FILE_NUMBER((uint32_t)n, 4);
    FILE_NUMBER(claimed, 4);
    DIRECTORY_NUMBER(0x02014b50, 4);
    DIRECTORY_NUMBER(20, 2);
    DIRECTORY_NUMBER(20, 2);
    DIRECTORY_NUMBER(8, 2);
    DIRECTORY_NUMBER(method, 2);
    DIRECTORY_NUMBER(0, 4);
    DIRECTORY_NUMBER(crc, 4);
    DIRECTORY_NUMBER((uint32_t)n, 4);
    DIRECTORY_NUMBER(claimed, 4);
    DIRECTORY_NUMBER(len, 2);
    for (int i = 0; i < 4; i++)
        DIRECTORY_NUMBER(0, 2);
    DIRECTORY_NUMBER(0, 4);
    DIRECTORY_NUMBER(offset, 4);
    zip_put(z->directory, &z->directory_len, sizeof z->directory, name, len);
    z->entries++;
}

static inline void zip_end(struct stored_zip *z)
{
    uint32_t offset = (uint32_t)z->file_len;
    zip_put(z->file, &z->file_len, sizeof z->file, z->directory, z->directory_len);
    FILE_NUMBER(0x06054b50, 4);
    FILE_NUMBER(0, 4);
    FILE_NUMBER(z->entries, 2);
    FILE_NUMBER(z->entries, 2);
    FILE_NUMBER((uint32_t)z->directory_len, 4);
    FILE_NUMBER(offset, 4);
    FILE_NUMBER(0, 2);
}

#endif
