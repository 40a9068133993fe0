#include "proto/messages/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* `text` with every byte that is not UTF-8 replaced; malloc'd, NULL where memory is out. */
static char *replaced(const char *text)
{
    size_t left = strlen(text);
    char *out = malloc(left * (sizeof REPLACEMENT - 1) + 1), *to = out;
    if (!out) return NULL;
    while (left) {
        size_t n = utf8_length(text, left);
        if (n) {
            memcpy(to, text, n);
            to += n;
        } else {
            to = stpcpy(to, REPLACEMENT);
            n = 1;
        }
        text += n;
        left -= n;
    }
    *to = '\0';
    return out;
}

json_t *json_of_text(const char *text)
{
    if (!text) return json_null();
    json_t *v = json_string(text); /* NULL: not UTF-8, or no memory */
    if (v) return v;
    char *valid = replaced(text);
    v = valid ? json_string(valid) : NULL;
    free(valid);
    return v;
}

json_t *json_of_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

json_t *json_of_level(double level)
{
    return level > 0 ? json_of_number(level) : json_null();
}

json_t *json_of_source(const char *text)
{
    return text ? json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL) : json_null();
}

/* json_dumpb, not json_dumps: where the buffer of jansson 2.14 cannot grow, json_dumps leaves out a
 * key and reports success. */
char *json_to_text(size_t *len, json_t *v)
{
    enum { FLAGS = JSON_COMPACT | JSON_REAL_PRECISION(9) };
    size_t n = v ? json_dumpb(v, NULL, 0, FLAGS) : 0;
    char *text = n ? malloc(n + 1) : NULL;
    if (text && json_dumpb(v, text, n, FLAGS) != n) {
        free(text);
        text = NULL;
    }
    json_decref(v);
    if (!text) return NULL;
    text[n] = '\0';
    *len = n;
    return text;
}
