/* david inspect: what a model file is. */
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
    "Tells what FILE is: architecture, role, tasks, tile, provenance, digest, parameters.\n"
    "Of a .pt it lists the tensors and nothing else, since a .pt holds nothing else.";

static void print_json(const struct model_info *m, const char *arch, const char *digest,
                       const char *dtype, uint64_t params, size_t tensors)
{
    printf("{\"digest\":\"%s\",\"role\":\"%s\",\"parameters\":%" PRIu64
           ",\"tensors\":%zu,\"dtype\":\"%s\",\"arch\":%s,\"tasks\":{",
           digest, m->role == ROLE_PRIOR ? "prior" : "restorer", params, tensors, dtype, arch);
    for (uint32_t i = 0; i < m->n_tasks; i++) {
        fputs(i ? "," : "", stdout);
        json_text(stdout, m->tasks[i].name);
        const struct model_task *t = &m->tasks[i];
        printf(":{\"sigma\":%.9g,\"h\":%.9g,\"label\":", t->sigma, t->h);
        if (t->label < 0)
            fputs("null", stdout);
        else
            printf("%d", t->label);
        if (t->sigma_range[0] < t->sigma_range[1])
            printf(",\"sigma_range\":[%.9g,%.9g]", t->sigma_range[0], t->sigma_range[1]);
        if (t->level > 0)
            printf(",\"level\":%.9g,\"level_range\":[%.9g,%.9g]", t->level, t->level_range[0],
                   t->level_range[1]);
        putchar('}');
    }
    printf("},\"tile\":{\"size\":%u,\"overlap\":%u,\"margin\":%u},\"schedule\":\"%s\","
           "\"provenance\":%s,"
           "\"metrics\":%s}\n",
           m->tile_size, m->tile_overlap, m->tile_margin,
           m->schedule == SCHEDULE_DAVI ? "davi" : "linear", m->provenance ? m->provenance : "null",
           m->metrics ? m->metrics : "null");
}

static void print_text(const struct model_info *m, const char *arch, const char *digest,
                       const char *dtype, uint64_t params, size_t tensors)
{
    printf("digest      %s\nrole        %s\nparameters  %" PRIu64 " in %zu tensors, %s\n"
           "arch        %s\n",
           digest, m->role == ROLE_PRIOR ? "prior" : "restorer", params, tensors, dtype, arch);
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
    char digest[DIGEST_HEX], *arch = NULL;
    uint64_t params = 0;
    enum status s = safetensors_open(&st, path, err);
    if (!s) s = model_info_read(&info, st, err);
    if (!s) s = digest_file(digest, path, err);
    if (s) goto done;
    arch = unet_arch_json(&info.arch);
    if (!arch) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for the architecture");
        goto done;
    }
    const size_t n = safetensors_count(st);
    const char *dtype = n ? dtype_name(safetensors_at(st, 0)->dtype) : "none";
    for (size_t i = 0; i < n; i++) {
        params += safetensors_at(st, i)->count;
        if (strcmp(dtype, dtype_name(safetensors_at(st, i)->dtype)) != 0) dtype = "mixed";
    }
    (is_json ? print_json : print_text)(&info, arch, digest, dtype, params, n);
done:
    free(arch);
    model_info_done(&info);
    safetensors_close(st);
    return s;
}

static void print_tensor(const struct st_tensor *t, bool is_json, bool is_first)
{
    if (is_json) {
        fputs(is_first ? "{\"name\":" : ",{\"name\":", stdout);
        json_text(stdout, t->name);
        printf(",\"dtype\":\"%s\",\"shape\":[", dtype_name(t->dtype));
    } else
        printf("%-64s %-5s [", t->name, dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->dims; i++)
        printf("%s%" PRIu64, i ? "," : "", t->shape[i]);
    fputs(is_json ? "]}" : "]\n", stdout);
}

static enum status inspect_checkpoint(const char *path, bool is_json, struct error *err)
{
    struct torch_zip *z = NULL;
    char digest[DIGEST_HEX];
    enum status s = torch_zip_open(&z, path, err);
    if (!s) s = digest_file(digest, path, err);
    if (s) goto done;
    if (is_json)
        printf("{\"digest\":\"%s\",\"tensors\":[", digest);
    else
        printf("digest %s\n", digest);
    for (size_t i = 0; i < torch_zip_count(z); i++)
        print_tensor(torch_zip_at(z, i), is_json, i == 0);
    if (is_json) fputs("]}\n", stdout);
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
