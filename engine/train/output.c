/* The model file of a run, and the folders that the run writes to. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/graph/backend/device.h"
#include "engine/train/trainer.h"
#include "proto/messages/training_log.h"

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

/* The last part of a path, without the characters that are not printable ASCII, and without quotes
 * and backslashes. */
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
    char data[128], objective[128], tasks[256];
    const struct train_options *o = &t->o;
    plain(data, sizeof data, o->data);
    plain(objective, sizeof objective, o->objective ? o->objective : "davi");
    plain(tasks, sizeof tasks, o->tasks ? o->tasks : "");
    const struct training_provenance p = {
        .data = data,
        .data_digest = dataset_digest(t->dataset),
        .kind = o->kind == TRAIN_DAVI ? "davi" : "prior",
        .dtype = dtype_name(t->engine->dtype),
        .parent = *t->parent ? t->parent : NULL,
        .steps = t->checkpoint.step,
        .seed = o->seed,
        .batch = o->batch,
        .micro_batch = o->micro_batch,
        .size = t->side,
        .lr = o->lr,
        .has_recipe = o->kind == TRAIN_DAVI,
        .objective = objective,
        .tasks = tasks,
        .regression = o->regression_l2 ? "l2" : "l1",
        .energy_distance = o->energy_norm ? "norm" : "l1",
        .warmup = o->warmup,
        .decay = o->decay,
        .lr_end = o->lr_end,
        .clip = o->clip,
        .average_decay = o->average_decay,
        .weight_decay = o->weight_decay,
        .jitter = o->jitter,
        .texture = o->texture,
        .weight_con = o->weight_con,
        .reg_coeff = o->reg_coeff,
        .t_ikl = o->t_ikl,
    };
    return training_provenance_text(&p);
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

/* Whether a name is one of atomic_file's temporary names: ".NAME.<16 hex digits>.tmp". target:
 * NAME, or NULL: any of a checkpoint, a sheet or the best model. */
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

/* target: as of is_leftover. */
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

/* Refuses before the first step a model file that could not be written after the last. */
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
    /* A file system without locks is accepted: flock then fails with another errno. */
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
