/* The container: libzip finds the pickle and the storages; unpickle.c interprets them. Sizes come
 * from the central directory only, and every entry must be stored uncompressed, so that no entry is
 * larger than the file. */
#include "proto/models/torch_zip.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#include "proto/models/unpickle.h"

enum { MAX_ENTRIES = 1 << 17, MAX_PREFIX = 256, MAX_PICKLE_ENTRY = 16 << 20 };

#define NO_ENTRY UINT64_MAX

struct torch_zip {
    zip_t *archive;
    uint64_t archive_bytes;
    char prefix[MAX_PREFIX]; /* with its '/' */
    struct unpickled pickle;
    uint64_t *entries; /* zip entry of each storage; NO_ENTRY for one that no tensor uses */
    void *cached;      /* the storage that was read last for a view */
    uint64_t cached_entry;
};

static enum status check_entry(struct torch_zip *z, uint64_t index, uint64_t *bytes,
                               struct error *err)
{
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD |
                                ZIP_STAT_ENCRYPTION_METHOD | ZIP_STAT_NAME;
    zip_stat_t info;
    zip_stat_init(&info);
    if (zip_stat_index(z->archive, index, 0, &info) != 0 || (info.valid & needed) != needed)
        return error_set(err, ST_BAD_FILE, "zip entry %" PRIu64 " has no sizes", index);
    if (info.comp_method != ZIP_CM_STORE || info.encryption_method != ZIP_EM_NONE)
        return error_set(
            err, ST_BAD_FILE,
            "zip entry %.100s is compressed or encrypted; a .pt file stores it plainly", info.name);
    if (info.size != info.comp_size || info.size > z->archive_bytes)
        return error_set(err, ST_BAD_FILE, "zip entry %.100s claims %" PRIu64 " bytes", info.name,
                         (uint64_t)info.size);
    *bytes = info.size;
    return ST_OK;
}

/* Reads the whole entry. libzip compares the CRC when it reaches the end, so the last read goes up
 * to it. */
static enum status read_entry(struct torch_zip *z, uint64_t index, void *dst, uint64_t bytes,
                              struct error *err)
{
    enum status s = ST_OK;
    uint64_t done = 0;
    char beyond;
    zip_file_t *file = zip_fopen_index(z->archive, index, 0);
    if (!file)
        return error_set(err, ST_BAD_FILE, "zip entry %" PRIu64 " cannot be opened: %s", index,
                         zip_strerror(z->archive));
    while (done < bytes) {
        zip_int64_t n = zip_fread(file, (char *)dst + done, bytes - done);
        if (n <= 0) break;
        done += (uint64_t)n;
    }
    if (done != bytes || zip_fread(file, &beyond, 1) != 0)
        s = error_set(err, ST_BAD_FILE, "zip entry %.100s is damaged: %s",
                      zip_get_name(z->archive, index, 0), zip_file_strerror(file));
    zip_fclose(file);
    return s;
}

static enum status find_pickle(struct torch_zip *z, uint64_t *index, struct error *err)
{
    static const char tail[] = "/data.pkl";
    zip_int64_t n = zip_get_num_entries(z->archive, 0);
    bool found = false;
    if (n < 0 || n > MAX_ENTRIES)
        return error_set(err, ST_BAD_FILE, "a zip of %" PRId64 " entries, more than %d", (int64_t)n,
                         MAX_ENTRIES);
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(z->archive, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (!slash || strcmp(slash, tail) != 0) continue;
        size_t prefix = (size_t)(slash - name) + 1;
        if (found || prefix >= MAX_PREFIX)
            return error_set(err, ST_BAD_FILE,
                             "the zip holds two data.pkl, or one in a long folder");
        found = true;
        memcpy(z->prefix, name, prefix);
        z->prefix[prefix] = '\0';
        *index = (uint64_t)i;
    }
    if (!found)
        return error_set(err, ST_BAD_FILE,
                         "a zip, but not PyTorch's: no */data.pkl inside (files of PyTorch before "
                         "1.6 must be saved again)");
    return ST_OK;
}

static enum status find_storage(struct torch_zip *z, size_t i, struct error *err)
{
    char name[MAX_PREFIX + STORAGE_KEY_MAX + 8];
    const struct pickle_storage *storage = &z->pickle.storages[i];
    uint64_t bytes = 0;
    (void)snprintf(name, sizeof name, "%sdata/%s", z->prefix, storage->key);
    zip_int64_t index = zip_name_locate(z->archive, name, ZIP_FL_ENC_RAW);
    if (index < 0)
        return error_set(err, ST_BAD_FILE, "the zip lacks %.100s, which a tensor needs", name);
    enum status s = check_entry(z, (uint64_t)index, &bytes, err);
    if (s) return s;
    if (bytes != storage->numel * dtype_size(storage->dtype))
        return error_set(err, ST_BAD_FILE,
                         "zip entry %.100s has %" PRIu64 " bytes, its storage needs %" PRIu64, name,
                         bytes, storage->numel * dtype_size(storage->dtype));
    z->entries[i] = (uint64_t)index;
    return ST_OK;
}

/* Newer files have an entry with their byte order; all older files are little-endian. */
static enum status check_byte_order(struct torch_zip *z, struct error *err)
{
    char name[MAX_PREFIX + 16], word[6];
    uint64_t bytes = 0;
    (void)snprintf(name, sizeof name, "%sbyteorder", z->prefix);
    zip_int64_t index = zip_name_locate(z->archive, name, ZIP_FL_ENC_RAW);
    if (index < 0) return ST_OK;
    enum status s = check_entry(z, (uint64_t)index, &bytes, err);
    if (s) return s;
    if (bytes != sizeof word)
        return error_set(err, ST_BAD_FILE, "the file's byte order is not \"little\"");
    s = read_entry(z, (uint64_t)index, word, sizeof word, err);
    if (s) return s;
    return memcmp(word, "little", sizeof word) == 0
               ? ST_OK
               : error_set(err, ST_BAD_FILE, "the file's byte order is not \"little\"");
}

static enum status read_directory(struct torch_zip *z, struct error *err)
{
    uint64_t index = 0, bytes = 0;
    void *text = NULL;
    enum status s = find_pickle(z, &index, err);
    if (!s) s = check_byte_order(z, err);
    if (!s) s = check_entry(z, index, &bytes, err);
    if (s) return s;
    if (bytes > MAX_PICKLE_ENTRY)
        return error_set(err, ST_BAD_FILE, "a pickle of %" PRIu64 " bytes, more than %d", bytes,
                         MAX_PICKLE_ENTRY);
    text = malloc((size_t)bytes + 1);
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory to read the pickle");
    s = read_entry(z, index, text, bytes, err);
    if (!s) s = unpickle(&z->pickle, text, (size_t)bytes, err);
    free(text);
    if (s) return s;
    z->entries = malloc((z->pickle.n_storages + 1) * sizeof *z->entries);
    if (!z->entries) return error_set(err, ST_NO_MEMORY_NOW, "no memory to read the zip");
    for (size_t i = 0; i < z->pickle.n_storages; i++)
        z->entries[i] = NO_ENTRY;
    for (size_t i = 0; i < z->pickle.n_tensors && !s; i++) {
        uint32_t storage = z->pickle.tensors[i].storage;
        if (z->entries[storage] == NO_ENTRY) s = find_storage(z, storage, err);
    }
    return s;
}

enum status torch_zip_open(struct torch_zip **out, const char *path, struct error *err)
{
    struct stat info;
    zip_error_t why;
    zip_source_t *source = NULL; /* until the archive owns it */
    struct error cause = { 0 };
    enum status s;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return error_set(err, ST_IO, "%s is not there or not a regular file", path);
    struct torch_zip *z = calloc(1, sizeof *z);
    if (!z) return error_set(err, ST_NO_MEMORY_NOW, "no memory to read %s", path);
    zip_error_init(&why);
    z->cached_entry = NO_ENTRY;
    z->archive_bytes = (uint64_t)info.st_size;
    source = zip_source_file_create(path, 0, 0, &why);
    if (!source) {
        s = error_set(err, ST_IO, "cannot open %s", path);
        goto done;
    }
    z->archive = zip_open_from_source(source, ZIP_RDONLY, &why);
    if (!z->archive) {
        s = error_set(err, ST_BAD_FILE, "%s is truncated or not a PyTorch zip: %s", path,
                      zip_error_strerror(&why));
        goto done;
    }
    source = NULL;
    s = read_directory(z, &cause);
    if (s) {
        (void)error_set(err, s, "%s: %s", path, cause.detail);
        goto done;
    }
    *out = z;
    z = NULL;
done:
    zip_source_free(source);
    zip_error_fini(&why);
    torch_zip_close(z);
    return s;
}

void torch_zip_close(struct torch_zip *z)
{
    if (!z) return;
    if (z->archive) zip_discard(z->archive);
    unpickle_done(&z->pickle);
    free(z->entries);
    free(z->cached);
    free(z);
}

size_t torch_zip_count(const struct torch_zip *z)
{
    return z->pickle.n_tensors;
}

const struct st_tensor *torch_zip_at(const struct torch_zip *z, size_t i)
{
    return i < z->pickle.n_tensors ? &z->pickle.tensors[i].tensor : NULL;
}

static bool is_contiguous(const struct pickle_view *v)
{
    uint64_t expected = 1;
    for (uint32_t i = v->tensor.dims; i-- > 0;) {
        if (v->tensor.shape[i] != 1 && v->stride[i] != expected) return false;
        expected *= v->tensor.shape[i];
    }
    return true;
}

/* unpickle() has checked that every element lies inside the storage. */
static void gather(char *dst, const char *storage, const struct pickle_view *v)
{
    size_t size = dtype_size(v->tensor.dtype);
    uint64_t index[ST_MAX_DIMS] = { 0 }, at = v->offset;
    for (size_t n = 0; n < v->tensor.count; n++) {
        memcpy(dst + n * size, storage + at * size, size);
        for (uint32_t d = v->tensor.dims; d-- > 0;) {
            at += v->stride[d];
            if (++index[d] < v->tensor.shape[d]) break;
            at -= v->stride[d] * v->tensor.shape[d];
            index[d] = 0;
        }
    }
}

enum status torch_zip_read(struct torch_zip *z, size_t i, void *dst, struct error *err)
{
    if (i >= z->pickle.n_tensors) return error_set(err, ST_INTERNAL, "no tensor %zu", i);
    const struct pickle_view *v = &z->pickle.tensors[i];
    const struct pickle_storage *storage = &z->pickle.storages[v->storage];
    uint64_t entry = z->entries[v->storage];
    size_t size = dtype_size(storage->dtype), bytes = (size_t)storage->numel * size;
    if (v->tensor.count == 0) return ST_OK;
    bool contiguous = is_contiguous(v);
    if (contiguous && v->tensor.count == storage->numel && entry != z->cached_entry)
        return read_entry(z, entry, dst, bytes, err);
    if (entry != z->cached_entry) {
        free(z->cached);
        z->cached_entry = NO_ENTRY;
        z->cached = malloc(bytes);
        if (!z->cached)
            return error_set(err, ST_NO_MEMORY_NOW, "no memory for a storage of %zu bytes", bytes);
        enum status s = read_entry(z, entry, z->cached, bytes, err);
        if (s) return s;
        z->cached_entry = entry;
    }
    if (contiguous)
        memcpy(dst, (const char *)z->cached + v->offset * size, v->tensor.count * size);
    else
        gather(dst, z->cached, v);
    return ST_OK;
}
