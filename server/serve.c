#include "server/serve.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/limits.h"
#include "server/log.h"
#include "server/notify.h"
#include "server/restore.h"
#include "server/server.h"

/* From a fault of the device to the end: those who watch /readyz see it, those who wait are answered; then, at the latest. */
enum { FAULT_SEEN_MS = 1000, FAULT_ANSWERS_MS = 2000, FAULT_END_S = 4 };

static double started_s;

double server_start_time_s(void)
{
    return started_s;
}

unsigned server_open_fds(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    (void)closedir(d);
    return n ? n - 1 : 0; /* without the folder's own */
}

enum status server_alive(struct server *s, struct error *err)
{
    if (!atomic_load(&s->is_faulty)) return ST_OK;
    return error_set(err, ST_DEVICE_FAULT, "the device has failed; this process is ending");
}

enum status server_ready(struct server *s, struct error *err)
{
    if (server_alive(s, err)) return err->status;
    if (atomic_load(&s->is_draining))
        return error_set(err, ST_DRAINING, "the service is shutting down");
    if (!atomic_load(&s->is_ready))
        return error_set(err, ST_NOT_READY, "the models are still being loaded");
    return ST_OK;
}

unsigned server_retry_after(struct server *s)
{
    return throughput_retry_after(&s->throughput,
                                  queue_tile_jobs(s->queue) + queue_depth(s->queue));
}

static void note_fault(void *cls, const struct error *err)
{
    struct server *s = cls;
    /* Once it has failed every batch does: one line says it. */
    const bool is_known = atomic_load(&s->is_faulty);
    log_event(is_known ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR, "batch failed", "detail", LOG_TEXT,
              err->detail, NULL);
    if (err->status != ST_DEVICE_FAULT || is_known) return;
    atomic_store(&s->is_faulty, true);
    (void)kill(getpid(), SIGUSR1); /* wakes the main thread */
}

static int failed(const struct error *err)
{
    log_event(LOG_LEVEL_ERROR, "cannot serve", "status", LOG_TEXT, status_name(err->status),
              "detail", LOG_TEXT, err->detail, NULL);
    return err->status == ST_UNSUPPORTED || err->status == ST_BAD_PARAMETER ? 2 : 1;
}

/* Waits until `until_ns` for a signal that ends the service; true where one came. A device that fails cuts it short: false. */
static bool end_came(const sigset_t *set, uint64_t until_ns)
{
    for (;;) {
        uint64_t now = clock_now_ns(), left = until_ns > now ? until_ns - now : 0;
        struct timespec t = { (time_t)(left / NS_PER_S), (long)(left % NS_PER_S) };
        int number = sigtimedwait(set, NULL, &t);
        if (number == SIGTERM || number == SIGINT) return true;
        if (number == SIGUSR1) return false; /* note_fault, or nobody that we know */
        if (number == SIGHUP)
            log_event(LOG_LEVEL_INFO, "SIGHUP: nothing is read again; restart to change settings",
                      NULL);
        else if (errno != EINTR)
            return false;
    }
}

static void exit_at_once(void)
{
    log_event(LOG_LEVEL_WARN, "second signal", NULL);
    _exit(1);
}

/* Until nothing accepted is unanswered, or until_ns; a second signal ends the process. */
static bool wait_for_work(struct server *s, const sigset_t *set, uint64_t until_ns)
{
    while (atomic_load(&s->active) > 0 || atomic_load(&s->working) > 0) {
        uint64_t now = clock_now_ns();
        if (now >= until_ns) return false;
        if (end_came(set, now + 10 * NS_PER_MS)) exit_at_once();
    }
    return true;
}

static int drain(struct server *s, const sigset_t *set)
{
    const struct config *c = s->config;
    atomic_store(&s->is_draining, true);
    notify_manager("STOPPING=1");
    log_event(LOG_LEVEL_INFO, "draining", "active", LOG_NUMBER, (double)atomic_load(&s->active),
              NULL);
    if (c->drain_delay && end_came(set, clock_now_ns() + c->drain_delay)) exit_at_once();
    atomic_store(&s->is_refusing, true);
    if (wait_for_work(s, set, clock_now_ns() + c->drain_timeout)) return 0;
    log_event(LOG_LEVEL_WARN, "drain_timeout has passed", "active", LOG_NUMBER,
              (double)atomic_load(&s->active), NULL);
    atomic_store(&s->is_aborting, true);
    (void)wait_for_work(s, set, UINT64_MAX);
    return 1;
}

static void exit_late(int number)
{
    (void)number;
    _exit(1);
}

/* The device has failed for good, and only a new process finds it working: ends this one, with what waits answered 503. A library
 * that hangs in its end does not hold it up. */
static int end_faulty(struct server *s, const sigset_t *set)
{
    (void)signal(SIGALRM, exit_late);
    (void)alarm(FAULT_END_S);
    notify_manager("STOPPING=1");
    log_event(LOG_LEVEL_ERROR, "the device has failed; ending", "active", LOG_NUMBER,
              (double)atomic_load(&s->active), NULL);
    const uint64_t from = clock_now_ns();
    while (clock_now_ns() < from + FAULT_SEEN_MS * NS_PER_MS)
        (void)end_came(set, from + FAULT_SEEN_MS * NS_PER_MS);
    atomic_store(&s->is_refusing, true);
    if (!wait_for_work(s, set, clock_now_ns() + FAULT_ANSWERS_MS * NS_PER_MS)) {
        atomic_store(&s->is_aborting, true);
        (void)wait_for_work(s, set, UINT64_MAX);
    }
    return 1;
}

/* Models are loaded on a thread of their own, so that signals are heard meanwhile; and so that the team of OpenMP threads that
 * warms them ends with it: libgomp counts the teams of all threads, and waits like on an overloaded machine when there are
 * more of their threads than processors. */
struct loading {
    struct server *server;
    struct error err;
    atomic_bool is_over;
};

static void *load(void *cls)
{
    struct loading *l = cls;
    const struct config *c = l->server->config;
    (void)models_load(l->server->models, l->server->engines, l->server->n_engines, c->models,
                      c->default_model, &l->err);
    atomic_store(&l->is_over, true);
    return NULL;
}

static enum status load_models(struct server *s, const sigset_t *set, struct error *err)
{
    struct loading l = { .server = s };
    pthread_t thread;
    if (pthread_create(&thread, NULL, load, &l))
        return error_set(err, ST_INTERNAL, "cannot start a thread to load models");
    while (!atomic_load(&l.is_over)) {
        if (!end_came(set, clock_now_ns() + 10 * NS_PER_MS)) continue;
        log_event(LOG_LEVEL_INFO, "stopped while loading", NULL);
        _exit(0); /* nothing was accepted, and reading a file cannot be broken off */
    }
    (void)pthread_join(thread, NULL);
    *err = l.err;
    return err->status;
}

static void log_gauges(const struct engine *e)
{
    struct engine_gauges g;
    if (strcmp(engine_describe(e)->backend, "cpu") == 0) return;
    if (engine_gauges(e, &g))
        log_event(LOG_LEVEL_INFO, "gauges of the device", "device", LOG_TEXT, g.name, NULL);
    else
        log_event(LOG_LEVEL_INFO, "no gauges of the device", "detail", LOG_TEXT,
                  "libnvidia-ml.so.1 is not to be had: no david_gpu_* metrics", NULL);
}

/* One a GPU, or one on the CPU. */
static enum status open_engines(struct server *s, struct error *err)
{
    const struct config *c = s->config;
    size_t count = engine_devices(c->backend);
    if (c->devices > 0 && count > c->devices) count = c->devices;
    if (count > ENGINES_MAX) count = ENGINES_MAX;
    struct engine_options o = { .backend = c->backend,
                                .dtype = c->dtype,
                                .threads = (int)c->threads,
                                .max_batch = (uint32_t)c->max_batch,
                                .deterministic = c->deterministic != 0,
                                .engines = (uint32_t)count };
    for (size_t i = 0; i < count; i++) {
        o.device = (uint32_t)i;
        enum status st = engine_open(&s->engines[i], &o, err);
        if (st) return st;
        s->n_engines++;
        const struct engine_facts *f = engine_describe(s->engines[i]);
        log_event(LOG_LEVEL_INFO, "engine", "backend", LOG_TEXT, f->backend, "dtype", LOG_TEXT,
                  f->dtype, "isa", LOG_TEXT, f->isa, "reason", LOG_TEXT, f->reason, "threads",
                  LOG_NUMBER, (double)f->threads, "device", LOG_NUMBER, (double)i, NULL);
        log_gauges(s->engines[i]);
        if (strcmp(f->backend, "cpu") == 0) break; /* `auto` has had to take it */
        o.backend = f->backend;
    }
    s->engine = s->engines[0];
    return ST_OK;
}

static enum status start_batchers(struct server *s, struct error *err)
{
    const struct config *c = s->config;
    const uint64_t engine_batch = engine_describe(s->engine)->max_batch;
    struct batcher_options b = { .queue = s->queue,
                                 .engines = s->n_engines,
                                 .metrics = &s->metrics,
                                 .throughput = &s->throughput,
                                 .max_batch =
                                     engine_batch < c->max_batch ? engine_batch : c->max_batch,
                                 .max_delay_ns = c->max_delay,
                                 .done = restore_jobs_done,
                                 .fault = note_fault,
                                 .cls = s };
    enum status st = ST_OK;
    for (size_t i = 0; !st && i < s->n_engines; i++) {
        b.engine = s->engines[i];
        b.number = i;
        st = batcher_new(&s->batchers[i], &b, err);
    }
    return st;
}

static enum status start(struct server *s, struct error *err)
{
    const struct config *c = s->config;
    uint64_t files = c->max_connections + CONFIG_SPARE_FILES, may = limits_files(files);
    if (may < files)
        return error_set(err, ST_BAD_PARAMETER,
                         "max_connections = %" PRIu64 " needs %" PRIu64 " open files; %" PRIu64
                         " are allowed (RLIMIT_NOFILE, ulimit -n)",
                         c->max_connections, files, may);
    enum status st = open_engines(s, err);
    if (!st) st = models_new(&s->models, &s->memory, err);
    if (!st) st = queue_new(&s->queue, c->max_queue, err);
    if (!st) st = codec_pool_new(&s->codecs, c->codec_threads, err);
    if (!st) st = start_batchers(s, err);
    if (!st) st = http_new(&s->http, s, err);
    return st;
}

int serve_run(const struct config *config)
{
    static struct server server; /* large, and there is one */
    struct server *s = &server;
    struct error err = { 0 };
    struct timespec now;
    sigset_t set;
    int code = 0;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    started_s = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    /* Images come and go in megabytes: given back to the system at once, not kept in arenas. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 22);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* before there are threads: they inherit it */
    s->config = config;
    memory_init(&s->memory, config->memory_budget);
    if (!log_set_level(config->log_level)) {
        (void)error_set(&err, ST_BAD_PARAMETER, "log_level = %s is not debug, info, warn or error",
                        config->log_level);
        return failed(&err);
    }
    if (start(s, &err)) {
        code = failed(&err);
    } else {
        log_event(LOG_LEVEL_INFO, "listening", "address", LOG_TEXT, http_address(s->http), NULL);
        if (load_models(s, &set, &err)) {
            code = failed(&err);
        } else {
            atomic_store(&s->is_ready, true);
            log_event(LOG_LEVEL_INFO, "ready", "address", LOG_TEXT, http_address(s->http), NULL);
            notify_manager("READY=1");
            bool is_over = false;
            while (!is_over && !atomic_load(&s->is_faulty))
                is_over = end_came(&set, UINT64_MAX);
            if (is_over) code = drain(s, &set);
            if (atomic_load(&s->is_faulty)) code = end_faulty(s, &set);
        }
    }
    if (s->queue) queue_close(s->queue);
    for (size_t i = 0; i < s->n_engines; i++)
        batcher_free(s->batchers[i]);
    codec_pool_free(s->codecs);
    http_free(s->http);
    models_free(s->models);
    for (size_t i = 0; i < s->n_engines; i++)
        engine_close(s->engines[i]);
    queue_free(s->queue);
    log_event(LOG_LEVEL_INFO, "stopped", "code", LOG_NUMBER, (double)code, NULL);
    return code;
}
