/* metrics.h - what the daemon counts, made from metrics.def, and its Prometheus text.
 *
 * Counting is lock-free and may happen on any thread; a text is a moment's view, each number by itself. Label values come
 * from tables of the program (routes, methods, codes), never from a client. */
#ifndef DAVID_SERVER_METRICS_H
#define DAVID_SERVER_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

enum { METRIC_BUCKETS = 16, METRIC_ROUTES = 16, METRIC_METHODS = 8, METRIC_CODES = 24 };
enum rejected {
    REJECTED_QUEUE_FULL,
    REJECTED_MEMORY,
    REJECTED_DRAINING,
    REJECTED_DEADLINE,
    REJECTED_REASONS
};

typedef _Atomic uint64_t metric_number;
struct metric_histogram {
    metric_number buckets[METRIC_BUCKETS]; /* not cumulative; the last is +Inf */
    metric_number sum;                     /* ns, or what was counted */
};
struct metric_requests {
    metric_number n[METRIC_ROUTES][METRIC_METHODS][METRIC_CODES];
};

#define METRIC_FIELD_COUNTER(f)   metric_number f;
#define METRIC_FIELD_GAUGE(f)     metric_number f;
#define METRIC_FIELD_HISTOGRAM(f) struct metric_histogram f;
#define METRIC_FIELD_SIZES(f)     struct metric_histogram f;
#define METRIC_FIELD_REQUESTS(f)  struct metric_requests f;
#define METRIC_FIELD_REJECTED(f)  metric_number f[REJECTED_REASONS];
#define METRIC_FIELD_TEXT(f)
struct metrics {
#define METRIC(field, name, type, help) METRIC_FIELD_##type(field)
#include "server/metrics.def"
#undef METRIC
};

void metric_add(metric_number *m, uint64_t n);
void metric_set(metric_number *m, uint64_t n);
void metric_time(struct metric_histogram *h, uint64_t ns);
void metric_size(struct metric_histogram *h, uint64_t n);
/* route: an index of the route table; method and code: any, unknown ones are counted as "other" and 0. */
void metric_request(struct metrics *m, unsigned route, const char *method, int code);

/* route_names: [n_routes]; `more` writes the TEXT metrics' samples, after their HELP and TYPE lines. */
void metrics_text(const struct metrics *m, FILE *f, const char *const *route_names,
                  unsigned n_routes, void (*more)(void *cls, const char *name, FILE *f), void *cls);

#endif
