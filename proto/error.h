/* error.h - how a fallible function reports an error.
 *
 * Fallible functions return enum status and take `struct error *err` last (NULL allowed). The first
 * error wins: a later error_set() on the same struct keeps the first text and status. The text
 * gives the value, the limit and the limit's name; it never holds secrets, image data or file
 * contents. The caller owns the struct, usually on its stack; threads do not share it. */
#ifndef DAVID_PROTO_ERROR_H
#define DAVID_PROTO_ERROR_H

enum status {
#define STATUS(name, http, title, reason) ST_##name,
#include "proto/status.def"
#undef STATUS
    ST_COUNT
};

struct error {
    enum status status; /* ST_OK: nothing set */
    char detail[512];   /* UTF-8, always terminated */
};

int status_http(enum status s);          /* the HTTP code */
const char *status_title(enum status s); /* one fixed line of text */
const char *status_name(enum status s);  /* "TOO_MANY_PX" */
/* The label value of a refusal in the metrics; NULL: not counted as one. */
const char *status_reason(enum status s);

/* Returns `s` in every case, so that callers write `return error_set(...)`. */
enum status error_set(struct error *err, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* the analyzer sees one file at a time and must know that `s` is returned */
#ifdef __clang_analyzer__
#define error_set(err, s, ...) ((void)error_set(err, s, __VA_ARGS__), (s))
#endif

#endif
