/* Descriptors with one owner, and the mapping of cuDNN's statuses. */
#include "engine/cuda/cudnn_internal.h"

void dnn_parts_done(struct dnn_parts *p)
{
    while (p->count > 0)
        (void)cudnnBackendDestroyDescriptor(p->all[--p->count]);
}

/* Maps cuDNN's statuses: a graph that an engine does not support is no fault. */
static enum status status_of(cudnnStatus_t s)
{
    if (s == CUDNN_STATUS_SUCCESS) return ST_OK;
    if (s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
        s == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
        return ST_NO_MEMORY_NOW;
    switch (s / 1000) { /* cuDNN 9 groups its statuses by thousands */
    case 2: return ST_INTERNAL;
    case 3: return ST_UNSUPPORTED;
    default: return ST_DEVICE_FAULT;
    }
}

void dnn_note(struct dnn_parts *p, cudnnStatus_t s, const char *what)
{
    if (s == CUDNN_STATUS_SUCCESS || p->status) return;
    char why[256] = "";
    cudnnGetLastErrorString(why, sizeof why);
    p->status =
        error_set(p->err, status_of(s), "cuDNN: %s: %s %s", what, cudnnGetErrorString(s), why);
}

dnn_part_t dnn_part(struct dnn_parts *p, cudnnBackendDescriptorType_t type)
{
    dnn_part_t d = NULL;
    if (p->status) return NULL;
    if (p->count == DNN_MAX_PARTS) {
        p->status =
            error_set(p->err, ST_INTERNAL, "cuDNN: more than %d descriptors", DNN_MAX_PARTS);
        return NULL;
    }
    dnn_note(p, cudnnBackendCreateDescriptor(type, &d), "a descriptor");
    if (!p->status) p->all[p->count++] = d;
    return d;
}

void dnn_set(struct dnn_parts *p, dnn_part_t d, cudnnBackendAttributeName_t name,
             cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (!p->status)
        dnn_note(p, cudnnBackendSetAttribute(d, name, type, count, values), "an attribute");
}

void dnn_set_part(struct dnn_parts *p, dnn_part_t d, cudnnBackendAttributeName_t name,
                  dnn_part_t value)
{
    dnn_set(p, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void dnn_finish(struct dnn_parts *p, dnn_part_t d, const char *what)
{
    if (!p->status) dnn_note(p, cudnnBackendFinalize(d), what);
}

/* The number of elements read; 0 where the attribute is not available. */
int64_t dnn_get(dnn_part_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t max, void *out)
{
    int64_t n = 0;
    if (cudnnBackendGetAttribute(d, name, type, max, &n, out) != CUDNN_STATUS_SUCCESS) return 0;
    return n < max ? n : max;
}
