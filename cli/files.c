#include "cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/atomic_file.h"

static bool is_stream(const char *path)
{
    return strcmp(path, "-") == 0;
}

bool has_extension(const char *path, const char *extension)
{
    size_t n = strlen(path), e = strlen(extension);
    return n > e && strcasecmp(path + n - e, extension) == 0;
}

enum status output_check(const char *path, struct error *err)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const size_t len = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (len >= sizeof folder) return error_set(err, ST_IO, "%.256s: the path is too long", path);
    memcpy(folder, path, len);
    folder[len] = 0;
    if (access(len ? folder : ".", W_OK | X_OK) == 0) return ST_OK;
    return error_set(err, ST_IO, "%s: cannot write to its folder: %s", path, strerror(errno));
}

enum status output_format(enum image_format *out, const char *path, struct error *err)
{
    if (is_stream(path)) {
        *out = IMAGE_PNG;
        if (!isatty(STDOUT_FILENO)) return ST_OK;
        return error_set(err, ST_BAD_PARAMETER,
                         "the image is not for a terminal: name a file or redirect the output");
    }
    if (image_format_of_name(out, path)) return output_check(path, err);
    char extensions[64] = "";
    for (int f = 0; f < IMAGE_FORMAT_COUNT; f++) {
        const size_t used = strlen(extensions);
        (void)snprintf(extensions + used, sizeof extensions - used, "%s%s", f ? ", " : "",
                       image_formats[f].extensions[0]);
    }
    return error_set(err, ST_BAD_PARAMETER, "%s: the output is %s or - (PNG)", path, extensions);
}

static enum status read_all(void **bytes, size_t *len, const char *path, struct error *err)
{
    enum status s = ST_OK;
    char *all = NULL;
    size_t got = 0, cap = 0;
    int fd = is_stream(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    for (;;) {
        if (got == cap) {
            cap = cap ? cap * 2 : 1 << 16;
            char *more = cap <= LARGEST_INPUT_BYTES ? realloc(all, cap) : NULL;
            if (!more) {
                s = error_set(err,
                              cap <= LARGEST_INPUT_BYTES ? ST_NO_MEMORY_NOW : ST_BODY_TOO_LARGE,
                              "%s: more than %zu bytes", path, got);
                goto done;
            }
            all = more;
        }
        ssize_t n = read(fd, all + got, cap - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            s = error_set(err, ST_IO, "%s: %s", path, strerror(errno));
            goto done;
        }
        if (n == 0) break;
        got += (size_t)n;
    }
    *bytes = all;
    *len = got;
    all = NULL;
done:
    free(all);
    if (!is_stream(path)) close(fd);
    return s;
}

enum status image_read(struct image *out, const char *path, struct error *err)
{
    void *bytes = NULL;
    size_t len = 0;
    struct error why = { 0 };
    enum status s = read_all(&bytes, &len, path, err);
    if (s) return s;
    s = codec_decode(out, bytes, len, LARGEST_INPUT_PX, &why);
    if (s) s = error_set(err, s, "%s: %s", path, why.detail);
    free(bytes);
    return s;
}

static enum status write_stream(const void *bytes, size_t len, struct error *err)
{
    if (fwrite(bytes, 1, len, stdout) != len || fflush(stdout))
        return error_set(err, ST_IO, "standard output: %s", strerror(errno));
    return ST_OK;
}

enum status image_write(const char *path, const struct image *img, struct error *err)
{
    struct encode_options o = { .png_level = -1 };
    void *bytes = NULL;
    size_t len = 0;
    enum status s = output_format(&o.format, path, err);
    if (!s) s = codec_encode(&bytes, &len, img, &o, err);
    if (!s)
        s = is_stream(path) ? write_stream(bytes, len, err)
                            : atomic_file_save(path, bytes, len, err);
    free(bytes);
    return s;
}

enum status json_print(json_t *object, struct error *err)
{
    size_t len = 0;
    char *text = json_to_text(&len, object);
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the JSON");
    (void)puts(text); /* finish_stdout() reports what could not be written */
    free(text);
    return ST_OK;
}

int finish_stdout(const char *command)
{
    if (!fflush(stdout) && !ferror(stdout)) return 0;
    fprintf(stderr, "david %s: standard output: %s\n", command, strerror(errno));
    return 1;
}
