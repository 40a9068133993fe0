#include "server/server.h"

#include <time.h>

void server_init(struct server *s, const struct config *config)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    s->start_time_s = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    s->config = config;
    memory_init(&s->memory, config->memory_budget);
    metrics_init(&s->metrics);
}

enum status server_alive(struct server *s, struct error *err)
{
    if (!atomic_load(&s->is_faulty)) return ST_OK;
    return error_set(err, ST_DEVICE_FAULT, "the device has failed; this process is ending");
}

enum status server_ready(struct server *s, struct error *err)
{
    if (server_alive(s, err)) return ST_DEVICE_FAULT;
    if (atomic_load(&s->is_draining))
        return error_set(err, ST_DRAINING, "the service is shutting down");
    if (!atomic_load(&s->is_ready))
        return error_set(err, ST_NOT_READY, "the models are still being loaded");
    return ST_OK;
}

enum status server_admits(struct server *s, struct error *err)
{
    if (atomic_load(&s->is_refusing))
        return error_set(err, ST_DRAINING, "the service is shutting down");
    if (!atomic_load(&s->is_ready))
        return error_set(err, ST_NOT_READY, "the models are still being loaded");
    if (atomic_load(&s->is_faulty))
        return error_set(err, ST_DEVICE_FAULT,
                         "the device has failed; the service needs a restart");
    return ST_OK;
}

unsigned server_retry_after(struct server *s)
{
    return throughput_retry_after(&s->throughput, s->backlog(s->backlog_context));
}
