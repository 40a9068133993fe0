/* Finds models: by path, or by name in the models folder. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"
#include "proto/models/model_folder.h"

static bool is_kind(const char *path, mode_t kind)
{
    struct stat st;
    return stat(path, &st) == 0 && (st.st_mode & S_IFMT) == kind;
}

static bool join(char out[PATH_MAX], const char *a, const char *b)
{
    int n = snprintf(out, PATH_MAX, "%s/%s", a, b);
    return n > 0 && n < PATH_MAX;
}

/* False where it does not fit. */
static bool copy(char *out, size_t cap, const char *text)
{
    int n = snprintf(out, cap, "%s", text);
    return n >= 0 && (size_t)n < cap;
}

enum status models_folder(char out[PATH_MAX], struct error *err)
{
    const char *set = getenv("DAVID_MODELS");
    if (set && *set) {
        if (!is_kind(set, S_IFDIR) || !copy(out, PATH_MAX, set))
            return error_set(err, ST_NOT_FOUND, "DAVID_MODELS = %s is not a folder", set);
        return ST_OK;
    }
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash) *slash = 0;
        if (join(out, self, "../share/david/models") && is_kind(out, S_IFDIR)) return ST_OK;
        if (join(out, self, "models") && is_kind(out, S_IFDIR)) return ST_OK;
    }
    if (is_kind(DAVID_TREE_MODELS, S_IFDIR) && copy(out, PATH_MAX, DAVID_TREE_MODELS)) return ST_OK;
    return error_set(err, ST_NOT_FOUND,
                     "no models folder: neither DAVID_MODELS, nor ../share/david/models or models "
                     "beside the program");
}

/* The file that the daemon serves under this name: the newest version, else NAME.safetensors. */
static bool find(char out[PATH_MAX], const char *folder, const char *name)
{
    char versions[PATH_MAX], version[MODEL_NAME_MAX];
    if (join(versions, folder, name) && model_newest_version(version, versions)) {
        int n = snprintf(out, PATH_MAX, "%s/%s.safetensors", versions, version);
        return n > 0 && n < PATH_MAX;
    }
    int n = snprintf(out, PATH_MAX, "%s/%s.safetensors", folder, name);
    return n > 0 && n < PATH_MAX && is_kind(out, S_IFREG);
}

enum status model_path(char out[PATH_MAX], const char *name, struct error *err)
{
    char folder[PATH_MAX], found[PATH_MAX], stem[MODEL_NAME_MAX];
    if (has_extension(name, ".pt") || has_extension(name, ".pth"))
        return error_set(err, ST_BAD_PARAMETER,
                         "%.256s: a PyTorch checkpoint is no model file: david convert makes one",
                         name);
    if (strchr(name, '/') || has_extension(name, ".safetensors")) {
        if (!is_kind(name, S_IFREG) || !copy(out, PATH_MAX, name))
            return error_set(err, ST_IO, "%.256s: no such model file", name);
        return ST_OK;
    }
    enum status s = models_folder(folder, err);
    if (s) return s;
    if (model_stem(stem, name, "") && find(found, folder, stem) && copy(out, PATH_MAX, found))
        return ST_OK;
    return error_set(err, ST_UNKNOWN_MODEL, "model \"%.64s\" is not in %.256s", name, folder);
}
