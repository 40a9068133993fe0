#include "engine/train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/graph/backend/device.h"
#include "proto/models/digest.h"
#include "proto/models/safetensors.h"

enum { ARRAYS = 4, MOST_TENSORS = CHECKPOINT_NETS * ARRAYS, NAME_MAX_CHARS = 64 };
static const char prefix[] = "step-", suffix[] = ".safetensors";

/* The allocated arrays of a trainable, with their names in the file. */
struct array {
    char name[NAME_MAX_CHARS];
    float *values;
    size_t count;
    struct backend *b;
};

static size_t arrays_of(const struct checkpoint *c, struct array *out)
{
    static const char *const names[ARRAYS] = { "params", "m", "v", "average" };
    size_t n = 0;
    for (uint32_t i = 0; i < c->n_nets; i++) {
        const struct trainable *l = c->nets[i];
        float *const values[ARRAYS] = { l->params, l->m, l->v, l->average };
        for (int k = 0; k < ARRAYS; k++) {
            if (!values[k]) continue;
            out[n] = (struct array){ .values = values[k], .count = l->layout.count, .b = l->b };
            (void)snprintf(out[n++].name, NAME_MAX_CHARS, "%s.%s", c->names[i], names[k]);
        }
    }
    return n;
}

/* ---- writing ---- */

static enum status fill(void *ctx, size_t i, void *dst, struct error *err)
{
    const struct array *a = (const struct array *)ctx + i;
    return device_copy_out(a->b, dst, a->values, a->count * sizeof(float), err);
}

static bool step_of(const char *name, uint64_t *step)
{
    char *end = NULL;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return false;
    *step = strtoull(name + sizeof prefix - 1, &end, 10);
    return end != name + sizeof prefix - 1 && strcmp(end, suffix) == 0;
}

/* Removes all checkpoints but the last `keep`. A file that cannot be removed does not fail the
 * run. */
static void prune(const char *folder, uint32_t keep)
{
    for (;;) {
        uint64_t oldest = UINT64_MAX, step;
        uint32_t count = 0;
        char name[64], path[PATH_MAX];
        DIR *d = opendir(folder);
        if (!d) return;
        for (struct dirent *e; (e = readdir(d));) {
            if (!step_of(e->d_name, &step)) continue;
            count++;
            if (step >= oldest) continue;
            oldest = step;
            (void)snprintf(name, sizeof name, "%.63s", e->d_name);
        }
        closedir(d);
        if (count <= keep) return;
        if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path || unlink(path))
            return;
    }
}

enum status checkpoint_write(char path[PATH_MAX], const char *folder, const struct checkpoint *c,
                             uint32_t keep, struct error *err)
{
    struct array arrays[MOST_TENSORS];
    struct st_tensor tensors[MOST_TENSORS];
    struct st_meta meta[CHECKPOINT_SETTINGS + CHECKPOINT_NETS + 1];
    char texts[CHECKPOINT_NETS + 1][32], keys[CHECKPOINT_NETS][NAME_MAX_CHARS];
    size_t n = arrays_of(c, arrays), m = 0;
    for (size_t i = 0; i < n; i++)
        tensors[i] = (struct st_tensor){ .name = arrays[i].name,
                                         .dtype = DT_F32,
                                         .dims = 1,
                                         .shape = { arrays[i].count },
                                         .count = arrays[i].count };
    for (uint32_t i = 0; i < c->n_settings; i++)
        meta[m++] = (struct st_meta){ c->settings[i].name, c->settings[i].value };
    for (uint32_t i = 0; i < c->n_nets; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "%s.updates", c->names[i]);
        (void)snprintf(texts[i], sizeof texts[i], "%" PRIu64, c->nets[i]->updates);
        meta[m++] = (struct st_meta){ keys[i], texts[i] };
    }
    (void)snprintf(texts[c->n_nets], sizeof texts[0], "%" PRIu64, c->step);
    meta[m++] = (struct st_meta){ "step", texts[c->n_nets] };
    if (mkdir(folder, 0777) && errno != EEXIST)
        return error_set(err, ST_IO, "%s: %s", folder, strerror(errno));
    if (snprintf(path, PATH_MAX, "%s/%s%09" PRIu64 "%s", folder, prefix, c->step, suffix) >=
        PATH_MAX)
        return error_set(err, ST_IO, "%s: the path is too long", folder);
    enum status s = safetensors_write(path, tensors, n, meta, m, fill, arrays, err);
    if (!s) prune(folder, keep);
    return s;
}

/* ---- reading ---- */

bool checkpoint_find(char path[PATH_MAX], const char *folder)
{
    bool found = false;
    uint64_t best = 0, step;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!step_of(e->d_name, &step) || (found && step < best)) continue;
        if (snprintf(path, PATH_MAX, "%s/%.63s", folder, e->d_name) >= PATH_MAX) continue;
        found = true;
        best = step;
    }
    if (d) closedir(d);
    return found;
}

static enum status read_count(const struct safetensors *st, const char *path, const char *key,
                              uint64_t *out, struct error *err)
{
    const char *text = safetensors_metadata(st, key);
    char *end = NULL;
    errno = 0;
    uint64_t v = text ? strtoull(text, &end, 10) : 0;
    if (!text || *text < '0' || *text > '9' || *end || errno)
        return error_set(err, ST_BAD_FILE, "%s: not a checkpoint: no %s in its metadata", path,
                         key);
    *out = v;
    return ST_OK;
}

static enum status check_settings(const struct safetensors *st, const char *path,
                                  const struct checkpoint *c, struct error *err)
{
    for (uint32_t i = 0; i < c->n_settings; i++) {
        const struct checkpoint_setting *k = &c->settings[i];
        const char *there = safetensors_metadata(st, k->name);
        if (there && strcmp(there, k->value) == 0) continue;
        if (there && strlen(k->value) == DIGEST_HEX - 1)
            return error_set(err, ST_BAD_FILE, "%s: it is of another run: another %s", path,
                             k->name);
        return error_set(err, ST_BAD_FILE,
                         "%s: it is of another run: %s = %.100s there, %.100s here", path, k->name,
                         there ? there : "nothing", k->value);
    }
    return ST_OK;
}

static enum status check_array(const struct safetensors *st, const char *path,
                               const struct array *a, struct error *err)
{
    const struct st_tensor *t = safetensors_find(st, a->name);
    if (!t || t->dtype != DT_F32 || t->count != a->count)
        return error_set(err, ST_BAD_FILE,
                         "%s: it is of another architecture: %s has %zu values there, %zu here",
                         path, a->name, t ? t->count : 0, a->count);
    for (size_t i = 0; i < t->count; i++) {
        float v;
        memcpy(&v, (const char *)t->data + i * sizeof v, sizeof v);
        if (!isfinite(v))
            return error_set(err, ST_BAD_FILE, "%s: value %zu of %s is not finite", path, i,
                             a->name);
    }
    return ST_OK;
}

enum status checkpoint_read(const char *path, struct checkpoint *c, struct error *err)
{
    struct array arrays[MOST_TENSORS];
    const size_t n = arrays_of(c, arrays);
    uint64_t updates[CHECKPOINT_NETS] = { 0 }, step = 0;
    struct safetensors *st = NULL;
    enum status s = safetensors_open(&st, path, err);
    if (!s) s = read_count(st, path, "step", &step, err);
    if (!s) s = check_settings(st, path, c, err);
    for (size_t i = 0; !s && i < n; i++)
        s = check_array(st, path, &arrays[i], err);
    for (uint32_t i = 0; !s && i < c->n_nets; i++) {
        char key[NAME_MAX_CHARS];
        (void)snprintf(key, sizeof key, "%s.updates", c->names[i]);
        s = read_count(st, path, key, &updates[i], err);
    }
    for (size_t i = 0; !s && i < n; i++)
        s = device_copy_in(arrays[i].b, arrays[i].values,
                           safetensors_find(st, arrays[i].name)->data,
                           arrays[i].count * sizeof(float), err);
    for (uint32_t i = 0; !s && i < c->n_nets; i++) {
        c->nets[i]->updates = updates[i];
        s = tape_pack(c->nets[i]->tape, err);
    }
    if (!s) c->step = step;
    safetensors_close(st);
    return s;
}
