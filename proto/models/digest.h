/* digest.h - SHA-256 of files and buffers, as sha256sum prints it (libcrypto). */
#ifndef DAVID_PROTO_MODELS_DIGEST_H
#define DAVID_PROTO_MODELS_DIGEST_H

#include <stddef.h>

#include "proto/error.h"

enum { DIGEST_HEX = 65 }; /* 64 hex digits and the terminator */

enum status digest_bytes(char out[DIGEST_HEX], const void *bytes, size_t len, struct error *err);
enum status digest_file(char out[DIGEST_HEX], const char *path, struct error *err);

#endif
