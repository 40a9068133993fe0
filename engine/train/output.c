/* What a run leaves, and where: the model file, and sheets of images. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/graph/device.h"
#include "engine/train/trainer.h"
#include "proto/atomic_file.h"
#include "proto/images/codec.h"

/* ---- the model ---- */

struct weights {
    const struct trainable *l;
    const float *values;
};

static enum status fill(void *ctx, size_t i, void *dst, struct error *err)
{
    const struct weights *w = ctx;
    return device_copy_out(w->l->b, dst, w->values + w->l->layout.offset[i],
                           w->l->g->params[i].count * sizeof(float), err);
}

/* JSON of a path's last part: what is not plain is left out. */
static void plain(char *to, size_t len, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = 0;
    if (slash && !slash[1]) slash = NULL;
    for (const char *c = slash ? slash + 1 : path; *c && n + 1 < len; c++)
        if ((unsigned char)*c >= 0x20 && *c != '"' && *c != '\\' && (unsigned char)*c < 0x7f)
            to[n++] = *c;
    to[n] = 0;
}

static char *provenance(const struct trainer *t)
{
    char data[128], objective[128], tasks[256], recipe[1024], *text = NULL;
    const struct train_options *o = &t->o;
    plain(data, sizeof data, o->data);
    plain(objective, sizeof objective, o->objective ? o->objective : "davi");
    plain(tasks, sizeof tasks, o->tasks ? o->tasks : "");
    recipe[0] = 0;
    if (o->kind == TRAIN_DAVI)
        (void)snprintf(
            recipe, sizeof recipe,
            ", \"objective\": \"%s\", \"tasks\": \"%s\", \"regression\": \"%s\", "
            "\"energy_distance\": \"%s\", \"warmup\": %" PRIu64 ", \"decay\": %" PRIu64
            ", \"lr_end\": %.6g, \"clip\": %.6g, \"average_decay\": %.6g, "
            "\"weight_decay\": %.6g, \"jitter\": %.6g, \"texture\": %.6g, \"weight_con\": %.6g, "
            "\"reg_coeff\": %.6g, \"t_ikl\": %.6g",
            objective, tasks, o->regression_l2 ? "l2" : "l1", o->energy_norm ? "norm" : "l1",
            o->warmup, o->decay, o->lr_end, o->clip, o->average_decay, o->weight_decay, o->jitter,
            o->texture, o->weight_con, o->reg_coeff, o->t_ikl);
    if (asprintf(
            &text,
            "{\"data\": \"%s\", \"data_digest\": \"%s\", \"kind\": \"%s\", \"steps\": %" PRIu64
            ", \"batch\": %u, \"micro_batch\": %u, \"size\": %u, \"lr\": %.17g, \"seed\": %" PRIu64
            ", \"dtype\": \"%s\", \"parent\": %s%s%s%s}",
            data, dataset_digest(t->dataset), t->o.kind == TRAIN_DAVI ? "davi" : "prior",
            t->checkpoint.step, t->o.batch, t->o.micro_batch, t->side, t->o.lr, t->o.seed,
            dtype_name(t->engine->dtype), *t->parent ? "\"" : "", *t->parent ? t->parent : "null",
            *t->parent ? "\"" : "", recipe) < 0)
        return NULL;
    return text;
}

enum status write_model(struct trainer *t, const char *path, struct error *err)
{
    const struct trainable *l = &t->nets[NET_GENERATOR];
    struct weights w = { l, l->average ? l->average : l->params };
    struct model_metadata meta = { 0 };
    struct st_tensor *tensors = calloc(l->g->n_params, sizeof *tensors);
    free(t->info.provenance);
    t->info.provenance = provenance(t);
    enum status s = tensors && t->info.provenance
                        ? model_info_metadata(&meta, &t->info, err)
                        : error_set(err, ST_NO_MEMORY_NOW, "no memory to write %s", path);
    for (uint32_t i = 0; !s && i < l->g->n_params; i++) {
        const struct param_desc *d = &l->g->params[i];
        tensors[i] = (struct st_tensor){
            .name = d->name, .dtype = DT_F32, .dims = d->dims, .count = d->count
        };
        for (uint32_t k = 0; k < d->dims; k++)
            tensors[i].shape[k] = d->shape[k];
    }
    if (!s) s = safetensors_write(path, tensors, l->g->n_params, meta.meta, meta.n, fill, &w, err);
    model_metadata_done(&meta);
    free(tensors);
    return s;
}

/* ---- places ---- */

/* Whether a name is one that atomic_file gives to what it is writing: ".NAME.<16 hex digits>.tmp". */
static bool is_leftover(const char *name, const char *target)
{
    const size_t digits = 16, end = sizeof ".tmp" - 1, len = strlen(name);
    if (len < 2 + digits + end || name[0] != '.' || strcmp(name + len - end, ".tmp") != 0)
        return false;
    const char *number = name + len - end - digits;
    const size_t target_len = (size_t)(number - name) - 2;
    if (number[-1] != '.' || strspn(number, "0123456789abcdef") != digits) return false;
    if (target) return strlen(target) == target_len && memcmp(name + 1, target, target_len) == 0;
    return strncmp(name + 1, "step-", 5) == 0 || strncmp(name + 1, "sheet-", 6) == 0 ||
           strncmp(name + 1, "best.", 5) == 0;
}

/* target: the file that was written; NULL: checkpoints and sheets. */
static void remove_leftovers(const char *folder, const char *target)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (is_leftover(e->d_name, target)) (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
}

static enum status check_folder(const char *folder, struct error *err)
{
    if (access(folder, W_OK | X_OK) == 0) return ST_OK;
    return error_set(err, ST_IO, "%s: nothing can be written into it: %s", folder, strerror(errno));
}

/* The folder of the model's file, with its slash; *name: the rest of the path. */
static bool folder_of_model(const struct trainer *t, char folder[PATH_MAX], const char **name)
{
    const char *slash = strrchr(t->o.out, '/');
    *name = slash ? slash + 1 : t->o.out;
    return snprintf(folder, PATH_MAX, "%.*s", slash ? (int)(*name - t->o.out) : 1,
                    slash ? t->o.out : ".") < PATH_MAX &&
           **name;
}

/* The model's file: better to hear now than after the last step that it cannot be. */
static enum status check_model_file(const struct trainer *t, struct error *err)
{
    struct stat st;
    struct model_metadata meta = { 0 };
    char folder[PATH_MAX];
    const char *name;
    if (stat(t->o.out, &st) == 0 && !S_ISREG(st.st_mode))
        return error_set(err, ST_IO, "%s: it is there and is not a regular file", t->o.out);
    if (!folder_of_model(t, folder, &name))
        return error_set(err, ST_IO, "%s: it names no file", t->o.out);
    enum status s = check_folder(folder, err);
    if (!s) s = model_info_metadata(&meta, &t->info, err);
    model_metadata_done(&meta);
    return s;
}

enum status take_places(const struct trainer *t, int *lock, struct error *err)
{
    char of_model[PATH_MAX];
    const char *name;
    enum status s = check_model_file(t, err);
    if (s) return s;
    if (mkdir(t->folder, 0777) && errno != EEXIST)
        return error_set(err, ST_IO, "%s: %s", t->folder, strerror(errno));
    s = check_folder(t->folder, err);
    if (s) return s;
    int fd = open(t->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return error_set(err, ST_IO, "%s: %s", t->folder, strerror(errno));
    /* A file system that knows no locks is no reason not to train. */
    if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(fd);
        return error_set(err, ST_IO, "%s: another run is writing into it", t->folder);
    }
    remove_leftovers(t->folder, NULL);
    if (folder_of_model(t, of_model, &name)) remove_leftovers(of_model, name);
    *lock = fd;
    return ST_OK;
}

void release_places(int lock)
{
    if (lock >= 0) close(lock);
}

/* ---- images ---- */

enum { GAP = 2 };

enum status image_grid(struct image *out, const float *const *images, uint32_t count,
                       uint32_t columns, uint32_t side, struct error *err)
{
    const uint32_t lines = (count + columns - 1) / columns;
    struct image img = { 0 };
    enum status s =
        image_init(&img, columns * (side + GAP) - GAP, lines * (side + GAP) - GAP, 3, 8, err);
    if (s) return s;
    for (uint32_t i = 0; i < count; i++)
        for (size_t y = 0; y < side; y++)
            for (size_t x = 0; x < (size_t)side * 3; x++) {
                double v = ((double)images[i][y * side * 3 + x] + 1) * 127.5;
                size_t row = (size_t)(i / columns) * (side + GAP) + y;
                size_t at = (row * img.width + (size_t)(i % columns) * (side + GAP)) * 3 + x;
                ((uint8_t *)img.pixels)[at] = (uint8_t)lrint(v < 0 ? 0 : v > 255 ? 255 : v);
            }
    *out = img;
    return ST_OK;
}

/* DAVI: truth, what the network took, what it made of it. A prior: truth, that with noise, what it sees in it. */
static void columns_of(const struct trainer *t, const struct batch *batch, size_t at,
                       const float *x0, const float *columns[3])
{
    const bool davi = t->o.kind == TRAIN_DAVI;
    const size_t in_micro = at % ((size_t)t->o.micro_batch * t->side * t->side * 3);
    columns[0] = batch->x + at;
    columns[1] = davi ? batch->y_in + at : t->x_t + in_micro;
    columns[2] = !davi                  ? x0 + in_micro
                 : trainer_is_direct(t) ? t->direct.answer.pred + in_micro
                                        : t->davi.answer.pred + in_micro;
}

/* Of a prior's last micro-batch: the noise that it sees taken off again. */
static void predict_clean(const struct trainer *t, float *x0)
{
    const size_t each = (size_t)t->side * t->side * 3;
    for (uint32_t n = 0; n < t->o.micro_batch; n++) {
        const double signal = t->schedule->alpha_bar[t->last_t[n]];
        for (size_t i = n * each; i < (n + 1) * each; i++) {
            double eps = (double)t->y[i / 3 * OUTPUT_CHANNELS + i % 3];
            x0[i] = (float)(((double)t->x_t[i] - sqrt(1 - signal) * eps) / sqrt(signal));
        }
    }
}

enum status write_sheet(struct trainer *t, const struct batch *batch, uint32_t micro,
                        struct error *err)
{
    const uint32_t rows = t->o.micro_batch;
    const size_t each = (size_t)t->side * t->side * 3;
    const float **images = calloc((size_t)rows * 3, sizeof *images);
    float *x0 = calloc(rows * each, sizeof *x0);
    struct image img = { 0 };
    char path[PATH_MAX];
    void *bytes = NULL;
    size_t len = 0;
    enum status s =
        images && x0 ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory for a sheet");
    if (s) goto done;
    if (t->o.kind == TRAIN_PRIOR) predict_clean(t, x0);
    for (uint32_t i = 0; i < rows; i++)
        columns_of(t, batch, ((size_t)micro * rows + i) * each, x0, images + 3 * (size_t)i);
    s = image_grid(&img, images, 3 * rows, 3, t->side, err);
    if (!s) s = codec_encode(&bytes, &len, &img, &(struct encode_options){ IMAGE_PNG, -1, 0 }, err);
    (void)snprintf(path, sizeof path, "%.*s/sheet-%09" PRIu64 ".png", PATH_MAX - 64, t->folder,
                   t->checkpoint.step);
    if (!s) s = atomic_file_save(path, bytes, len, err);
done:
    free(bytes);
    image_done(&img);
    free(images);
    free(x0);
    return s;
}
