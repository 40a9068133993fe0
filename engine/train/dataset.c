#include "engine/train/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/images/codec.h"

enum { LARGEST_FILE_BYTES = 1 << 28, LARGEST_PHOTO_PX = 1 << 28 };

enum file_state { FILE_RESTING, FILE_BEING_READ, FILE_DECODED, FILE_UNUSABLE };

struct file {
    struct photo photo; /* first: dataset_return finds the file by it */
    char *name;
    off_t size;
    struct timespec changed;
    enum file_state state;
    uint32_t taken;
    uint64_t last_use;
};

struct dataset {
    struct dataset_options o;
    char *folder, digest[DIGEST_HEX];
    struct file *files;
    uint32_t count;
    pthread_mutex_t lock; /* guards the members below, and the files' states, counts and photos */
    pthread_cond_t read;  /* a file is no longer being read */
    uint32_t unusable;
    size_t cached_bytes;
    uint64_t uses;
};

/* ---- listing ---- */

static bool is_image(const char *name)
{
    enum image_format format;
    return name[0] != '.' && image_format_of_name(&format, name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct file *)a)->name, ((const struct file *)b)->name);
}

static enum status list(struct dataset *d, struct error *err)
{
    enum status s = ST_OK;
    uint32_t capacity = 0;
    DIR *dir = opendir(d->folder);
    if (!dir) return error_set(err, ST_IO, "%s: %s", d->folder, strerror(errno));
    for (struct dirent *e; !s && (e = readdir(dir));) {
        struct stat st;
        if (!is_image(e->d_name) || fstatat(dirfd(dir), e->d_name, &st, 0) || !S_ISREG(st.st_mode))
            continue;
        if (d->count == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            struct file *more = realloc(d->files, capacity * sizeof *more);
            if (more) d->files = more;
            if (!more) s = error_set(err, ST_NO_MEMORY_NOW, "no memory to list %s", d->folder);
        }
        if (s) break;
        d->files[d->count] =
            (struct file){ .name = strdup(e->d_name), .size = st.st_size, .changed = st.st_mtim };
        if (!d->files[d->count].name)
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory to list %s", d->folder);
        else
            d->count++;
    }
    closedir(dir);
    if (!s && d->count == 0)
        return error_set(err, ST_BAD_FILE, "%s: no %s file in it", d->folder,
                         image_format_names().text);
    if (!s) qsort(d->files, d->count, sizeof *d->files, by_name);
    return s;
}

static enum status digest_list(struct dataset *d, struct error *err)
{
    size_t len = 0, capacity = 1;
    for (uint32_t i = 0; i < d->count; i++)
        capacity += strlen(d->files[i].name) + 32;
    char *text = malloc(capacity);
    if (!text) return error_set(err, ST_NO_MEMORY_NOW, "no memory to digest %s", d->folder);
    text[0] = 0;
    for (uint32_t i = 0; i < d->count; i++)
        len += (size_t)snprintf(text + len, capacity - len, "%s %lld\n", d->files[i].name,
                                (long long)d->files[i].size);
    enum status s = digest_bytes(d->digest, text, len, err);
    free(text);
    return s;
}

/* ---- decoding ---- */

static enum status read_file(const struct dataset *d, const struct file *f, void **out,
                             struct error *err)
{
    char *path = NULL, *bytes = NULL;
    struct stat st;
    size_t got = 0;
    enum status s = ST_OK;
    int fd = -1;
    if (asprintf(&path, "%s/%s", d->folder, f->name) < 0)
        return error_set(err, ST_NO_MEMORY_NOW, "no memory for a path");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        s = error_set(err, errno == ENOENT ? ST_BAD_FILE : ST_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (st.st_size != f->size || st.st_mtim.tv_sec != f->changed.tv_sec ||
        st.st_mtim.tv_nsec != f->changed.tv_nsec) {
        s = error_set(err, ST_BAD_FILE, "%s: it has changed since training began", path);
        goto done;
    }
    if (st.st_size > LARGEST_FILE_BYTES || !(bytes = malloc((size_t)st.st_size + 1))) {
        s = error_set(err, ST_IO, "%s: %lld bytes are too many", path, (long long)st.st_size);
        goto done;
    }
    while (got < (size_t)st.st_size) {
        ssize_t n = read(fd, bytes + got, (size_t)st.st_size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            s = error_set(err, n ? ST_IO : ST_BAD_FILE, "%s: %s", path,
                          n ? strerror(errno) : "it has changed since training began");
            goto done;
        }
        got += (size_t)n;
    }
    *out = bytes;
    bytes = NULL;
done:
    free(path);
    free(bytes);
    if (fd >= 0) close(fd);
    return s;
}

static uint32_t level(const struct image *img, size_t i)
{
    return img->depth == 16 ? (((const uint16_t *)img->pixels)[i] * 255u + 32767) / 65535
                            : ((const uint8_t *)img->pixels)[i];
}

static uint8_t *rgb_of(const struct image *img)
{
    const size_t px = (size_t)img->width * img->height;
    uint8_t *rgb = malloc(px * 3);
    for (size_t p = 0; rgb && p < px; p++)
        for (size_t c = 0; c < 3; c++)
            rgb[p * 3 + c] = (uint8_t)level(img, p * img->channels + (img->channels < 3 ? 0 : c));
    return rgb;
}

/* Of the green channel, which carries most of the visible detail. */
static uint32_t block_texture(const struct photo *p, uint32_t column, uint32_t row)
{
    uint32_t sum = 0;
    for (uint32_t y = row * TEXTURE_BLOCK; y < (row + 1) * TEXTURE_BLOCK; y++)
        for (uint32_t x = column * TEXTURE_BLOCK; x < (column + 1) * TEXTURE_BLOCK; x++) {
            size_t at = ((size_t)y * p->width + x) * 3 + 1;
            size_t right = x + 1 < p->width ? at + 3 : at;
            size_t below = y + 1 < p->height ? at + 3 * (size_t)p->width : at;
            sum += (uint32_t)abs(p->rgb[right] - p->rgb[at]) +
                   (uint32_t)abs(p->rgb[below] - p->rgb[at]);
        }
    return sum;
}

static uint32_t *texture_of(const struct photo *p)
{
    const size_t line = p->columns + 1;
    uint32_t *sums = calloc(line * (p->rows + 1), sizeof *sums);
    for (uint32_t y = 0; sums && y < p->rows; y++)
        for (uint32_t x = 0; x < p->columns; x++)
            sums[(y + 1) * line + x + 1] = block_texture(p, x, y) + sums[y * line + x + 1] +
                                           sums[(y + 1) * line + x] - sums[y * line + x];
    return sums;
}

double photo_texture(const struct photo *p, uint32_t x, uint32_t y, uint32_t side)
{
    const size_t line = p->columns + 1;
    uint32_t x0 = x / TEXTURE_BLOCK, y0 = y / TEXTURE_BLOCK;
    uint32_t x1 = (x + side) / TEXTURE_BLOCK, y1 = (y + side) / TEXTURE_BLOCK;
    if (x1 > p->columns) x1 = p->columns;
    if (y1 > p->rows) y1 = p->rows;
    if (x1 <= x0 || y1 <= y0) return 0;
    uint32_t sum = p->texture[y1 * line + x1] - p->texture[y0 * line + x1] -
                   p->texture[y1 * line + x0] + p->texture[y0 * line + x0];
    return (double)sum / (2.0 * TEXTURE_BLOCK * TEXTURE_BLOCK * (x1 - x0) * (y1 - y0));
}

static void photo_done(struct photo *p)
{
    free((void *)p->rgb);
    free((void *)p->texture);
    *p = (struct photo){ 0 };
}

static size_t photo_bytes(const struct photo *p)
{
    return (size_t)p->width * p->height * 3 +
           (size_t)(p->columns + 1) * (p->rows + 1) * sizeof *p->texture;
}

/* *unusable: the fault is in the file, which is then excluded; any other failure ends training. */
static enum status decode(const struct dataset *d, const struct file *f, struct photo *out,
                          bool *unusable, struct error *err)
{
    void *bytes = NULL;
    struct image img = { 0 };
    struct photo p = { 0 };
    enum status s = read_file(d, f, &bytes, err);
    if (s) {
        *unusable = s == ST_IO && !f->last_use; /* a file that was read once must stay readable */
        return s;
    }
    s = codec_decode(&img, bytes, (size_t)f->size, LARGEST_PHOTO_PX, err);
    *unusable = s && s != ST_NO_MEMORY_NOW;
    if (!s && (img.width < d->o.least_side || img.height < d->o.least_side)) {
        *unusable = true;
        s = error_set(err, ST_TOO_FEW_PX, "%u x %u px: smaller than a crop of %u px", img.width,
                      img.height, d->o.least_side);
    }
    if (s) goto done;
    p = (struct photo){ .width = img.width,
                        .height = img.height,
                        .rgb = rgb_of(&img),
                        .columns = img.width / TEXTURE_BLOCK,
                        .rows = img.height / TEXTURE_BLOCK };
    if (p.rgb) p.texture = texture_of(&p);
    if (!p.texture) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a photo of %u x %u px", img.width,
                      img.height);
        goto done;
    }
    *out = p;
    p = (struct photo){ 0 };
done:
    photo_done(&p);
    image_done(&img);
    free(bytes);
    return s;
}

/* ---- the cache ---- */

/* Frees the least recently used photos until the cache fits. */
static void evict(struct dataset *d)
{
    while (d->cached_bytes > d->o.cache_bytes) {
        struct file *oldest = NULL;
        for (uint32_t i = 0; i < d->count; i++) {
            struct file *f = &d->files[i];
            if (f->state == FILE_DECODED && f->taken == 0 &&
                (!oldest || f->last_use < oldest->last_use))
                oldest = f;
        }
        if (!oldest) return;
        d->cached_bytes -= photo_bytes(&oldest->photo);
        photo_done(&oldest->photo);
        oldest->state = FILE_RESTING;
    }
}

/* The caller holds the lock; it is released while the file is read. */
static enum status read_photo(struct dataset *d, struct file *f, struct error *err)
{
    struct photo p = { 0 };
    struct error why = { 0 };
    bool unusable = false;
    f->state = FILE_BEING_READ;
    pthread_mutex_unlock(&d->lock);
    enum status s = decode(d, f, &p, &unusable, &why);
    pthread_mutex_lock(&d->lock);
    f->state = FILE_RESTING;
    if (!s) {
        f->photo = p;
        f->state = FILE_DECODED;
        d->cached_bytes += photo_bytes(&p);
    } else if (unusable) {
        f->state = FILE_UNUSABLE;
        d->unusable++;
        if (d->o.complain) d->o.complain(d->o.ctx, f->name, why.detail, d->unusable);
        s = ST_OK;
    } else {
        (void)error_set(err, why.status, "%s", why.detail);
    }
    pthread_cond_broadcast(&d->read);
    return s;
}

enum status dataset_take(struct dataset *d, uint32_t i, const struct photo **out, struct error *err)
{
    struct file *f = &d->files[i];
    enum status s = ST_OK;
    pthread_mutex_lock(&d->lock);
    while (f->state == FILE_BEING_READ)
        pthread_cond_wait(&d->read, &d->lock);
    if (f->state == FILE_RESTING) s = read_photo(d, f, err);
    if (!s) *out = NULL;
    if (!s && f->state == FILE_DECODED) {
        f->taken++;
        f->last_use = ++d->uses;
        *out = &f->photo;
        evict(d);
    }
    pthread_mutex_unlock(&d->lock);
    return s;
}

void dataset_return(struct dataset *d, const struct photo *p)
{
    pthread_mutex_lock(&d->lock);
    ((struct file *)p)->taken--;
    evict(d);
    pthread_mutex_unlock(&d->lock);
}

/* ---- opening and closing ---- */

/* Decodes files until one is usable. */
static enum status find_one(struct dataset *d, struct error *err)
{
    for (uint32_t i = 0; i < d->count; i++) {
        const struct photo *p = NULL;
        enum status s = dataset_take(d, i, &p, err);
        if (s) return s;
        if (!p) continue;
        dataset_return(d, p);
        return ST_OK;
    }
    return error_set(err, ST_BAD_FILE,
                     "%s: none of its %u images can be read and has sides of at least %u px",
                     d->folder, d->count, d->o.least_side);
}

enum status dataset_open(struct dataset **out, const struct dataset_options *o, struct error *err)
{
    struct dataset *d = calloc(1, sizeof *d);
    if (!d) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a dataset");
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->read, NULL);
    d->o = *o;
    d->folder = strdup(o->folder);
    enum status s =
        d->folder ? list(d, err) : error_set(err, ST_NO_MEMORY_NOW, "no memory for a dataset");
    if (!s) s = digest_list(d, err);
    if (!s) s = find_one(d, err);
    if (s)
        dataset_close(d);
    else
        *out = d;
    return s;
}

void dataset_close(struct dataset *d)
{
    if (!d) return;
    for (uint32_t i = 0; i < d->count; i++) {
        photo_done(&d->files[i].photo);
        free(d->files[i].name);
    }
    free(d->files);
    free(d->folder);
    pthread_cond_destroy(&d->read);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

uint32_t dataset_count(const struct dataset *d)
{
    return d->count;
}

uint32_t dataset_unusable(struct dataset *d)
{
    pthread_mutex_lock(&d->lock);
    uint32_t n = d->unusable;
    pthread_mutex_unlock(&d->lock);
    return n;
}

const char *dataset_digest(const struct dataset *d)
{
    return d->digest;
}
