/* json.h - jansson values of C values, and their text; for messages.c and --json of the commands.
 *
 * The caller owns a new value until json_pack() ("o") or a *_new() function takes it. Each function
 * returns NULL where memory is out, and those functions fail on NULL: the check of json_to_text()
 * is enough. Reentrant. */
#ifndef DAVID_PROTO_MESSAGES_JSON_H
#define DAVID_PROTO_MESSAGES_JSON_H

#include <jansson.h>
#include <stddef.h>

/* NULL: null. `text` may hold any bytes: each byte that is not UTF-8 becomes U+FFFD. */
json_t *json_of_text(const char *text);
json_t *json_of_number(double v);         /* null where v is not finite */
json_t *json_of_level(double level);      /* of a task; 0, "the task has none", becomes null */
json_t *json_of_source(const char *text); /* JSON that was checked when it was read; NULL: null */

/* Compact text, reals with 9 significant digits; malloc'd, *len without the terminator. Releases
 * `v`; NULL for NULL. */
char *json_to_text(size_t *len, json_t *v);

#endif
