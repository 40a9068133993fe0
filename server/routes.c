#include "server/routes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/messages/messages.h"
#include "proto/messages/openapi.h"
#include "server/restore.h"
#include "server/server.h"

static void answer_json(struct reply *r, int code, char *text, size_t len)
{
    r->code = text ? code : 500;
    r->type = "application/json";
    r->body = text;
    r->len = text ? len : 0;
}

static void answer_health(enum status (*ask)(struct server *s, struct error *err), struct server *s,
                          struct http_call *call, struct reply *r)
{
    struct error err = { 0 };
    size_t len = 0;
    if (ask(s, &err)) {
        reply_problem(r, &err, call->request_id, server_retry_after(s));
        return;
    }
    char *text = message_health(&len, "ok");
    answer_json(r, 200, text, len);
}

static void answer_live(struct server *s, struct http_call *call, struct reply *r)
{
    answer_health(server_alive, s, call, r);
}

static void answer_ready(struct server *s, struct http_call *call, struct reply *r)
{
    answer_health(server_ready, s, call, r);
}

static void answer_version(struct server *s, struct http_call *call, struct reply *r)
{
    (void)call;
    const struct engine_facts *f = engine_describe(s->engine);
    size_t len = 0;
    char *text =
        message_version(&len, &(struct message_version){ DAVID_VERSION, f->backend, f->dtype,
                                                         f->isa, f->reason, f->threads });
    answer_json(r, 200, text, len);
}

static void answer_models(struct server *s, struct http_call *call, struct reply *r)
{
    (void)call;
    size_t len = 0;
    char *text = models_json(s->models, &len);
    answer_json(r, 200, text, len);
}

static void answer_openapi(struct server *s, struct http_call *call, struct reply *r)
{
    (void)s, (void)call;
    r->code = 200;
    r->type = "application/json";
    r->body = (void *)(uintptr_t)openapi_json;
    r->len = openapi_json_len;
    r->is_static = true;
}

static double process_cpu_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One sample of every device that has gauges and knows this one. */
static void gpu_metric(struct server *s, const char *name, FILE *f)
{
    for (size_t gpu = 0; gpu < s->n_engines; gpu++) {
        struct engine_gauges g;
        if (!engine_gauges(s->engines[gpu], &g)) continue;
        const struct {
            const char *name;
            double value;
        } all[] = { { "david_gpu_utilization_ratio", g.busy },
                    { "david_gpu_memory_used_bytes", g.memory_used_bytes },
                    { "david_gpu_memory_total_bytes", g.memory_total_bytes },
                    { "david_gpu_power_watts", g.power_w },
                    { "david_gpu_temperature_celsius", g.temperature_c } };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (strcmp(name, all[i].name) == 0 && isfinite(all[i].value))
                (void)fprintf(f, "%s{gpu=\"%zu\",name=\"%s\"} %.15g\n", name, gpu, g.name,
                              all[i].value);
    }
}

static void write_text_metric(void *cls, const char *name, FILE *f)
{
    struct server *s = cls;
    const struct engine_facts *e = engine_describe(s->engine);
    unsigned long pages = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm) {
        if (fscanf(statm, "%lu %lu", &pages, &resident) != 2) pages = resident = 0;
        (void)fclose(statm);
    }
    long page = sysconf(_SC_PAGESIZE);
    if (strncmp(name, "david_gpu_", strlen("david_gpu_")) == 0)
        gpu_metric(s, name, f);
    else if (strcmp(name, "david_model_info") == 0)
        models_metric(s->models, name, f);
    else if (strcmp(name, "david_build_info") == 0)
        (void)fprintf(f, "%s{version=\"%s\",backend=\"%s\",dtype=\"%s\",isa=\"%s\"} 1\n", name,
                      DAVID_VERSION, e->backend, e->dtype, e->isa);
    else if (strcmp(name, "process_cpu_seconds_total") == 0)
        (void)fprintf(f, "%s %.3f\n", name, process_cpu_s());
    else if (strcmp(name, "process_resident_memory_bytes") == 0)
        (void)fprintf(f, "%s %lu\n", name, resident * (unsigned long)page);
    else if (strcmp(name, "process_virtual_memory_bytes") == 0)
        (void)fprintf(f, "%s %lu\n", name, pages * (unsigned long)page);
    else if (strcmp(name, "process_open_fds") == 0)
        (void)fprintf(f, "%s %u\n", name, server_open_fds());
    else if (strcmp(name, "process_start_time_seconds") == 0)
        (void)fprintf(f, "%s %.3f\n", name, server_start_time_s());
}

static void answer_metrics(struct server *s, struct http_call *call, struct reply *r)
{
    (void)call;
    const char *names[METRIC_ROUTES];
    char *text = NULL;
    size_t len = 0;
    struct error unused = { 0 };
    for (unsigned i = 0; i < n_routes; i++)
        names[i] = routes[i].path;
    metric_set(&s->metrics.queue_depth, queue_depth(s->queue));
    metric_set(&s->metrics.queue_rows, queue_tile_jobs(s->queue));
    metric_set(&s->metrics.requests_active, atomic_load(&s->active));
    metric_set(&s->metrics.memory_reserved, memory_reserved(&s->memory));
    metric_set(&s->metrics.memory_budget, s->memory.budget);
    metric_set(&s->metrics.ready, server_ready(s, &unused) == ST_OK);
    FILE *f = open_memstream(&text, &len);
    if (f) {
        metrics_text(&s->metrics, f, names, n_routes, write_text_metric, s);
        (void)fclose(f);
    }
    answer_json(r, 200, text, len);
    r->type = "text/plain; version=0.0.4; charset=utf-8";
}

const struct route routes[] = {
    { "/restore", "POST", ROLE_ANYONE, NULL, restore_begin, restore_submit, restore_abandon },
    { "/livez", "GET", ROLE_ANYONE, answer_live, NULL, NULL, NULL },
    { "/readyz", "GET", ROLE_ANYONE, answer_ready, NULL, NULL, NULL },
    { "/healthz", "GET", ROLE_ANYONE, answer_ready, NULL, NULL, NULL },
    { "/metrics", "GET", ROLE_ANYONE, answer_metrics, NULL, NULL, NULL },
    { "/version", "GET", ROLE_ANYONE, answer_version, NULL, NULL, NULL },
    { "/v1/models", "GET", ROLE_ANYONE, answer_models, NULL, NULL, NULL },
    { "/openapi.json", "GET", ROLE_ANYONE, answer_openapi, NULL, NULL, NULL },
};
const unsigned n_routes = sizeof routes / sizeof routes[0];

const struct route *route_find(const char *path)
{
    for (unsigned i = 0; i < n_routes; i++)
        if (strcmp(routes[i].path, path) == 0) return &routes[i];
    return NULL;
}

unsigned route_index(const struct route *r)
{
    return r ? (unsigned)(r - routes) : n_routes;
}

const char *route_allow(const struct route *r)
{
    return strcmp(r->method, "GET") == 0 ? "GET, HEAD" : "POST";
}
