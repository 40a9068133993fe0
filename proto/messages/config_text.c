#include "proto/messages/config_text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "proto/utf8.h"

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit sizes[] = {
    { "", 1 },
    { "B", 1 },
    { "kB", 1000 },
    { "MB", 1000000 },
    { "GB", 1000000000 },
    { "TiB", UINT64_C(1) << 40 },
    { "GiB", UINT64_C(1) << 30 },
    { "MiB", UINT64_C(1) << 20 },
    { "KiB", UINT64_C(1) << 10 },
};

static const struct unit durations[] = {
    { "ns", 1 },
    { "us", 1000 },
    { "ms", 1000000 },
    { "s", UINT64_C(1000000000) },
    { "m", UINT64_C(60000000000) },
    { "h", UINT64_C(3600000000000) },
};

#define LENGTH(a) (sizeof(a) / sizeof(a)[0])

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Reads the leading digits of *text and moves it behind them; false without digits or on
 * overflow. */
static bool read_digits(uint64_t *out, const char **text)
{
    const char *p = *text;
    uint64_t v = 0;
    if (*p < '0' || *p > '9') return false;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    *text = p;
    *out = v;
    return true;
}

static enum status read_with_unit(uint64_t *out, const char *text, const struct unit *units,
                                  size_t n, const char *example, struct error *err)
{
    const char *p = text;
    uint64_t v;
    if (read_digits(&v, &p)) {
        while (*p == ' ')
            p++;
        for (size_t i = 0; i < n; i++)
            if (strcmp(p, units[i].name) == 0 && !__builtin_mul_overflow(v, units[i].factor, out))
                return ST_OK;
    }
    return error_set(err, ST_BAD_PARAMETER, "'%.80s' is not %s", text, example);
}

enum status config_size(uint64_t *bytes, const char *text, struct error *err)
{
    uint64_t v;
    enum status s = read_with_unit(&v, text, sizes, LENGTH(sizes), "a size such as 64MiB", err);
    if (s == ST_OK) *bytes = v;
    return s;
}

enum status config_duration(uint64_t *ns, const char *text, struct error *err)
{
    if (strcmp(text, "0") == 0) {
        *ns = 0;
        return ST_OK;
    }
    uint64_t v;
    enum status s = read_with_unit(&v, text, durations, LENGTH(durations),
                                   "a duration such as 50ms or 30s", err);
    if (s == ST_OK) *ns = v;
    return s;
}

enum status config_count(uint64_t *n, const char *text, struct error *err)
{
    const char *p = text;
    uint64_t v;
    if (!read_digits(&v, &p) || *p != '\0')
        return error_set(err, ST_BAD_PARAMETER, "'%.80s' is not a whole number", text);
    *n = v;
    return ST_OK;
}

void config_size_text(char *out, size_t cap, uint64_t bytes)
{
    const struct unit *best = &sizes[0];
    for (size_t i = 0; i < LENGTH(sizes); i++)
        if (bytes != 0 && bytes % sizes[i].factor == 0 && sizes[i].factor > best->factor &&
            (sizes[i].factor & (sizes[i].factor - 1)) == 0)
            best = &sizes[i];
    (void)snprintf(out, cap, "%" PRIu64 "%s", bytes / best->factor, best->name);
}

void config_duration_text(char *out, size_t cap, uint64_t ns)
{
    const struct unit *best = &durations[0];
    for (size_t i = 0; i < 4; i++) /* not above seconds: "120s" reads better than "2m" */
        if (ns % durations[i].factor == 0) best = &durations[i];
    if (ns == 0)
        (void)snprintf(out, cap, "0");
    else
        (void)snprintf(out, cap, "%" PRIu64 "%s", ns / best->factor, best->name);
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* Parses one line without its comment and its outer spaces. An error where it is neither blank nor
 * `name = value` in plain text. */
static enum status parse_line(struct config_line *line, const char *text, size_t len, bool *blank,
                              struct error *err)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] == '#' && (i == 0 || is_space(text[i - 1]))) len = i;
    while (len && is_space(text[len - 1]))
        len--;
    while (len && is_space(*text))
        text++, len--;
    *blank = len == 0;
    if (len == 0) return ST_OK;
    const char *equals = memchr(text, '=', len);
    size_t name = equals ? (size_t)(equals - text) : 0;
    while (name && is_space(text[name - 1]))
        name--;
    bool is_named = name > 0 && name < CONFIG_NAME_MAX;
    for (size_t i = 0; is_named && i < name; i++)
        is_named = is_name_char(text[i]);
    if (!is_named)
        return error_set(err, ST_BAD_PARAMETER, "line %u is not `name = value`", line->number);
    const char *value = equals + 1;
    len -= (size_t)(value - text);
    while (len && is_space(*value))
        value++, len--;
    if (len >= CONFIG_VALUE_MAX || !text_is_plain(value, len))
        return error_set(err, ST_BAD_PARAMETER,
                         "line %u: the value is longer than %d bytes or not plain text",
                         line->number, CONFIG_VALUE_MAX - 1);
    memcpy(line->name, text, name);
    line->name[name] = '\0';
    memcpy(line->value, value, len);
    line->value[len] = '\0';
    return ST_OK;
}

enum status config_next(struct config_line *line, const char *text, size_t len, size_t *at,
                        struct error *err)
{
    while (*at < len) {
        const char *from = text + *at, *eol = memchr(from, '\n', len - *at);
        size_t n = eol ? (size_t)(eol - from) : len - *at;
        *at += n + (eol ? 1 : 0);
        line->number++;
        bool blank;
        enum status s = parse_line(line, from, n, &blank, err);
        if (s || !blank) return s;
    }
    return ST_NOT_FOUND;
}
