/* error.h - how a fallible function says what went wrong.
 *
 * Fallible functions return enum status and take `struct error *err` last (NULL allowed). The first error wins:
 * a later error_set() on the same struct keeps the first text and status. The text names what it was, what the
 * limit is and what the limit is called; it never holds secrets, image data or file contents.
 * Owned by the caller, usually on its stack; not shared between threads. */
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
const char *status_title(enum status s); /* one fixed line, for people */
const char *status_name(enum status s);  /* "TOO_MANY_PX" */
/* The label value of a refusal in the metrics; NULL: not counted as one. */
const char *status_reason(enum status s);

/* Returns `s` in every case, so that `return error_set(...)` reads well. */
enum status error_set(struct error *err, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#ifdef __clang_analyzer__ /* sees one file at a time: tell it the line above */
#define error_set(err, s, ...) ((void)error_set(err, s, __VA_ARGS__), (s))
#endif

#endif
