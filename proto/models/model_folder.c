#include "proto/models/model_folder.h"

#include <ctype.h>
#include <dirent.h>
#include <stddef.h>
#include <string.h>

int natural_order(const char *first, const char *second)
{
    const char *a = first, *b = second;
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            a += strspn(a, "0");
            b += strspn(b, "0");
            size_t n = strspn(a, "0123456789"), k = strspn(b, "0123456789");
            if (n != k) return n < k ? -1 : 1;
            int d = strncmp(a, b, n);
            if (d) return d;
            a += n;
            b += n;
        } else {
            if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++;
            b++;
        }
    }
    return *a ? 1 : *b ? -1 : strlen(first) < strlen(second) ? -1 : strcmp(first, second);
}

bool model_stem(char out[MODEL_NAME_MAX], const char *file, const char *suffix)
{
    size_t n = strlen(file), k = strlen(suffix);
    if (n <= k || n - k >= MODEL_NAME_MAX || strcmp(file + n - k, suffix) != 0) return false;
    for (size_t i = 0; i < n - k; i++)
        if (!isalnum((unsigned char)file[i]) && (i == 0 || !strchr("._-", file[i]))) return false;
    memcpy(out, file, n - k);
    out[n - k] = '\0';
    return true;
}

bool model_newest_version(char out[MODEL_NAME_MAX], const char *folder)
{
    bool found = false;
    char stem[MODEL_NAME_MAX];
    DIR *d = opendir(folder);
    if (!d) return false;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!model_stem(stem, e->d_name, ".safetensors")) continue;
        if (found && natural_order(stem, out) <= 0) continue;
        memcpy(out, stem, sizeof stem);
        found = true;
    }
    (void)closedir(d);
    return found;
}
