#include "engine/davi/image_pool.h"

#include <stdlib.h>

#include "engine/graph/backend/images.h"

enum { BACK_MIB = 64 }; /* what may come back at a time */

/* ---- pieces ---- */

bool image_pool_take(struct image_pool *p, size_t device_bytes, size_t host_bytes,
                     struct image_pool_pieces *out)
{
    size_t on_device, on_host;
    pthread_mutex_lock(&p->lock);
    bool fits = free_list_take(&p->device_free, device_bytes, &on_device);
    if (fits && !free_list_take(&p->host_free, host_bytes, &on_host)) {
        free_list_return(&p->device_free, on_device);
        fits = false;
    }
    pthread_mutex_unlock(&p->lock);
    if (!fits) return false;
    *out = (struct image_pool_pieces){ p, p->device + on_device, p->host + on_host };
    return true;
}

void image_pool_return(struct image_pool_pieces *pieces)
{
    struct image_pool *p = pieces->pool;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    free_list_return(&p->device_free, (size_t)(pieces->device - p->device));
    free_list_return(&p->host_free, (size_t)(pieces->host - p->host));
    pthread_mutex_unlock(&p->lock);
    pieces->pool = NULL;
}

/* ---- flags of rows ---- */

enum status image_pool_check(struct image_pool *p, uint32_t stream_slot, uint32_t first, uint32_t n,
                             const float *x0, size_t row_floats, struct error *err)
{
    return p->backend->ops->images->find_bad(p->backend, x0, n, row_floats,
                                             p->bad[stream_slot] + first, err);
}

enum status image_pool_report(struct image_pool *p, uint32_t stream_slot, uint32_t n,
                              struct error *err)
{
    return p->backend->ops->device.receive(p->backend, stream_slot, p->host_bad[stream_slot],
                                           p->bad[stream_slot], n * sizeof(uint32_t), err);
}

bool image_pool_is_bad(const struct image_pool *p, uint32_t stream_slot, uint32_t i)
{
    return p->host_bad[stream_slot][i] != 0;
}

/* ---- the pool ---- */

void image_pool_close(struct image_pool *p)
{
    if (!p) return;
    const struct backend_ops *ops = p->backend->ops;
    ops->device.free(p->backend, p->device);
    ops->device.free(p->backend, p->bad[0]);
    ops->device.host_free(p->backend, p->host);
    ops->device.host_free(p->backend, p->host_bad[0]);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static enum status take_memory(struct image_pool *p, struct error *err)
{
    struct backend *b = p->backend;
    const struct backend_ops *ops = b->ops;
    const size_t flags = p->rows * sizeof(uint32_t);
    void *device = NULL, *host = NULL, *bad = NULL, *host_bad = NULL;
    enum status s = ops->device.alloc(b, p->device_free.bytes, &device, err);
    if (!s) s = ops->device.alloc(b, SAMPLER_STREAM_SLOTS * flags, &bad, err);
    if (!s) s = ops->device.host_alloc(b, p->host_free.bytes, &host, err);
    if (!s) s = ops->device.host_alloc(b, SAMPLER_STREAM_SLOTS * flags, &host_bad, err);
    p->device = device;
    p->host = host;
    for (uint32_t i = 0; i < SAMPLER_STREAM_SLOTS; i++) {
        p->bad[i] = bad ? (uint32_t *)bad + (size_t)i * p->rows : NULL;
        p->host_bad[i] = host_bad ? (uint32_t *)host_bad + (size_t)i * p->rows : NULL;
    }
    return s;
}

enum status image_pool_open(struct image_pool **out, struct backend *b, uint32_t rows,
                            struct error *err)
{
    if (!b->ops->images || b->ops->device.stream_slots < SAMPLER_STREAM_SLOTS) return ST_OK;
    struct image_pool *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a pool of images");
    if (pthread_mutex_init(&p->lock, NULL)) {
        free(p);
        return error_set(err, ST_INTERNAL, "a mutex could not be made");
    }
    p->backend = b;
    p->rows = rows;
    p->device_free.bytes = b->ops->images->pool_bytes(b);
    p->host_free.bytes = (size_t)BACK_MIB << 20;
    enum status s = take_memory(p, err);
    if (s)
        image_pool_close(p);
    else
        *out = p;
    return s;
}
