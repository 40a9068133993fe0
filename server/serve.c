#include "server/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/batcher.h"
#include "server/clock.h"
#include "server/http/http.h"
#include "server/limits.h"
#include "server/log.h"
#include "server/notify.h"
#include "server/queue.h"
#include "server/restore/codec_pool.h"
#include "server/restore/restore.h"
#include "server/routes.h"
#include "server/service.h"

/* After a fault of the device: /readyz answers 503 for so long; then what waits is answered
 * within the second time; the process ends after the third at the latest. */
enum { FAULT_SEEN_MS = 1000, FAULT_ANSWERS_MS = 2000, FAULT_END_S = 4 };

/* What a request that arrives now waits for: tile jobs, and one for each request that is not
 * decoded yet. */
static uint64_t backlog(void *queue)
{
    return queue_tile_jobs(queue) + queue_depth(queue);
}

static void note_fault(void *cls, const struct error *err)
{
    struct server *s = cls;
    /* After the first fault every batch fails: one line at this level is enough. */
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

/* Waits until `until_ns` for a signal that ends the service; true where one came. False at once
 * where the device fails. */
static bool end_came(const sigset_t *set, uint64_t until_ns)
{
    for (;;) {
        uint64_t now = clock_now_ns(), left = until_ns > now ? until_ns - now : 0;
        struct timespec t = { (time_t)(left / NS_PER_S), (long)(left % NS_PER_S) };
        int number = sigtimedwait(set, NULL, &t);
        if (number == SIGTERM || number == SIGINT) return true;
        if (number == SIGUSR1) return false; /* note_fault, or another process */
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

/* Waits until every accepted request is answered: true; until until_ns: false. A second signal
 * ends the process. */
static bool wait_for_work(struct server *s, const sigset_t *set, uint64_t until_ns)
{
    while (atomic_load(&s->active) > 0) {
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

/* The device has failed for good, and only a new process finds it working: ends this one, after
 * what waits is answered 503. The alarm ends the process even where a library hangs. */
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

/* Models are loaded on a thread of their own, so that the main thread hears signals meanwhile.
 * The team of OpenMP threads that warms the models ends with that thread: libgomp counts the
 * teams of all threads, and its threads stop spinning when there are more of them than
 * processors. */
struct loading {
    struct service *service;
    struct error err;
    atomic_bool is_over;
};

static void *load(void *cls)
{
    struct loading *l = cls;
    struct service *v = l->service;
    const struct config *c = v->server.config;
    (void)models_load(v->models, v->engines, v->n_engines, c->models, c->default_model, &l->err);
    atomic_store(&l->is_over, true);
    return NULL;
}

static enum status load_models(struct service *v, const sigset_t *set, struct error *err)
{
    struct loading l = { .service = v };
    pthread_t thread;
    if (pthread_create(&thread, NULL, load, &l))
        return error_set(err, ST_INTERNAL, "cannot start a thread to load models");
    while (!atomic_load(&l.is_over)) {
        if (!end_came(set, clock_now_ns() + 10 * NS_PER_MS)) continue;
        log_event(LOG_LEVEL_INFO, "stopped while loading", NULL);
        _exit(0); /* nothing was accepted, and the load of a file cannot be interrupted */
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
                  "libnvidia-ml.so.1 cannot be loaded: no david_gpu_* metrics", NULL);
}

/* One engine for each GPU, or one on the CPU. */
static enum status open_engines(struct service *v, struct error *err)
{
    const struct config *c = v->server.config;
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
        enum status st = engine_open(&v->engines[i], &o, err);
        if (st) return st;
        v->n_engines++;
        const struct engine_facts *f = engine_describe(v->engines[i]);
        log_event(LOG_LEVEL_INFO, "engine", "backend", LOG_TEXT, f->backend, "dtype", LOG_TEXT,
                  f->dtype, "isa", LOG_TEXT, f->isa, "reason", LOG_TEXT, f->reason, "threads",
                  LOG_NUMBER, (double)f->threads, "device", LOG_NUMBER, (double)i, NULL);
        log_gauges(v->engines[i]);
        if (strcmp(f->backend, "cpu") == 0) break; /* `auto` has taken it in place of a GPU */
        o.backend = f->backend;
    }
    return ST_OK;
}

/* The parts that serve.c alone owns. */
struct daemon {
    struct service service;
    struct batcher *batchers[ENGINES_MAX]; /* [service.n_engines] */
    struct http *http;
};

static enum status start_batchers(struct daemon *d, struct error *err)
{
    struct service *v = &d->service;
    struct server *s = &v->server;
    const struct config *c = s->config;
    const uint64_t engine_batch = engine_describe(v->engines[0])->max_batch;
    struct batcher_options b = { .queue = v->queue,
                                 .engines = v->n_engines,
                                 .metrics = &s->metrics,
                                 .throughput = &s->throughput,
                                 .max_batch =
                                     engine_batch < c->max_batch ? engine_batch : c->max_batch,
                                 .max_delay_ns = c->max_delay,
                                 .done = restore_jobs_done,
                                 .fault = note_fault,
                                 .cls = s };
    enum status st = ST_OK;
    for (size_t i = 0; !st && i < v->n_engines; i++) {
        b.engine = v->engines[i];
        b.number = i;
        st = batcher_new(&d->batchers[i], &b, err);
    }
    return st;
}

static enum status start(struct daemon *d, struct error *err)
{
    struct service *v = &d->service;
    struct server *s = &v->server;
    const struct config *c = s->config;
    uint64_t files = c->max_connections + CONFIG_SPARE_FILES, may = limits_files(files);
    if (may < files)
        return error_set(err, ST_BAD_PARAMETER,
                         "max_connections = %" PRIu64 " needs %" PRIu64 " open files; %" PRIu64
                         " are allowed (RLIMIT_NOFILE, ulimit -n)",
                         c->max_connections, files, may);
    enum status st = open_engines(v, err);
    if (!st) st = models_new(&v->models, &s->memory, err);
    if (!st) st = queue_new(&v->queue, c->max_queue, err);
    if (!st) st = codec_pool_new(&v->codecs, c->codec_threads, err);
    if (!st) st = start_batchers(d, err);
    if (st) return st;
    s->backlog = backlog;
    s->backlog_context = v->queue;
    return http_new(&d->http, routes, n_routes, v, s, err);
}

/* Takes NULL parts: a start that failed. */
static void stop(struct daemon *d)
{
    struct service *v = &d->service;
    if (v->queue) queue_close(v->queue);
    for (size_t i = 0; i < v->n_engines; i++)
        batcher_free(d->batchers[i]);
    codec_pool_free(v->codecs);
    http_free(d->http);
    models_free(v->models);
    for (size_t i = 0; i < v->n_engines; i++)
        engine_close(v->engines[i]);
    queue_free(v->queue);
}

/* Blocks the signals that the main thread waits for: the threads that it starts inherit that. */
static void block_signals(sigset_t *set)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGHUP);
    (void)sigaddset(set, SIGUSR1);
    (void)sigprocmask(SIG_BLOCK, set, NULL);
}

/* Loads the models and serves until a signal or a fault of the device; returns the exit code. */
static int serve(struct daemon *d, const sigset_t *set)
{
    struct server *s = &d->service.server;
    const char *address = http_address(d->http);
    struct error err = { 0 };
    int code = 0;
    log_event(LOG_LEVEL_INFO, "listening", "address", LOG_TEXT, address, NULL);
    if (load_models(&d->service, set, &err)) return failed(&err);
    atomic_store(&s->is_ready, true);
    log_event(LOG_LEVEL_INFO, "ready", "address", LOG_TEXT, address, NULL);
    notify_manager("READY=1");
    bool is_over = false;
    while (!is_over && !atomic_load(&s->is_faulty))
        is_over = end_came(set, UINT64_MAX);
    if (is_over) code = drain(s, set);
    if (atomic_load(&s->is_faulty)) code = end_faulty(s, set);
    return code;
}

int serve_run(const struct config *config)
{
    static struct daemon daemon; /* large, and there is one */
    struct error err = { 0 };
    sigset_t set;
    /* Images are allocated and freed in megabytes: they go back to the system at once, not into
     * arenas. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 22);
    block_signals(&set);
    server_init(&daemon.service.server, config);
    if (!log_set_level(config->log_level)) {
        (void)error_set(&err, ST_BAD_PARAMETER, "log_level = %s is not debug, info, warn or error",
                        config->log_level);
        return failed(&err);
    }
    int code = start(&daemon, &err) ? failed(&err) : serve(&daemon, &set);
    stop(&daemon);
    log_event(LOG_LEVEL_INFO, "stopped", "code", LOG_NUMBER, (double)code, NULL);
    return code;
}
