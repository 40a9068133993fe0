#include "server/metrics.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "proto/error.h"

enum kind { COUNTER, GAUGE, HISTOGRAM, SIZES, LABELLED, TEXT };

static const double bounds_s[METRIC_BUCKETS - 1] = { 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                     0.05,  0.1,    0.25,  0.5,  1,
                                                     2.5,   5,      10,    30,   60 };
static const unsigned bounds_n[] = { 1, 2, 4, 8, 16, 32, 64, 128 };
static const char *const methods[] = { "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH" };

#define METRIC_KIND_COUNTER                                                                        \
    COUNTER,                                                                                       \
    {                                                                                              \
        NULL                                                                                       \
    }
#define METRIC_KIND_GAUGE                                                                          \
    GAUGE,                                                                                         \
    {                                                                                              \
        NULL                                                                                       \
    }
#define METRIC_KIND_HISTOGRAM                                                                      \
    HISTOGRAM,                                                                                     \
    {                                                                                              \
        NULL                                                                                       \
    }
#define METRIC_KIND_SIZES                                                                          \
    SIZES,                                                                                         \
    {                                                                                              \
        NULL                                                                                       \
    }
#define METRIC_KIND_LABELLED(...)                                                                  \
    LABELLED,                                                                                      \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define METRIC_KIND_TEXT(writer)                                                                   \
    TEXT,                                                                                          \
    {                                                                                              \
        NULL                                                                                       \
    }
static const struct row {
    const char *name, *help;
    size_t offset; /* of the field in struct metrics */
    enum kind kind;
    const char *labels[METRIC_LABELS];
} rows[METRIC_COUNT] = {
#define METRIC(field, name, type, help)                                                            \
    { name, help, offsetof(struct metrics, field), METRIC_KIND_##type },
#include "server/metrics.def"
#undef METRIC
};

void metrics_init(struct metrics *m)
{
    /* Every reason has a sample from the start, so that a rate over it is defined. */
    for (int s = 0; s < ST_COUNT; s++)
        if (status_reason((enum status)s))
            metric_count(&m->rejected, 0, status_reason((enum status)s));
}

void metric_add(metric_number *m, uint64_t n)
{
    atomic_fetch_add_explicit(m, n, memory_order_relaxed);
}

void metric_subtract(metric_number *m, uint64_t n)
{
    atomic_fetch_sub_explicit(m, n, memory_order_relaxed);
}

static uint64_t get(const metric_number *m)
{
    return atomic_load_explicit(m, memory_order_relaxed);
}

void metric_time(struct metric_histogram *h, uint64_t ns)
{
    unsigned i = 0;
    while (i < METRIC_BUCKETS - 1 && (double)ns > bounds_s[i] * 1e9)
        i++;
    metric_add(&h->buckets[i], 1);
    metric_add(&h->sum, ns);
}

void metric_size(struct metric_histogram *h, uint64_t n)
{
    unsigned i = 0;
    while (i < sizeof bounds_n / sizeof bounds_n[0] && n > bounds_n[i])
        i++;
    metric_add(&h->buckets[i], 1);
    metric_add(&h->sum, n);
}

/* ---- counters with labels ---- */

enum cell_state { CELL_FREE, CELL_TAKEN, CELL_READY };

void metric_count_values(struct metric_labelled *m, uint64_t n, const char *const *values)
{
    char key[METRIC_VALUES_MAX] = "";
    size_t len = 0;
    for (unsigned i = 0; i < METRIC_LABELS && values[i] && len < sizeof key; i++)
        len += (size_t)snprintf(key + len, sizeof key - len, "%s\n", values[i]);
    for (unsigned i = 0; i < METRIC_CELLS; i++) {
        struct metric_cell *c = &m->cells[i];
        unsigned state = atomic_load_explicit(&c->state, memory_order_acquire);
        if (state == CELL_FREE && atomic_compare_exchange_strong(&c->state, &state, CELL_TAKEN)) {
            memcpy(c->values, key, sizeof key);
            atomic_store_explicit(&c->state, CELL_READY, memory_order_release);
            state = CELL_READY;
        }
        while (state == CELL_TAKEN) /* another thread copies a few bytes */
            state = atomic_load_explicit(&c->state, memory_order_acquire);
        if (strcmp(c->values, key) == 0) {
            metric_add(&c->n, n);
            return;
        }
    }
    /* Not reached: the tables of the program have fewer sets of values than there are cells. */
}

static bool is_known(int code)
{
    bool known = code == 204; /* OPTIONS */
    for (int s = 0; s < ST_COUNT; s++)
        known = known || status_http((enum status)s) == code;
    return known;
}

void metric_request(struct metrics *m, const char *route, const char *method, int code)
{
    char text[16];
    const char *known = "other";
    for (unsigned k = 0; k < sizeof methods / sizeof methods[0]; k++)
        if (strcmp(methods[k], method) == 0) known = methods[k];
    (void)snprintf(text, sizeof text, "%d", is_known(code) ? code : 0);
    metric_count(&m->http_requests, 1, route, known, text);
}

/* ---- the text ---- */

static void number(FILE *f, const char *name, const metric_number *m)
{
    (void)fprintf(f, "%s %" PRIu64 "\n", name, get(m));
}

static void histogram(FILE *f, const char *name, const struct metric_histogram *h)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < METRIC_BUCKETS - 1; i++) {
        n += get(&h->buckets[i]);
        (void)fprintf(f, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, bounds_s[i], n);
    }
    n += get(&h->buckets[METRIC_BUCKETS - 1]);
    (void)fprintf(f, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    (void)fprintf(f, "%s_sum %.9f\n%s_count %" PRIu64 "\n", name, (double)get(&h->sum) * 1e-9, name,
                  n);
}

static void sizes(FILE *f, const char *name, const struct metric_histogram *h)
{
    uint64_t n = 0;
    unsigned last = sizeof bounds_n / sizeof bounds_n[0];
    for (unsigned i = 0; i < last; i++) {
        n += get(&h->buckets[i]);
        (void)fprintf(f, "%s_bucket{le=\"%u\"} %" PRIu64 "\n", name, bounds_n[i], n);
    }
    n += get(&h->buckets[last]);
    (void)fprintf(f, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    (void)fprintf(f, "%s_sum %" PRIu64 "\n%s_count %" PRIu64 "\n", name, get(&h->sum), name, n);
}

static void labelled(FILE *f, const struct row *row, const struct metric_labelled *m)
{
    for (unsigned i = 0; i < METRIC_CELLS; i++) {
        const struct metric_cell *c = &m->cells[i];
        if (atomic_load_explicit(&c->state, memory_order_acquire) != CELL_READY) continue;
        const char *value = c->values;
        (void)fputs(row->name, f);
        for (unsigned k = 0; k < METRIC_LABELS && row->labels[k]; k++) {
            int len = (int)strcspn(value, "\n");
            (void)fprintf(f, "%c%s=\"%.*s\"", k ? ',' : '{', row->labels[k], len, value);
            value += len + (value[len] == '\n');
        }
        (void)fprintf(f, "} %" PRIu64 "\n", get(&c->n));
    }
}

/* The name of a TEXT metric says its type: Prometheus' counters end with _total. */
static const char *text_type(const char *name)
{
    size_t n = strlen(name);
    return n > 6 && strcmp(name + n - 6, "_total") == 0 ? "counter" : "gauge";
}

static const char *type_of(const struct row *row)
{
    switch (row->kind) {
    case GAUGE: return "gauge";
    case HISTOGRAM:
    case SIZES: return "histogram";
    case TEXT: return text_type(row->name);
    case COUNTER:
    case LABELLED: break;
    }
    return "counter";
}

void metrics_text(const struct metrics *m, FILE *f, metric_writer *const *writers, void *context)
{
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        const struct row *row = &rows[i];
        const void *field = (const char *)m + row->offset;
        (void)fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name,
                      type_of(row));
        switch (row->kind) {
        case COUNTER:
        case GAUGE: number(f, row->name, field); break;
        case HISTOGRAM: histogram(f, row->name, field); break;
        case SIZES: sizes(f, row->name, field); break;
        case LABELLED: labelled(f, row, field); break;
        case TEXT: writers[i](context, row->name, f); break;
        }
    }
}
