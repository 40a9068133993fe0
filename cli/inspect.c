/* david inspect: prints the metadata and the tensors of a model file or checkpoint. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/options.h"
#include "proto/models/digest.h"
#include "proto/models/model_info.h"
#include "proto/models/safetensors.h"
#include "proto/models/torch_zip.h"

static const char about[] =
    "Prints the architecture, role, tasks, tile, provenance, digest and parameters of FILE.\n"
    "Of a .pt it lists the tensors, since a .pt holds nothing else.";

/* Facts of the file that are not in its metadata. */
struct counts {
    char digest[DIGEST_HEX];
    const char *dtype; /* "F32"; "mixed"; "none" */
    uint64_t parameters;
    size_t tensors;
};

static json_t *range_value(const double range[2])
{
    return json_pack("[o, o]", json_of_number(range[0]), json_of_number(range[1]));
}

static json_t *task_value(const struct model_task *t)
{
    json_t *v =
        json_pack("{s:o, s:o, s:o}", "sigma", json_of_number(t->sigma), "h", json_of_number(t->h),
                  "label", t->label < 0 ? json_null() : json_integer(t->label));
    bool ok = v != NULL;
    if (t->sigma_range[0] < t->sigma_range[1])
        ok = ok && !json_object_set_new(v, "sigma_range", range_value(t->sigma_range));
    if (t->level > 0)
        ok = ok && !json_object_set_new(v, "level", json_of_number(t->level)) &&
             !json_object_set_new(v, "level_range", range_value(t->level_range));
    if (ok) return v;
    json_decref(v);
    return NULL;
}

static json_t *tasks_value(const struct model_info *m)
{
    json_t *tasks = json_object();
    for (uint32_t i = 0; tasks && i < m->n_tasks; i++)
        if (json_object_set_new(tasks, m->tasks[i].name, task_value(&m->tasks[i]))) {
            json_decref(tasks);
            tasks = NULL;
        }
    return tasks;
}

static enum status print_json(const struct model_info *m, const char *arch, const struct counts *n,
                              struct error *err)
{
    return json_print(
        json_pack("{s:s, s:s, s:I, s:I, s:s, s:o, s:o, s:{s:i, s:i, s:i}, s:s, s:o, s:o}", "digest",
                  n->digest, "role", m->role == ROLE_PRIOR ? "prior" : "restorer", "parameters",
                  (json_int_t)n->parameters, "tensors", (json_int_t)n->tensors, "dtype", n->dtype,
                  "arch", json_of_source(arch), "tasks", tasks_value(m), "tile", "size",
                  (int)m->tile_size, "overlap", (int)m->tile_overlap, "margin", (int)m->tile_margin,
                  "schedule", m->schedule == SCHEDULE_DAVI ? "davi" : "linear", "provenance",
                  json_of_source(m->provenance), "metrics", json_of_source(m->metrics)),
        err);
}

static void print_text(const struct model_info *m, const char *arch, const struct counts *n)
{
    printf("digest      %s\nrole        %s\nparameters  %" PRIu64 " in %zu tensors, %s\n"
           "arch        %s\n",
           n->digest, m->role == ROLE_PRIOR ? "prior" : "restorer", n->parameters, n->tensors,
           n->dtype, arch);
    for (uint32_t i = 0; i < m->n_tasks; i++) {
        const struct model_task *t = &m->tasks[i];
        printf("task        %s, sigma %g", t->name, t->sigma);
        if (t->sigma_range[0] < t->sigma_range[1])
            printf(" (%g to %g)", t->sigma_range[0], t->sigma_range[1]);
        if (t->level > 0) printf(", level %g", t->level);
        if (t->level_range[0] < t->level_range[1])
            printf(" (%g to %g)", t->level_range[0], t->level_range[1]);
        printf(", h %g\n", t->h);
    }
    printf("tile        %u px, overlap %u px, margin %u px\nschedule    %s\nprovenance  "
           "%s\nmetrics     %s\n",
           m->tile_size, m->tile_overlap, m->tile_margin,
           m->schedule == SCHEDULE_DAVI ? "davi" : "linear", m->provenance ? m->provenance : "none",
           m->metrics ? m->metrics : "none");
}

static enum status inspect_model(const char *path, bool is_json, struct error *err)
{
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    struct counts n = { 0 };
    char *arch = NULL;
    enum status s = safetensors_open(&st, path, err);
    if (!s) s = model_info_read(&info, st, err);
    if (!s) s = digest_file(n.digest, path, err);
    if (s) goto done;
    arch = unet_arch_json(&info.arch);
    if (!arch) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for the architecture");
        goto done;
    }
    n.tensors = safetensors_count(st);
    n.dtype = n.tensors ? dtype_name(safetensors_at(st, 0)->dtype) : "none";
    for (size_t i = 0; i < n.tensors; i++) {
        n.parameters += safetensors_at(st, i)->count;
        if (strcmp(n.dtype, dtype_name(safetensors_at(st, i)->dtype)) != 0) n.dtype = "mixed";
    }
    if (is_json)
        s = print_json(&info, arch, &n, err);
    else
        print_text(&info, arch, &n);
done:
    free(arch);
    model_info_done(&info);
    safetensors_close(st);
    return s;
}

static json_t *tensor_value(const struct st_tensor *t)
{
    json_t *shape = json_array();
    bool ok = shape != NULL;
    for (uint32_t i = 0; i < t->dims; i++)
        ok = ok && !json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    if (!ok) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:o, s:s, s:o}", "name", json_of_text(t->name), "dtype",
                     dtype_name(t->dtype), "shape", shape);
}

static enum status print_checkpoint_json(const struct torch_zip *z, const char *digest,
                                         struct error *err)
{
    json_t *tensors = json_array();
    for (size_t i = 0; tensors && i < torch_zip_count(z); i++)
        if (json_array_append_new(tensors, tensor_value(torch_zip_at(z, i)))) {
            json_decref(tensors);
            tensors = NULL;
        }
    return json_print(json_pack("{s:s, s:o}", "digest", digest, "tensors", tensors), err);
}

static void print_checkpoint_text(const struct torch_zip *z, const char *digest)
{
    printf("digest %s\n", digest);
    for (size_t i = 0; i < torch_zip_count(z); i++) {
        const struct st_tensor *t = torch_zip_at(z, i);
        printf("%-64s %-5s [", t->name, dtype_name(t->dtype));
        for (uint32_t d = 0; d < t->dims; d++)
            printf("%s%" PRIu64, d ? "," : "", t->shape[d]);
        fputs("]\n", stdout);
    }
}

static enum status inspect_checkpoint(const char *path, bool is_json, struct error *err)
{
    struct torch_zip *z = NULL;
    char digest[DIGEST_HEX];
    enum status s = torch_zip_open(&z, path, err);
    if (!s) s = digest_file(digest, path, err);
    if (s) goto done;
    if (is_json)
        s = print_checkpoint_json(z, digest, err);
    else
        print_checkpoint_text(z, digest);
done:
    torch_zip_close(z);
    return s;
}

int cmd_inspect(int argc, char **argv)
{
    bool is_json = false;
    const struct option_row rows[] = {
        { "json", OPTION_FLAG, &is_json, NULL, "one JSON object", 0, 0, NULL },
    };
    const struct command c = { "inspect", "FILE", about, rows, sizeof rows / sizeof *rows, 1, 1 };
    int at = options_parse(&c, argc, argv);
    struct error err = { 0 };
    char path[PATH_MAX];
    const bool is_pt = has_extension(argv[at], ".pt") || has_extension(argv[at], ".pth");
    enum status s = is_pt ? ST_OK : model_path(path, argv[at], &err);
    if (!s)
        s = is_pt ? inspect_checkpoint(argv[at], is_json, &err)
                  : inspect_model(path, is_json, &err);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
