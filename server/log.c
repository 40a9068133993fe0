#include "server/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const names[] = { "debug", "info", "warn", "error" };
static atomic_int threshold = LOG_LEVEL_INFO;

bool log_set_level(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            atomic_store(&threshold, i);
            return true;
        }
    return false;
}

/* Room for one line; what does not fit is cut inside the last text. */
struct line {
    char text[2048];
    size_t n;
};

static void put(struct line *l, const char *text)
{
    while (*text && l->n < sizeof l->text - 8)
        l->text[l->n++] = *text++;
}

static void put_quoted(struct line *l, const char *text)
{
    put(l, "\"");
    for (; *text && l->n < sizeof l->text - 16; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];
        if (c == '"' || c == '\\')
            (void)snprintf(escaped, sizeof escaped, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            (void)snprintf(escaped, sizeof escaped, "\\u%04x", c);
        else
            (void)snprintf(escaped, sizeof escaped, "%c", c);
        put(l, escaped);
    }
    put(l, "\"");
}

void log_event(enum log_level level, const char *event, ...)
{
    if ((int)level < atomic_load_explicit(&threshold, memory_order_relaxed)) return;
    struct line l = { .n = 0 };
    struct timespec t;
    struct tm tm;
    char text[64];
    (void)clock_gettime(CLOCK_REALTIME, &t);
    (void)gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text + n, sizeof text - n, ".%03ldZ", t.tv_nsec / 1000000);
    put(&l, "{\"time\":");
    put_quoted(&l, text);
    put(&l, ",\"level\":");
    put_quoted(&l, names[level]);
    put(&l, ",\"event\":");
    put_quoted(&l, event);
    va_list args;
    va_start(args, event);
    for (const char *name; (name = va_arg(args, const char *)) != NULL;) {
        put(&l, ",");
        put_quoted(&l, name);
        put(&l, ":");
        if (va_arg(args, int) == LOG_TEXT) {
            const char *value = va_arg(args, const char *);
            put_quoted(&l, value ? value : "");
        } else {
            (void)snprintf(text, sizeof text, "%.10g", va_arg(args, double));
            put(&l, text);
        }
    }
    va_end(args);
    l.text[l.n++] = '}';
    l.text[l.n++] = '\n';
    if (write(STDERR_FILENO, l.text, l.n) < 0) return; /* nowhere to say it */
}
