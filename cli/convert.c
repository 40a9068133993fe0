/* david convert: a checkpoint (.pt or .safetensors) to a model file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "engine/engine.h"
#include "proto/models/digest.h"
#include "proto/models/state_dict.h"

static const char about[] =
    "Makes the model file OUT from a checkpoint: a .pt of PyTorch (read, never executed) or a\n"
    ".safetensors. A .pt holds no architecture: --arch names it. Without --task the result is a\n"
    "prior; with --task it is a restorer of these tasks: NAME, or NAME:SIGMA:H, with commas. A\n"
    "model file (without --arch) keeps everything that no option changes: --dtype stores its\n"
    "weights in less space, --tile gives it other tiles.";

/* The tensors of a file of either format; their names lack the checkpoint's prefix. */
struct source {
    struct torch_zip *zip;
    struct safetensors *st;
    struct state_dict state_dict;
    struct st_tensor *tensors;
    size_t n;
    enum dtype dtype; /* of the output */
    struct progress progress;
};

static void source_done(struct source *s)
{
    free(s->tensors);
    state_dict_done(&s->state_dict);
    torch_zip_close(s->zip);
    safetensors_close(s->st);
}

static enum status source_open(struct source *src, const char *path, const char *key,
                               struct error *err)
{
    enum status s;
    const bool is_safetensors = has_extension(path, ".safetensors");
    if (is_safetensors && key && strcmp(key, "flat") != 0)
        return error_set(err, ST_BAD_PARAMETER, "--key %.32s: a .safetensors is flat", key);
    if (is_safetensors) {
        s = safetensors_open(&src->st, path, err);
        if (!s) src->n = safetensors_count(src->st);
    } else {
        s = torch_zip_open(&src->zip, path, err);
        if (!s) s = state_dict_select(&src->state_dict, src->zip, key, err);
        src->n = src->state_dict.n;
    }
    if (s) return s;
    src->tensors = calloc(src->n + 1, sizeof *src->tensors);
    if (!src->tensors) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %zu names", src->n);
    for (size_t i = 0; i < src->n; i++) {
        if (is_safetensors) {
            src->tensors[i] = *safetensors_at(src->st, i);
            continue;
        }
        src->tensors[i] = *torch_zip_at(src->zip, src->state_dict.entries[i].index);
        src->tensors[i].name = src->state_dict.entries[i].name;
    }
    return ST_OK;
}

/* The fill callback of safetensors_write(): tensor i in the dtype of the output. */
static enum status source_fill(void *ctx, size_t i, void *dst, struct error *err)
{
    struct source *src = ctx;
    const struct st_tensor *t = &src->tensors[i];
    enum status s = ST_OK;
    void *raw = NULL;
    const size_t bytes = t->count * dtype_size(t->dtype);
    float *values = malloc(t->count * sizeof *values + 1);
    if (values && src->zip) raw = malloc(bytes + 1);
    if (!values || (src->zip && !raw)) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for tensor %s", t->name);
        goto done;
    }
    if (src->zip) s = torch_zip_read(src->zip, src->state_dict.entries[i].index, raw, err);
    if (s) goto done;
    dtype_to_f32(values, src->zip ? raw : t->data, t->dtype, t->count);
    dtype_from_f32(dst, src->dtype, values, t->count);
    progress_show(&src->progress, i + 1);
done:
    free(raw);
    free(values);
    return s;
}

/* The metadata of the file, or that of a prior of the named architecture. */
static enum status choose_info(struct model_info *out, const struct source *src, const char *arch,
                               struct error *err)
{
    if (arch) {
        struct error why = { 0 };
        *out = (struct model_info){ .role = ROLE_PRIOR };
        if (unet_arch_parse(&out->arch, arch, &why) == ST_OK) return ST_OK;
        return error_set(err, ST_BAD_PARAMETER, "--arch: %s", why.detail);
    }
    if (!src->st)
        return error_set(err, ST_BAD_PARAMETER,
                         "a .pt holds no architecture: --arch ffhq256, imagenet256 or JSON");
    return model_info_read(out, src->st, err);
}

/* "denoise,sr4:0.05:0.1" */
static void parse_tasks(struct model_info *info, const char *command, const char *text)
{
    char one[TASK_NAME_MAX + 64];
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, ",");
        if (len == 0 || len >= sizeof one || info->n_tasks == MODEL_MAX_TASKS)
            usage_error(command, "--task %.64s: names with commas, at most %d", text,
                        MODEL_MAX_TASKS);
        memcpy(one, at, len);
        one[len] = 0;
        struct model_task *t = &info->tasks[info->n_tasks++];
        struct error err = { 0 };
        char *colon = strchr(one, ':'), rest;
        if (colon) *colon = 0;
        if (task_defaults(t, one, &err)) usage_error(command, "--task: %s", err.detail);
        if (colon && sscanf(colon + 1, "%lf:%lf%c", &t->sigma, &t->h, &rest) != 2)
            usage_error(command, "--task %.64s: NAME or NAME:SIGMA:H is needed", at);
        t->sigma_range[0] = t->sigma_range[1] = t->sigma;
        if (info->arch.class_cond) t->label = 0;
        at += len + (at[len] == ',');
    }
}

/* Malloc'd JSON text. before: the file's own provenance, which the text includes, or NULL. The text
 * is spliced, because jansson would write its numbers with other digits; no other part needs an
 * escape. */
static char *provenance(const char *path, const char *key, const char *before, struct error *err)
{
    char digest[DIGEST_HEX], *text = NULL;
    if (digest_file(digest, path, err)) return NULL;
    if (asprintf(&text,
                 "{\"converted_from\":{\"sha256\":\"%s\",\"key\":\"%s\"%s%s},\"by\":"
                 "\"david " DAVID_VERSION "\"}",
                 digest, key, before ? ",\"provenance\":" : "", before ? before : "") < 0) {
        error_set(err, ST_NO_MEMORY_NOW, "no memory for the provenance");
        return NULL;
    }
    return text;
}

/* The digest is that of the file on the disk. */
static enum status report(bool is_json, const char *path, const struct st_tensor *tensors, size_t n,
                          struct error *err)
{
    char digest[DIGEST_HEX];
    uint64_t parameters = 0;
    enum status s = digest_file(digest, path, err);
    if (s) return s;
    for (size_t i = 0; i < n; i++)
        parameters += tensors[i].count;
    const char *dtype = dtype_name(tensors[0].dtype);
    if (is_json)
        return json_print(json_pack("{s:s, s:I, s:I, s:s}", "digest", digest, "parameters",
                                    (json_int_t)parameters, "tensors", (json_int_t)n, "dtype",
                                    dtype),
                          err);
    fprintf(stderr, "digest %s, %" PRIu64 " parameters in %zu tensors, %s\n", digest, parameters, n,
            dtype);
    return ST_OK;
}

int cmd_convert(int argc, char **argv)
{
    const char *arch = NULL, *key = NULL, *dtype = "f32", *tasks = NULL, *schedule = NULL;
    uint32_t tile = 0, overlap = 0, margin = 0;
    bool has_overlap = false, has_margin = false, is_json = false;
    const struct option_row rows[] = {
        { "arch", OPTION_TEXT, &arch, "A", "ffhq256, imagenet256 or JSON", 0, 0, NULL },
        { "key", OPTION_TEXT, &key, "K",
          "ema, implicit or flat (ema where the file has it, else flat)", 0, 0, NULL },
        { "dtype", OPTION_TEXT, &dtype, "D", "f32, bf16 or f16 (f32)", 0, 0, NULL },
        { "task", OPTION_TEXT, &tasks, "LIST", "the tasks of a restorer", 0, 0, NULL },
        { "tile", OPTION_COUNT, &tile, "PX", "side of a tile (image_size)", 8, 4096, NULL },
        { "overlap", OPTION_COUNT, &overlap, "PX", "of neighbouring tiles (tile / 4, even)", 0,
          4096, &has_overlap },
        { "margin", OPTION_COUNT, &margin, "PX", "mirrored around an image before it is cut (0)", 0,
          4096, &has_margin },
        { "schedule", OPTION_TEXT, &schedule, "S", "davi or linear (the file's, else davi)", 0, 0,
          NULL },
        { "json", OPTION_FLAG, &is_json, NULL, "facts as one JSON object on stdout", 0, 0, NULL },
    };
    const struct command c = { "convert", "IN OUT", about, rows, sizeof rows / sizeof *rows, 2, 2 };
    int at = options_parse(&c, argc, argv);
    const char *in = argv[at], *out = argv[at + 1];
    struct source src = { .dtype = DT_F32 };
    struct model_info info = { 0 };
    if (strcmp(dtype, "bf16") == 0)
        src.dtype = DT_BF16;
    else if (strcmp(dtype, "f16") == 0)
        src.dtype = DT_F16;
    else if (strcmp(dtype, "f32") != 0)
        usage_error(c.name, "--dtype %.32s is not f32, bf16 or f16", dtype);
    if (schedule && strcmp(schedule, "linear") != 0 && strcmp(schedule, "davi") != 0)
        usage_error(c.name, "--schedule %.32s is not davi or linear", schedule);
    if (!has_extension(out, ".safetensors"))
        usage_error(c.name, "%.256s: the output is a .safetensors", out);

    struct error err = { 0 };
    struct model_metadata meta = { 0 };
    enum status s = output_check(out, &err);
    if (!s) s = source_open(&src, in, key, &err);
    if (!s) s = choose_info(&info, &src, arch, &err);
    if (!s) s = arch_check_tensors(&info.arch, src.tensors, src.n, &err);
    if (s) goto done;
    if (tasks) {
        info.role = ROLE_RESTORER;
        info.n_tasks = 0;
        parse_tasks(&info, c.name, tasks);
    }
    if (schedule) info.schedule = *schedule == 'l' ? SCHEDULE_LINEAR : SCHEDULE_DAVI;
    if (tile || !info.tile_size) {
        info.tile_size = tile ? tile : info.arch.image_size;
        info.tile_overlap = tile_overlap_default(info.tile_size);
    }
    if (has_overlap) info.tile_overlap = overlap;
    if (has_margin) info.tile_margin = margin;
    char *how = provenance(in, src.zip ? src.state_dict.key : "flat", info.provenance, &err);
    if (!how) {
        s = err.status;
        goto done;
    }
    free(info.provenance);
    info.provenance = how;
    s = model_info_metadata(&meta, &info, &err);
    if (s) goto done;
    struct st_tensor *written = calloc(src.n, sizeof *written);
    if (!written) {
        s = error_set(&err, ST_NO_MEMORY_NOW, "no memory for %zu names", src.n);
        goto done;
    }
    for (size_t i = 0; i < src.n; i++) {
        written[i] = src.tensors[i];
        written[i].dtype = src.dtype;
        written[i].data = NULL;
    }
    progress_begin(&src.progress, "tensors", src.n);
    s = safetensors_write(out, written, src.n, meta.meta, meta.n, source_fill, &src, &err);
    progress_end(&src.progress);
    if (!s) s = report(is_json, out, written, src.n, &err);
    free(written);
done:
    model_metadata_done(&meta);
    model_info_done(&info);
    source_done(&src);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
