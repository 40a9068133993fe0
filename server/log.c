#include "server/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/utf8.h"

static const char *const names[] = { "debug", "info", "warn", "error" };
static atomic_int threshold = LOG_LEVEL_INFO;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER; /* guards stderr and lost */
static uint64_t lost; /* lines since the last one that was written */

bool log_set_level(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            atomic_store(&threshold, i);
            return true;
        }
    return false;
}

/* One line; what does not fit is cut inside the last text. */
struct line {
    char text[2048];
    size_t n;
};

static void put(struct line *l, const char *text)
{
    while (*text && l->n < sizeof l->text - 8)
        l->text[l->n++] = *text++;
}

/* UTF-8 stays as it is; in other texts each byte beyond ASCII becomes the character with its
 * number. */
static void put_quoted(struct line *l, const char *text)
{
    enum { CHARACTER_MAX = 4, END = 16 };
    const bool is_plain = text_is_plain(text, strlen(text));
    put(l, "\"");
    for (; *text && l->n < sizeof l->text - END; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];
        if (is_plain && c >= 0xc0 && l->n + CHARACTER_MAX > sizeof l->text - END) break;
        if (c == '"' || c == '\\')
            (void)snprintf(escaped, sizeof escaped, "\\%c", c);
        else if (c < 0x20 || c == 0x7f || (c > 0x7f && !is_plain))
            (void)snprintf(escaped, sizeof escaped, "\\u%04x", c);
        else
            (void)snprintf(escaped, sizeof escaped, "%c", c);
        put(l, escaped);
    }
    put(l, "\"");
}

static void begin(struct line *l, enum log_level level, const char *event)
{
    struct timespec t;
    struct tm tm;
    char text[64];
    (void)clock_gettime(CLOCK_REALTIME, &t);
    (void)gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text + n, sizeof text - n, ".%03ldZ", t.tv_nsec / 1000000);
    l->n = 0;
    put(l, "{\"time\":");
    put_quoted(l, text);
    put(l, ",\"level\":");
    put_quoted(l, names[level]);
    put(l, ",\"event\":");
    put_quoted(l, event);
}

/* False where the reader of stderr is too slow: the service does not wait for it. A pipe that
 * can be written takes a whole line: a line is shorter than PIPE_BUF, and this process is the
 * only writer. */
static bool write_line(struct line *l)
{
    struct pollfd err = { .fd = STDERR_FILENO, .events = POLLOUT };
    l->text[l->n++] = '}';
    l->text[l->n++] = '\n';
    if (poll(&err, 1, 0) == 0) return false;
    return write(STDERR_FILENO, l->text, l->n) >= 0 ||
           errno != EAGAIN; /* other errors cannot be logged anywhere */
}

static void write_or_count(struct line *l)
{
    struct line news;
    char text[32];
    (void)pthread_mutex_lock(&writing);
    if (lost > 0) {
        begin(&news, LOG_LEVEL_WARN, "log lines lost: their reader was too slow");
        (void)snprintf(text, sizeof text, ",\"lines\":%" PRIu64, lost);
        put(&news, text);
        if (write_line(&news)) lost = 0;
    }
    if (lost > 0 || !write_line(l)) lost++;
    (void)pthread_mutex_unlock(&writing);
}

void log_event(enum log_level level, const char *event, ...)
{
    if ((int)level < atomic_load_explicit(&threshold, memory_order_relaxed)) return;
    struct line l;
    char text[32];
    begin(&l, level, event);
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
    write_or_count(&l);
}
