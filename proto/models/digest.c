#include "proto/models/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 20 };

static enum status digest_finish(char out[DIGEST_HEX], EVP_MD_CTX *ctx, struct error *err)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (EVP_DigestFinal_ex(ctx, raw, &n) != 1 || n != (DIGEST_HEX - 1) / 2)
        return error_set(err, ST_INTERNAL, "SHA-256 is not available in libcrypto");
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = hex[raw[i] >> 4];
        out[2 * i + 1] = hex[raw[i] & 15];
    }
    out[DIGEST_HEX - 1] = '\0';
    return ST_OK;
}

static enum status digest_start(EVP_MD_CTX **out, struct error *err)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a digest");
    if (EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(ctx);
        return error_set(err, ST_INTERNAL, "SHA-256 is not available in libcrypto");
    }
    *out = ctx;
    return ST_OK;
}

enum status digest_bytes(char out[DIGEST_HEX], const void *bytes, size_t len, struct error *err)
{
    EVP_MD_CTX *ctx = NULL;
    enum status s = digest_start(&ctx, err);
    if (s) return s;
    if (len > 0 && EVP_DigestUpdate(ctx, bytes, len) != 1)
        s = error_set(err, ST_INTERNAL, "SHA-256 failed");
    else
        s = digest_finish(out, ctx, err);
    EVP_MD_CTX_free(ctx);
    return s;
}

enum status digest_file(char out[DIGEST_HEX], const char *path, struct error *err)
{
    EVP_MD_CTX *ctx = NULL;
    unsigned char *chunk = NULL;
    enum status s = ST_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, ST_IO, "cannot open %s: %s", path, strerror(errno));
    chunk = malloc(CHUNK_BYTES);
    if (!chunk) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a digest");
        goto done;
    }
    s = digest_start(&ctx, err);
    if (s) goto done;
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            s = error_set(err, ST_IO, "cannot read %s: %s", path, strerror(errno));
            goto done;
        }
        if (n == 0) break;
        if (EVP_DigestUpdate(ctx, chunk, (size_t)n) != 1) {
            s = error_set(err, ST_INTERNAL, "SHA-256 failed");
            goto done;
        }
    }
    s = digest_finish(out, ctx, err);
done:
    EVP_MD_CTX_free(ctx);
    free(chunk);
    close(fd);
    return s;
}
