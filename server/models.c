#include "server/models.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/messages/messages.h"
#include "server/log.h"

struct models {
    struct memory *memory;
    struct served_model served[MODELS_MAX]; /* fixed once is_loaded */
    size_t n, standard;
    atomic_bool is_loaded;
};

enum status models_new(struct models **out, struct memory *memory, struct error *err)
{
    struct models *m = calloc(1, sizeof *m);
    if (!m) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the list of models");
    m->memory = memory;
    m->standard = SIZE_MAX;
    *out = m;
    return ST_OK;
}

static void free_on(struct model *const on[ENGINES_MAX])
{
    for (size_t i = 0; i < ENGINES_MAX; i++)
        model_free(on[i]);
}

void models_free(struct models *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        free_on(m->served[i].on);
        memory_unhold(m->memory, m->served[i].bytes);
    }
    free(m);
}

static enum status load_one(struct models *m, struct engine *const *engines, size_t count,
                            const char *path, const char *name, const char *version,
                            struct error *err)
{
    struct model *on[ENGINES_MAX] = { NULL };
    uint64_t bytes = 0;
    enum status s = ST_OK;
    if (m->n == MODELS_MAX)
        return error_set(err, ST_BAD_PARAMETER, "more than %d models in the folder", MODELS_MAX);
    for (size_t i = 0; !s && i < count; i++) {
        s = model_load(&on[i], engines[i], path, err);
        if (!s && model_describe(on[i])->role != ROLE_RESTORER)
            s = error_set(err, ST_BAD_FILE, "it is a prior, not a restorer");
        if (!s) s = model_warm(on[i], err);
        if (!s) bytes += model_bytes(on[i]);
    }
    if (!s) s = memory_hold(m->memory, bytes, err);
    if (s) {
        free_on(on);
        return s;
    }
    struct served_model *served = &m->served[m->n++];
    (void)snprintf(served->name, sizeof served->name, "%s", name);
    (void)snprintf(served->version, sizeof served->version, "%s", version);
    served->model = on[0];
    memcpy(served->on, on, sizeof on);
    served->bytes = bytes;
    log_event(LOG_LEVEL_INFO, "model loaded", "model", LOG_TEXT, name, "version", LOG_TEXT, version,
              "digest", LOG_TEXT, model_digest(on[0]), "bytes", LOG_NUMBER, (double)bytes, "rows",
              LOG_NUMBER, (double)model_rows(on[0]), NULL);
    return ST_OK;
}

struct found {
    char name[MODEL_NAME_MAX], version[MODEL_NAME_MAX], path[PATH_MAX];
};

/* The model that an entry of the folder holds: a file, or the newest of a folder of versions.
 * False: neither. */
static bool find(struct found *f, const char *folder, const char *entry)
{
    struct stat st;
    int n = snprintf(f->path, sizeof f->path, "%s/%s", folder, entry);
    if (n < 0 || (size_t)n >= sizeof f->path || stat(f->path, &st)) return false;
    f->version[0] = '\0';
    if (S_ISREG(st.st_mode)) return model_stem(f->name, entry, ".safetensors");
    if (!S_ISDIR(st.st_mode) || !model_stem(f->name, entry, "")) return false;
    if (!model_newest_version(f->version, f->path)) return false;
    n = snprintf(f->path, sizeof f->path, "%s/%s/%s.safetensors", folder, entry, f->version);
    return n > 0 && (size_t)n < sizeof f->path;
}

/* One name is one model, in whatever order the folder lists its entries: versions are served, a
 * file beside them is not. */
static enum status check_single(const struct found *f, const char *folder, struct error *err)
{
    char versions[PATH_MAX], unused[MODEL_NAME_MAX];
    if (f->version[0]) return ST_OK;
    int n = snprintf(versions, sizeof versions, "%s/%s", folder, f->name);
    if (n < 0 || (size_t)n >= sizeof versions || !model_newest_version(unused, versions))
        return ST_OK;
    return error_set(err, ST_BAD_FILE, "the folder %s beside it holds versions of the same name",
                     f->name);
}

enum status models_load(struct models *m, struct engine *const *engines, size_t count,
                        const char *folder, const char *default_name, struct error *err)
{
    struct dirent **entries;
    const int n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0) return error_set(err, ST_IO, "models = %.300s: %s", folder, strerror(errno));
    struct error first = { 0 };
    for (int i = 0; i < n; i++) {
        struct found f = { 0 };
        struct error why = { 0 };
        bool is_model = find(&f, folder, entries[i]->d_name);
        free(entries[i]);
        if (!is_model) continue;
        enum status s = check_single(&f, folder, &why);
        if (!s) s = load_one(m, engines, count, f.path, f.name, f.version, &why);
        bool is_default = strcmp(f.name, default_name) == 0;
        if (!s && is_default) m->standard = m->n - 1;
        if (!s) continue;
        log_event(LOG_LEVEL_ERROR, "model refused", "model", LOG_TEXT, f.name, "file", LOG_TEXT,
                  f.path, "detail", LOG_TEXT, why.detail, NULL);
        if (!is_default) continue;
        bool is_named = strncmp(why.detail, f.path, strlen(f.path)) == 0;
        (void)error_set(&first, s, "%.200s%s%.280s", is_named ? "" : f.path, is_named ? "" : ": ",
                        why.detail);
    }
    free(entries);
    if (m->standard == SIZE_MAX && first.status)
        return error_set(err, first.status, "default_model = %s: %.400s", default_name,
                         first.detail);
    if (m->standard == SIZE_MAX)
        return error_set(err, ST_UNKNOWN_MODEL, "default_model = %s is not in models = %.300s",
                         default_name, folder);
    atomic_store(&m->is_loaded, true);
    return ST_OK;
}

enum status models_acquire(struct models *m, const char *name, struct served_model **out,
                           struct error *err)
{
    if (!atomic_load(&m->is_loaded))
        return error_set(err, ST_NOT_READY, "the models are still being loaded");
    for (size_t i = 0; i < m->n; i++) {
        if (name ? strcmp(m->served[i].name, name) != 0 : i != m->standard) continue;
        atomic_fetch_add(&m->served[i].references, 1);
        *out = &m->served[i];
        return ST_OK;
    }
    return error_set(err, ST_UNKNOWN_MODEL, "there is no model '%.64s'; /v1/models lists them",
                     name ? name : "");
}

void models_release(struct served_model *s)
{
    if (s) atomic_fetch_sub(&s->references, 1);
}

char *models_json(struct models *m, size_t *len)
{
    struct message_model list[MODELS_MAX];
    size_t n = atomic_load(&m->is_loaded) ? m->n : 0;
    for (size_t i = 0; i < n; i++)
        list[i] = (struct message_model){ m->served[i].name, m->served[i].version,
                                          model_digest(m->served[i].model),
                                          model_describe(m->served[i].model), i == m->standard };
    return message_models(len, list, n);
}

void models_metric(struct models *m, const char *metric, FILE *f)
{
    size_t n = atomic_load(&m->is_loaded) ? m->n : 0;
    for (size_t i = 0; i < n; i++)
        (void)fprintf(f, "%s{model=\"%s\",version=\"%s\",digest=\"%.12s\",default=\"%d\"} 1\n",
                      metric, m->served[i].name, m->served[i].version,
                      model_digest(m->served[i].model), i == m->standard);
}
