/* david doctor: what this machine and build have, and what `auto` would take and why. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/session.h"
#include "proto/models/digest.h"
#include "proto/models/model_info.h"

static const char about[] =
    "Tells what david finds here: back ends, processor, GPU and driver, libraries, models, and\n"
    "what --backend auto and --dtype auto would take and why. Exits 1 where auto finds nothing.";

static bool is_json;
static json_t *facts; /* of --json, printed at the end; NULL where memory is out */

/* One fact: a line of text, or a member of the JSON object. */
static void report(const char *key, const char *value)
{
    if (!is_json) {
        printf("%-11s %s\n", key, value);
        return;
    }
    json_t *name = json_of_text(key); /* a file's name may hold any bytes */
    if (!name || json_object_set_new(facts, json_string_value(name), json_of_text(value))) {
        json_decref(facts);
        facts = NULL;
    }
    json_decref(name);
}

static void report_processor(void)
{
    char line[4096], model[128] = "unknown", text[512], isa[128] = "";
    static const char *const flags[] = { "sse4_1",  "avx2",        "fma",
                                         "avx512f", "avx512_bf16", "amx_bf16" };
    FILE *f = fopen("/proc/cpuinfo", "re");
    bool has_flags = false;
    while (f && !has_flags && fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (!value) continue;
        value += 1 + (value[1] == ' ');
        value[strcspn(value, "\n")] = 0;
        if (strncmp(line, "model name", 10) == 0) snprintf(model, sizeof model, "%.120s", value);
        if (strncmp(line, "flags", 5) != 0) continue;
        has_flags = true;
        char *rest = NULL;
        for (char *word = strtok_r(value, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
            for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
                if (strcmp(word, flags[i]) == 0) {
                    size_t len = strlen(isa);
                    snprintf(isa + len, sizeof isa - len, " %s", word);
                }
    }
    if (f) fclose(f);
    snprintf(text, sizeof text, "%s, %ld online:%s", model, sysconf(_SC_NPROCESSORS_ONLN),
             *isa ? isa : " no vector extensions that are used here");
    report("processor", text);
}

/* The driver is asked by name: david runs, and says so, where there is none. */
static void report_gpu(void)
{
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!cuda) {
        report("gpu", "no CUDA driver (libcuda.so.1 is not installed)");
        return;
    }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(cuda, "cuInit");
    int (*version)(int *) = (int (*)(int *))dlsym(cuda, "cuDriverGetVersion");
    int (*count)(int *) = (int (*)(int *))dlsym(cuda, "cuDeviceGetCount");
    int (*name)(char *, int, int) = (int (*)(char *, int, int))dlsym(cuda, "cuDeviceGetName");
    int v = 0, n = 0, code = -1;
    char text[256], device[128] = "";
    if (init && version && count && name) code = init(0);
    if (code == 0) code = version(&v);
    if (code == 0) code = count(&n);
    if (code == 0 && n > 0) code = name(device, (int)sizeof device, 0);
    if (code != 0)
        snprintf(text, sizeof text, "a CUDA driver is there but does not start (error %d)", code);
    else
        snprintf(text, sizeof text, "%d device%s, CUDA driver %d.%d%s%s", n, n == 1 ? "" : "s",
                 v / 1000, v % 1000 / 10, n ? ": " : "", device);
    report("gpu", text);
    dlclose(cuda);
}

/* Versions are asked of the loaded libraries, not of the headers this was built with. */
static void report_libraries(void)
{
    static const struct {
        const char *name, *symbol;
    } texts[] = { { "jansson", "jansson_version_str" },
                  { "libmicrohttpd", "MHD_get_version" },
                  { "libzip", "zip_libzip_version" } };
    char line[256] = "";
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *(*ask)(void) = (const char *(*)(void))dlsym(RTLD_DEFAULT, texts[i].symbol);
        size_t len = strlen(line);
        if (ask)
            snprintf(line + len, sizeof line - len, "%s%s %s", len ? ", " : "", texts[i].name,
                     ask());
    }
    const char *(*png)(const void *) =
        (const char *(*)(const void *))dlsym(RTLD_DEFAULT, "png_get_libpng_ver");
    const char *(*openssl)(int) = (const char *(*)(int))dlsym(RTLD_DEFAULT, "OpenSSL_version");
    size_t len = strlen(line);
    if (png) snprintf(line + len, sizeof line - len, "%slibpng %s", len ? ", " : "", png(NULL));
    len = strlen(line);
    if (openssl) snprintf(line + len, sizeof line - len, "%s%s", len ? ", " : "", openssl(0));
    report("libraries", *line ? line : "linked into the program");
}

static bool report_engine(const char *backend)
{
    const struct engine_options o = { .backend = backend };
    struct engine *e = NULL;
    struct error err = { 0 };
    char text[640];
    const bool is_there = engine_open(&e, &o, &err) == ST_OK;
    if (!is_there) {
        snprintf(text, sizeof text, "not to be had: %s", err.detail);
    } else {
        const struct engine_facts *f = engine_describe(e);
        snprintf(text, sizeof text, "%s, %d threads, %s", f->isa, f->threads, f->reason);
        engine_close(e);
    }
    report(backend, text);
    return is_there;
}

static void report_model(const char *folder, const char *file)
{
    char path[PATH_MAX], digest[DIGEST_HEX], text[1024], tasks[256] = "";
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    struct error err = { 0 };
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path) return;
    enum status s = safetensors_open(&st, path, &err);
    if (!s) s = model_info_read(&info, st, &err);
    if (!s) s = digest_file(digest, path, &err);
    for (uint32_t i = 0; !s && i < info.n_tasks; i++) {
        size_t len = strlen(tasks);
        snprintf(tasks + len, sizeof tasks - len, " %s", info.tasks[i].name);
    }
    if (s)
        snprintf(text, sizeof text, "refused: %s", err.detail);
    else
        snprintf(text, sizeof text, "%.12s, %s, tasks:%s", digest,
                 info.role == ROLE_PRIOR ? "prior" : "restorer", *tasks ? tasks : " none");
    report(file, text);
    model_info_done(&info);
    safetensors_close(st);
}

static void report_models(void)
{
    char folder[PATH_MAX];
    struct error err = { 0 };
    if (models_folder(folder, &err)) {
        report("models", err.detail);
        return;
    }
    report("models", folder);
    struct dirent **all = NULL;
    int n = scandir(folder, &all, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char newest[PATH_MAX];
        if (all[i]->d_name[0] != '.' && has_extension(all[i]->d_name, ".safetensors"))
            report_model(folder, all[i]->d_name);
        else if (model_path(newest, all[i]->d_name, &err) == ST_OK)
            report_model(folder, newest + strlen(folder) + 1); /* NAME/VERSION.safetensors */
        free(all[i]);
    }
    free(all);
}

int cmd_doctor(int argc, char **argv)
{
    struct error err = { 0 };
    const struct option_row rows[] = {
        { "json", OPTION_FLAG, &is_json, NULL, "one JSON object", 0, 0, NULL },
    };
    const struct command c = { "doctor", "", about, rows, sizeof rows / sizeof *rows, 0, 0 };
    options_parse(&c, argc, argv);
    if (is_json) facts = json_object();
    report("david", DAVID_VERSION);
    report_processor();
    report_gpu();
    report_libraries();
    const bool can_restore = report_engine("auto");
    report_engine("cpu");
    report_engine("cuda");
    report_models();
    if (is_json && json_print(facts, &err)) return report_error(c.name, &err);
    const int code = finish_stdout(c.name);
    return can_restore ? code : EXIT_FAILED;
}
