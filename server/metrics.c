#include "server/metrics.h"

#include <inttypes.h>
#include <string.h>

static const double bounds_s[METRIC_BUCKETS - 1] = { 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                     0.05,  0.1,    0.25,  0.5,  1,
                                                     2.5,   5,      10,    30,   60 };
static const unsigned bounds_n[] = { 1, 2, 4, 8, 16, 32, 64, 128 };
static const char *const methods[METRIC_METHODS] = { "GET",    "HEAD",    "POST",  "PUT",
                                                     "DELETE", "OPTIONS", "PATCH", "other" };
static const int codes[METRIC_CODES] = { 200, 202, 204, 400, 401, 403, 404, 405, 408,
                                         413, 415, 422, 429, 500, 503, 504, 0 };
static const char *const reasons[REJECTED_REASONS] = { "queue_full", "memory", "draining",
                                                       "deadline" };

void metric_add(metric_number *m, uint64_t n)
{
    atomic_fetch_add_explicit(m, n, memory_order_relaxed);
}

void metric_set(metric_number *m, uint64_t n)
{
    atomic_store_explicit(m, n, memory_order_relaxed);
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

void metric_request(struct metrics *m, unsigned route, const char *method, int code)
{
    unsigned k = 0, c = 0;
    while (k < METRIC_METHODS - 1 && strcmp(methods[k], method) != 0)
        k++;
    while (codes[c] != 0 && codes[c] != code)
        c++;
    if (route >= METRIC_ROUTES) route = METRIC_ROUTES - 1;
    metric_add(&m->http_requests.n[route][k][c], 1);
}

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

static void requests(FILE *f, const char *name, const struct metric_requests *r,
                     const char *const *routes, unsigned n_routes)
{
    for (unsigned i = 0; i < METRIC_ROUTES; i++)
        for (unsigned k = 0; k < METRIC_METHODS; k++)
            for (unsigned c = 0; c < METRIC_CODES; c++) {
                uint64_t n = get(&r->n[i][k][c]);
                if (n)
                    (void)fprintf(f, "%s{route=\"%s\",method=\"%s\",code=\"%d\"} %" PRIu64 "\n",
                                  name, i < n_routes ? routes[i] : "other", methods[k], codes[c],
                                  n);
            }
}

static void rejected(FILE *f, const char *name, const metric_number *n)
{
    for (unsigned i = 0; i < REJECTED_REASONS; i++)
        (void)fprintf(f, "%s{reason=\"%s\"} %" PRIu64 "\n", name, reasons[i], get(&n[i]));
}

static void head(FILE *f, const char *name, const char *type, const char *help)
{
    (void)fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* What a TEXT metric is: its name ends the way Prometheus' counters do, or it is a gauge. */
static const char *text_type(const char *name)
{
    size_t n = strlen(name);
    return n > 6 && strcmp(name + n - 6, "_total") == 0 ? "counter" : "gauge";
}

void metrics_text(const struct metrics *m, FILE *f, const char *const *route_names,
                  unsigned n_routes, void (*more)(void *cls, const char *name, FILE *f), void *cls)
{
#define WRITE_COUNTER(field, name) head(f, name, "counter", help_), number(f, name, &m->field)
#define WRITE_GAUGE(field, name)   head(f, name, "gauge", help_), number(f, name, &m->field)
#define WRITE_HISTOGRAM(field, name)                                                               \
    head(f, name, "histogram", help_), histogram(f, name, &m->field)
#define WRITE_SIZES(field, name) head(f, name, "histogram", help_), sizes(f, name, &m->field)
#define WRITE_REQUESTS(field, name)                                                                \
    head(f, name, "counter", help_), requests(f, name, &m->field, route_names, n_routes)
#define WRITE_REJECTED(field, name) head(f, name, "counter", help_), rejected(f, name, m->field)
#define WRITE_TEXT(field, name)     head(f, name, text_type(name), help_), more(cls, name, f)
#define METRIC(field, name, type, help)                                                            \
    {                                                                                              \
        const char *help_ = help;                                                                  \
        WRITE_##type(field, name);                                                                 \
    }
#include "server/metrics.def"
#undef METRIC
}
