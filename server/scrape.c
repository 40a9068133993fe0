#include "server/scrape.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "server/queue.h"

/* ---- one function for each TEXT row: metric_writer ---- */

static void write_number(const char *name, uint64_t value, FILE *f)
{
    (void)fprintf(f, "%s %" PRIu64 "\n", name, value);
}

static void write_queue_depth(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    write_number(name, queue_depth(v->queue), f);
}

static void write_queue_rows(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    write_number(name, queue_tile_jobs(v->queue), f);
}

static void write_requests_active(void *context, const char *name, FILE *f)
{
    struct service *v = context;
    write_number(name, atomic_load(&v->server.active), f);
}

static void write_memory_reserved(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    write_number(name, memory_reserved(&v->server.memory), f);
}

static void write_memory_budget(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    write_number(name, v->server.memory.budget, f);
}

static void write_ready(void *context, const char *name, FILE *f)
{
    struct service *v = context;
    struct error unused = { 0 };
    write_number(name, server_ready(&v->server, &unused) == ST_OK, f);
}

static void write_model_info(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    models_metric(v->models, name, f);
}

static void write_build_info(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    const struct engine_facts *e = engine_describe(v->engines[0]);
    (void)fprintf(f, "%s{version=\"%s\",backend=\"%s\",dtype=\"%s\",isa=\"%s\"} 1\n", name,
                  DAVID_VERSION, e->backend, e->dtype, e->isa);
}

/* One sample for each device that has gauges and knows this one. offset: of a double in struct
 * engine_gauges. */
static void write_gauge(const struct service *v, const char *name, size_t offset, FILE *f)
{
    for (size_t gpu = 0; gpu < v->n_engines; gpu++) {
        struct engine_gauges g;
        if (!engine_gauges(v->engines[gpu], &g)) continue;
        const double value = *(const double *)(const void *)((const char *)&g + offset);
        if (isfinite(value))
            (void)fprintf(f, "%s{gpu=\"%zu\",name=\"%s\"} %.15g\n", name, gpu, g.name, value);
    }
}

static void write_gpu_utilization(void *context, const char *name, FILE *f)
{
    write_gauge(context, name, offsetof(struct engine_gauges, busy), f);
}

static void write_gpu_memory_used(void *context, const char *name, FILE *f)
{
    write_gauge(context, name, offsetof(struct engine_gauges, memory_used_bytes), f);
}

static void write_gpu_memory_total(void *context, const char *name, FILE *f)
{
    write_gauge(context, name, offsetof(struct engine_gauges, memory_total_bytes), f);
}

static void write_gpu_power(void *context, const char *name, FILE *f)
{
    write_gauge(context, name, offsetof(struct engine_gauges, power_w), f);
}

static void write_gpu_temperature(void *context, const char *name, FILE *f)
{
    write_gauge(context, name, offsetof(struct engine_gauges, temperature_c), f);
}

static void write_process_cpu(void *context, const char *name, FILE *f)
{
    (void)context;
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    (void)fprintf(f, "%s %.3f\n", name, (double)t.tv_sec + (double)t.tv_nsec * 1e-9);
}

/* The two first numbers of /proc/self/statm, bytes; 0 where it cannot be read. */
struct process_memory {
    uint64_t virtual_bytes, resident_bytes;
};

static struct process_memory read_memory(void)
{
    unsigned long pages = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm) {
        if (fscanf(statm, "%lu %lu", &pages, &resident) != 2) pages = resident = 0;
        (void)fclose(statm);
    }
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (struct process_memory){ pages * page, resident * page };
}

static void write_process_resident(void *context, const char *name, FILE *f)
{
    (void)context;
    write_number(name, read_memory().resident_bytes, f);
}

static void write_process_virtual(void *context, const char *name, FILE *f)
{
    (void)context;
    write_number(name, read_memory().virtual_bytes, f);
}

static void write_process_fds(void *context, const char *name, FILE *f)
{
    (void)context;
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d) (void)closedir(d);
    write_number(name, n ? n - 1 : 0, f); /* without that of the folder itself */
}

static void write_process_start(void *context, const char *name, FILE *f)
{
    const struct service *v = context;
    (void)fprintf(f, "%s %.3f\n", name, v->server.start_time_s);
}

/* ---- the table ---- */

#define METRIC_WRITER_COUNTER       NULL
#define METRIC_WRITER_GAUGE         NULL
#define METRIC_WRITER_HISTOGRAM     NULL
#define METRIC_WRITER_SIZES         NULL
#define METRIC_WRITER_LABELLED(...) NULL
#define METRIC_WRITER_TEXT(writer)  writer
static metric_writer *const writers[METRIC_COUNT] = {
#define METRIC(field, name, type, help) METRIC_WRITER_##type,
#include "server/metrics.def"
#undef METRIC
};

void scrape(struct service *service, FILE *f)
{
    metrics_text(&service->server.metrics, f, writers, service);
}
