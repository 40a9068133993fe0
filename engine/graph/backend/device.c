#include "engine/graph/backend/device.h"

#include <string.h>

#include "engine/graph/backend.h"

enum status device_copy_in(struct backend *b, void *device, const void *host, size_t bytes,
                           struct error *err)
{
    if (!b->ops->device.host_memory) return b->ops->device.copy_in(b, device, host, bytes, err);
    memcpy(device, host, bytes);
    return ST_OK;
}

enum status device_copy_out(struct backend *b, void *host, const void *device, size_t bytes,
                            struct error *err)
{
    if (!b->ops->device.host_memory) return b->ops->device.copy_out(b, host, device, bytes, err);
    memcpy(host, device, bytes);
    return ST_OK;
}

enum status device_upload(struct backend *b, const void *host, size_t bytes, void **out,
                          struct error *err)
{
    void *p = NULL;
    enum status s = b->ops->device.alloc(b, bytes, &p, err);
    if (s) return s;
    s = device_copy_in(b, p, host, bytes, err);
    if (s) {
        b->ops->device.free(b, p);
        return s;
    }
    *out = p;
    return ST_OK;
}
