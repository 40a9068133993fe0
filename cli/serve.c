/* david serve: reads the settings from flags, environment and file, and runs the daemon or
 * prints them. */
#include "server/serve.h"

#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"

static const char *from_environment(const char *name)
{
    return getenv(name);
}

static void help(void)
{
    (void)printf(
        "Usage: david serve [--config FILE] [--NAME VALUE ...] [--print-config [--json]]\n\n"
        "Serves restorations over HTTP until SIGTERM. A setting comes from its flag, else "
        "DAVID_NAME,\n"
        "else a line `name = value` of the file (--config or DAVID_CONFIG), else its default.\n\n");
    for (int i = 0; i < CONFIG_COUNT; i++) {
        char flag[CONFIG_NAME_MAX];
        (void)snprintf(flag, sizeof flag, "%s", config_name((enum config_index)i));
        for (char *p = flag; *p; p++)
            if (*p == '_') *p = '-';
        (void)printf("  --%-18s %s [%s]\n", flag, config_help((enum config_index)i),
                     config_default((enum config_index)i));
    }
    (void)printf("  --%-18s %s\n  --%-18s %s\n  --%-18s %s\n", "print-config",
                 "print every setting and where it came from", "json",
                 "with --print-config: one JSON object", "help", "this text");
}

static int usage(const char *text, const char *detail)
{
    (void)fprintf(stderr, "david serve: %s%s; see --help\n", text, detail);
    return 2;
}

struct request {
    const char *file; /* of settings; NULL: none */
    bool is_help, is_print, is_json;
};

/* Reads the switches and the name of the file; where `settings` is not NULL, the settings too. */
static enum status read_flags(struct request *r, struct config *settings, int argc, char **argv,
                              struct error *err)
{
    for (int i = 1; i < argc; i++) {
        char name[CONFIG_NAME_MAX];
        if (strncmp(argv[i], "--", 2) != 0)
            return error_set(err, ST_BAD_PARAMETER, "unexpected argument %.200s", argv[i]);
        const char *text = argv[i] + 2, *equals = strchr(text, '=');
        bool *is_on = strcmp(text, "help") == 0           ? &r->is_help
                      : strcmp(text, "print-config") == 0 ? &r->is_print
                      : strcmp(text, "json") == 0         ? &r->is_json
                                                          : NULL;
        if (is_on) {
            *is_on = true;
            continue;
        }
        size_t n = equals ? (size_t)(equals - text) : strlen(text);
        if (n >= sizeof name)
            return error_set(err, ST_BAD_PARAMETER, "unknown option %.200s", argv[i]);
        memcpy(name, text, n);
        name[n] = '\0';
        bool is_file = strcmp(name, "config") == 0;
        if (!is_file && config_find(name) == CONFIG_COUNT)
            return error_set(err, ST_BAD_PARAMETER, "there is no option --%s", name);
        const char *value = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!value) return error_set(err, ST_BAD_PARAMETER, "a value is missing after --%s", name);
        if (is_file)
            r->file = value;
        else if (settings && config_set(settings, name, value, FROM_FLAG, err))
            return err->status;
    }
    return ST_OK;
}

static enum status read_settings(struct config *c, struct request *r, int argc, char **argv,
                                 struct error *err)
{
    config_init(c);
    r->file = getenv("DAVID_CONFIG");
    /* The flags are read twice: the file that they name is weaker than they are. */
    enum status s = read_flags(r, NULL, argc, argv, err);
    if (s || r->is_help) return s;
    if (r->is_json && !r->is_print)
        return error_set(err, ST_BAD_PARAMETER, "--json goes with --print-config");
    if (r->file) s = config_read_file(c, r->file, err);
    if (!s) s = config_read_environment(c, from_environment, err);
    if (!s) s = read_flags(r, c, argc, argv, err);
    return s;
}

int cmd_serve(int argc, char **argv)
{
    static struct config config;
    struct error err = { 0 };
    struct request r = { 0 };
    char folder[PATH_MAX];
    if (read_settings(&config, &r, argc, argv, &err)) return usage(err.detail, "");
    if (r.is_help) {
        help();
        return fflush(stdout) ? 1 : 0;
    }
    config_resolve(&config);
    if (config.models[0] == '\0') {
        enum status s = models_folder(folder, &err);
        if (!s) s = config_set(&config, "models", folder, FROM_MACHINE, &err);
        if (s && !r.is_print) {
            (void)fprintf(stderr, "david serve: %s\n", err.detail);
            return 1;
        }
    }
    if (r.is_print) {
        if (r.is_json)
            config_print_json(&config, stdout);
        else
            config_print(&config, stdout);
        return fflush(stdout) ? 1 : 0;
    }
    return serve_run(&config);
}
