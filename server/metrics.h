/* metrics.h - what the daemon counts, made from metrics.def, and its Prometheus text.
 *
 * Counting is lock-free and may happen on any thread; a text is the view of a moment, each
 * number by itself. Label values come from tables of the program (routes, methods, codes,
 * reasons), never from a client, so their number is bounded. */
#ifndef DAVID_SERVER_METRICS_H
#define DAVID_SERVER_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { METRIC_BUCKETS = 16, METRIC_LABELS = 3, METRIC_VALUES_MAX = 80, METRIC_CELLS = 512 };

typedef _Atomic uint64_t metric_number;
struct metric_histogram {
    metric_number buckets[METRIC_BUCKETS]; /* not cumulative; the last is +Inf */
    metric_number sum;                     /* ns, or what was counted */
};
struct metric_labelled { /* cells are taken in the order of first use and never given back */
    struct metric_cell {
        atomic_uint state;
        char values[METRIC_VALUES_MAX]; /* each followed by a line feed */
        metric_number n;
    } cells[METRIC_CELLS];
};
/* Writes the samples of one TEXT metric, after its HELP and TYPE lines. */
typedef void metric_writer(void *context, const char *name, FILE *f);

enum metric_index {
#define METRIC(field, name, type, help) METRIC_##field,
#include "server/metrics.def"
#undef METRIC
    METRIC_COUNT
};

#define METRIC_FIELD_COUNTER       metric_number
#define METRIC_FIELD_GAUGE         metric_number
#define METRIC_FIELD_HISTOGRAM     struct metric_histogram
#define METRIC_FIELD_SIZES         struct metric_histogram
#define METRIC_FIELD_LABELLED(...) struct metric_labelled
#define METRIC_FIELD_TEXT(writer)  char /* nothing is stored */
struct metrics {
#define METRIC(field, name, type, help) METRIC_FIELD_##type field;
#include "server/metrics.def"
#undef METRIC
};

void metrics_init(struct metrics *m); /* m: zeroed */
void metric_add(metric_number *m, uint64_t n);
void metric_subtract(metric_number *m, uint64_t n);
void metric_time(struct metric_histogram *h, uint64_t ns);
void metric_size(struct metric_histogram *h, uint64_t n);
/* metric_count(&m->rejected, 1, "queue_full"): one value, without line feeds or quotes, for each
 * label of the row. n = 0 makes the sample appear. */
#define metric_count(m, n, ...)                                                                    \
    metric_count_values((m), (n), (const char *const[METRIC_LABELS + 1]){ __VA_ARGS__ })
void metric_count_values(struct metric_labelled *m, uint64_t n, const char *const *values);
/* route: a path of the table of routes, or "other"; method and code: any, unknown ones are
 * counted as "other" and 0. */
void metric_request(struct metrics *m, const char *route, const char *method, int code);

/* writers: [METRIC_COUNT], those of the TEXT metrics; the others are not looked at. */
void metrics_text(const struct metrics *m, FILE *f, metric_writer *const *writers, void *context);

#endif
