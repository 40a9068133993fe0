/* Where models are: a path, or a name in the models folder. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"

int natural_order(const char *a, const char *b)
{
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            while (*a == '0' && isdigit((unsigned char)a[1]))
                a++;
            while (*b == '0' && isdigit((unsigned char)b[1]))
                b++;
            size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
            int order = na != nb ? (na < nb ? -1 : 1) : strncmp(a, b, na);
            if (order) return order;
            a += na;
            b += nb;
        } else if (*a != *b)
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        else {
            a++;
            b++;
        }
    }
    return *a ? 1 : *b ? -1 : 0;
}

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

/* The newest NAME/VERSION.safetensors. */
static bool newest_version(char out[PATH_MAX], const char *folder)
{
    char best[NAME_MAX + 1] = "";
    DIR *d = opendir(folder);
    if (!d) return false;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && has_extension(e->d_name, ".safetensors") &&
            (!*best || natural_order(best, e->d_name) < 0))
            (void)copy(best, sizeof best, e->d_name);
    closedir(d);
    return *best && join(out, folder, best);
}

enum status model_path(char out[PATH_MAX], const char *name, struct error *err)
{
    char folder[PATH_MAX], found[PATH_MAX], file[PATH_MAX];
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
    if (strlen(name) <= NAME_MAX && *name != '.') {
        snprintf(file, sizeof file, "%s.safetensors", name);
        bool is_there = (join(found, folder, file) && is_kind(found, S_IFREG)) ||
                        (join(file, folder, name) && newest_version(found, file));
        if (is_there && copy(out, PATH_MAX, found)) return ST_OK;
    }
    return error_set(err, ST_UNKNOWN_MODEL, "model \"%.64s\" is not in %.256s", name, folder);
}
