/* utf8.h - validation of UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above
 * U+10FFFF.
 *
 * Pure functions; they read no byte beyond the given length. */
#ifndef DAVID_PROTO_UTF8_H
#define DAVID_PROTO_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at `text` (1..4), of which `left` bytes (at least 1) may be read; 0 where
 * it is not UTF-8 or is cut short. */
size_t utf8_length(const char *text, size_t left);
bool utf8_is_valid(const char *bytes, size_t len);
/* UTF-8 without control characters (below U+0020, and U+007F). */
bool text_is_plain(const char *bytes, size_t len);

#endif
