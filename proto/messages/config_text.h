/* config_text.h - the texts of a configuration: `name = value` lines of a file, sizes, durations,
 * counts.
 *
 * A line is `name = value`, blank, or a comment; '#' begins a comment at the start of a line or
 * after a space. Values have no quotes and no escapes. Sizes: 64MiB, 10kB, 123 (bytes). Durations:
 * 50ms, 2s, 1m, 1h, 100us, 0. Numbers are whole and decimal; overflow is an error. Errors:
 * ST_BAD_PARAMETER with the line or the text. Reentrant; allocates nothing. */
#ifndef DAVID_PROTO_MESSAGES_CONFIG_TEXT_H
#define DAVID_PROTO_MESSAGES_CONFIG_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum { CONFIG_NAME_MAX = 64, CONFIG_VALUE_MAX = 1024 }; /* with the terminator */

struct config_line {
    unsigned number; /* from 1 */
    char name[CONFIG_NAME_MAX], value[CONFIG_VALUE_MAX];
};

/* Reads the next setting of text[*at..len) and advances *at. ST_NOT_FOUND (and no error set) at the
 * end. */
enum status config_next(struct config_line *line, const char *text, size_t len, size_t *at,
                        struct error *err);

enum status config_size(uint64_t *bytes, const char *text, struct error *err);
enum status config_duration(uint64_t *ns, const char *text, struct error *err);
enum status config_count(uint64_t *n, const char *text, struct error *err);

/* The shortest text that reads back as the same value. */
void config_size_text(char *out, size_t cap, uint64_t bytes);
void config_duration_text(char *out, size_t cap, uint64_t ns);

#endif
