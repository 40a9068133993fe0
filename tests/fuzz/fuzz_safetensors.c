/* Any bytes as a safetensors file: opened or refused; every byte of an opened file can be read. */
#include <stdint.h>
#include <stdlib.h>

#include "proto/models/model_info.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static volatile unsigned sink;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    struct model_metadata metadata = { 0 };
    struct error err = { 0 };
    if (safetensors_open_memory(&st, bytes, len, "fuzz", &err)) return 0;
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        const unsigned char *p = t->data;
        unsigned sum = 0;
        for (size_t k = 0; k < t->count * dtype_size(t->dtype); k++)
            sum += p[k];
        sink = sum;
        if (safetensors_find(st, t->name) != t) abort();
    }
    if (!model_info_read(&info, st, &err)) {
        if (model_info_metadata(&metadata, &info, &err)) abort();
        model_metadata_done(&metadata);
        model_info_done(&info);
    }
    safetensors_close(st);
    return 0;
}
