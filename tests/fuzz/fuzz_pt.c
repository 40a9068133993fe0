/* Any bytes as a .pt file: as the zip, or as the pickle alone, which a zip's CRC protects from
 * mutations. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/models/state_dict.h"
#include "proto/models/unpickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void read_zip(const uint8_t *bytes, size_t len)
{
    struct torch_zip *z = NULL;
    struct state_dict c = { 0 };
    struct error err = { 0 };
    char path[64];
    int fd = memfd_create("fuzz.pt", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len) abort();
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    enum status s = torch_zip_open(&z, path, &err);
    (void)close(fd); /* libzip has opened its own descriptor */
    if (s) return;
    for (size_t i = 0; i < torch_zip_count(z); i++) {
        const struct st_tensor *t = torch_zip_at(z, i);
        void *data = malloc(t->count * dtype_size(t->dtype) + 1);
        if (data) (void)torch_zip_read(z, i, data, &err);
        free(data);
    }
    if (!state_dict_select(&c, z, NULL, &err)) state_dict_done(&c);
    torch_zip_close(z);
}

static void read_pickle(const uint8_t *bytes, size_t len)
{
    struct unpickled u = { 0 };
    struct error err = { 0 };
    if (unpickle(&u, bytes, len, &err)) return;
    for (size_t i = 0; i < u.n_tensors; i++) {
        const struct pickle_view *v = &u.tensors[i];
        uint64_t last = v->offset;
        for (uint32_t d = 0; d < v->tensor.dims; d++)
            if (v->tensor.count) last += (v->tensor.shape[d] - 1) * v->stride[d];
        if (v->tensor.count && last >= u.storages[v->storage].numel) abort();
    }
    unpickle_done(&u);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len >= 2 && bytes[0] == 'P' && bytes[1] == 'K')
        read_zip(bytes, len);
    else
        read_pickle(bytes, len);
    return 0;
}
