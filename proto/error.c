#include "proto/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static const struct {
    int http;
    const char *name, *title, *reason;
} status_table[] = {
#define STATUS(name, http, title, reason) { http, #name, title, reason },
#include "proto/status.def"
#undef STATUS
};

static unsigned bounded(enum status s)
{
    return (unsigned)s < ST_COUNT ? (unsigned)s : ST_INTERNAL;
}

int status_http(enum status s)
{
    return status_table[bounded(s)].http;
}

const char *status_title(enum status s)
{
    return status_table[bounded(s)].title;
}

const char *status_name(enum status s)
{
    return status_table[bounded(s)].name;
}

const char *status_reason(enum status s)
{
    return status_table[bounded(s)].reason;
}

/* In parentheses, because error.h defines a macro of this name for the analyzer. */
enum status(error_set)(struct error *err, enum status s, const char *format, ...)
{
    if (err && err->status == ST_OK) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(err->detail, sizeof err->detail, format, args);
        va_end(args);
        err->status = s;
    }
    return s;
}
